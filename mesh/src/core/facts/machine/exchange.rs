//! Finding what was missed: pulls and digests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use shoal_protocol::NodeId;
use shoal_protocol::message::{FactsDigest, FactsPull, FactsVersion};

use super::super::held::version;
use super::super::interface::{FactsMessage, FactsPeer, FactsRefused};
use super::super::parameters::{PULL_PERIOD, PULL_TIMEOUT, PULLS_BURST, RECORDS_MAX};
use super::Facts;

/// A connected peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) kind: FactsPeer,
    /// Pulls that are answered at once, as of `filled`.
    pulls_left: u32,
    filled: Instant,
}

impl Peer {
    pub(super) fn new(kind: FactsPeer, now: Instant) -> Self {
        Self { kind, pulls_left: PULLS_BURST, filled: now }
    }

    /// Takes one pull from the peer's allowance.
    fn take_pull(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.filled).as_millis() / PULL_PERIOD.as_millis();
        if earned > 0 {
            self.filled = now;
            self.pulls_left = u32::try_from(earned).unwrap_or(PULLS_BURST).saturating_add(self.pulls_left);
            self.pulls_left = self.pulls_left.min(PULLS_BURST);
        }
        let left = self.pulls_left.checked_sub(1);
        self.pulls_left = left.unwrap_or(0);
        left.is_some()
    }
}

impl Facts {
    /// Asks `from` for the record of `node`, unless that was done just now.
    pub(super) fn pull(&mut self, from: NodeId, node: NodeId, now: Instant) {
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < PULL_TIMEOUT;
        self.pulls.retain(|_, at| fresh(at));
        if self.pulls.contains_key(&node) || self.pulls.len() >= RECORDS_MAX {
            return;
        }
        self.pulls.insert(node, now);
        self.counters.pulls += 1;
        self.send(vec![from], FactsMessage::Pull(FactsPull { have: self.held.have(node) }));
    }

    /// A peer asks for a record.
    ///
    /// # Errors
    /// See [`FactsRefused`].
    pub fn handle_pull(&mut self, from: NodeId, pull: FactsPull, now: Instant) -> Result<(), FactsRefused> {
        let node = pull.have.node;
        let Some(peer) = self.peers.get_mut(&from) else {
            self.counters.refused += 1;
            return Err(FactsRefused::Stranger(from));
        };
        let own = self.own.as_ref().is_some_and(|own| own.life().node == node);
        if !own && peer.kind != FactsPeer::Follower {
            self.counters.refused += 1;
            return Err(FactsRefused::NotOwner { from, about: node });
        }
        if !peer.take_pull(now) {
            self.counters.pulls_dropped += 1;
        } else if let Some(record) = self.held.get(node).filter(|record| version(record) > pull.have) {
            let message = FactsMessage::Record(record.clone());
            self.send(vec![from], message);
        }
        Ok(())
    }

    /// A peer says what it holds.
    ///
    /// # Errors
    /// See [`FactsRefused`].
    pub fn handle_digest(
        &mut self,
        from: NodeId,
        digest: &FactsDigest,
        now: Instant,
    ) -> Result<(), FactsRefused> {
        match self.peers.get(&from).map(|peer| peer.kind) {
            Some(FactsPeer::Member) => self.compare(from, digest, now),
            Some(FactsPeer::Entry) => self.follow(from, digest, now),
            kind => {
                self.counters.refused += 1;
                let about = digest.entries.first().map_or(from, |entry| entry.node);
                return Err(
                    kind.map_or(FactsRefused::Stranger(from), |_| FactsRefused::NotOwner { from, about })
                );
            }
        }
        Ok(())
    }

    /// A member's digest: owners are asked for what it holds and we lack, and it is told what it lacks.
    fn compare(&mut self, from: NodeId, digest: &FactsDigest, now: Instant) {
        let us = self.own.as_ref().map(|own| own.life().node);
        let theirs: BTreeMap<_, _> = digest.entries.iter().map(|entry| (entry.node, *entry)).collect();
        for entry in theirs
            .values()
            .filter(|entry| Some(entry.node) != us && self.held.lacks(entry))
            .copied()
            .collect::<Vec<_>>()
        {
            if self.peers.get(&entry.node).is_some_and(|peer| peer.kind == FactsPeer::Member) {
                self.pull(entry.node, entry.node, now);
            }
        }
        if digest.answer {
            return;
        }
        let behind = |record: &FactsVersion| theirs.get(&record.node).is_none_or(|theirs| theirs < record);
        let lacks = self.held.iter().map(|record| version(record));
        let lacks: Vec<_> = lacks.filter(|ours| ours.node != from && behind(ours)).collect();
        if lacks.iter().any(|ours| Some(ours.node) == us) {
            self.owed.insert(from, None);
        }
        let entries: Vec<_> = lacks.into_iter().filter(|ours| Some(ours.node) != us).collect();
        if !entries.is_empty() {
            self.send(vec![from], FactsMessage::Digest(Arc::new(FactsDigest { entries, answer: true })));
        }
    }

    /// The digest of the node that this client follows: who is not in it is gone.
    fn follow(&mut self, entry: NodeId, digest: &FactsDigest, now: Instant) {
        let listed: BTreeMap<_, _> = digest.entries.iter().map(|entry| (entry.node, *entry)).collect();
        let gone: Vec<_> =
            self.held.iter().map(|record| record.node).filter(|node| !listed.contains_key(node)).collect();
        for node in gone {
            self.held.remove(node);
            self.changed.insert(node);
        }
        let lacking: Vec<_> =
            listed.values().filter(|theirs| self.held.lacks(theirs)).map(|theirs| theirs.node).collect();
        lacking.into_iter().for_each(|node| self.pull(entry, node, now));
    }

    pub(super) fn digest(&self) -> FactsMessage {
        let entries = self.held.iter().map(|record| version(record)).collect();
        FactsMessage::Digest(Arc::new(FactsDigest { entries, answer: false }))
    }
}
