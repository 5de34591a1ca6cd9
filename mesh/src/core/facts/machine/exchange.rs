//! Finding what was missed: pulls and digests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use shoal_protocol::NodeId;
use shoal_protocol::message::{FactsDigest, FactsPull, FactsVersion};

use super::super::held::version;
use super::super::interface::{FactsMessage, FactsRefused};
use super::super::parameters::{PULL_PERIOD, PULL_TIMEOUT, PULLS_BURST, RECORDS_MAX};
use super::Facts;

/// A connected peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Pulls that are answered at once, as of `filled`.
    pulls_left: u32,
    filled: Instant,
}

impl Peer {
    pub(super) fn new(now: Instant) -> Self {
        Self { pulls_left: PULLS_BURST, filled: now }
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
        if self.own.life().node != node {
            self.counters.refused += 1;
            return Err(FactsRefused::NotOwner { from, about: node });
        }
        if !peer.take_pull(now) {
            self.counters.pulls_dropped += 1;
        } else if version(&self.own.record) > pull.have {
            self.send(vec![from], FactsMessage::Record(self.own.record.clone()));
        }
        Ok(())
    }

    /// A member says what it holds: owners are asked for what we lack of it, and it is told what it lacks.
    ///
    /// # Errors
    /// See [`FactsRefused`].
    pub fn handle_digest(
        &mut self,
        from: NodeId,
        digest: &FactsDigest,
        now: Instant,
    ) -> Result<(), FactsRefused> {
        if !self.peers.contains_key(&from) {
            self.counters.refused += 1;
            return Err(FactsRefused::Stranger(from));
        }
        let us = self.own.life().node;
        let theirs: BTreeMap<_, _> = digest.entries.iter().map(|entry| (entry.node, *entry)).collect();
        let lacked = theirs.values().filter(|entry| entry.node != us && self.held.lacks(entry));
        let owners = lacked.map(|entry| entry.node).filter(|owner| self.peers.contains_key(owner));
        for owner in owners.collect::<Vec<_>>() {
            self.pull(owner, owner, now);
        }
        if digest.answer {
            return Ok(());
        }
        let behind = |record: &FactsVersion| theirs.get(&record.node).is_none_or(|theirs| theirs < record);
        let lacks = self.held.iter().map(|record| version(record));
        let lacks: Vec<_> = lacks.filter(|ours| ours.node != from && behind(ours)).collect();
        if lacks.iter().any(|ours| ours.node == us) {
            self.owed.insert(from);
        }
        let entries: Vec<_> = lacks.into_iter().filter(|ours| ours.node != us).collect();
        if !entries.is_empty() {
            self.send(vec![from], FactsMessage::Digest(Arc::new(FactsDigest { entries, answer: true })));
        }
        Ok(())
    }

    pub(super) fn digest(&self) -> FactsMessage {
        let entries = self.held.iter().map(|record| version(record)).collect();
        FactsMessage::Digest(Arc::new(FactsDigest { entries, answer: false }))
    }
}
