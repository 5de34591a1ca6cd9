//! The machine: who is told what.

mod exchange;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use shoal_protocol::NodeId;
use shoal_protocol::message::{FactsDelta, NodeFacts};

use self::exchange::Peer;
use super::super::member::Life;
use super::held::{Effect, Held};
use super::interface::{FactsCounters, FactsMessage, FactsRefused, FactsSend, OwnFacts};
use super::own::Own;
use super::parameters::{DIGEST_PERIOD, DIGEST_SOON, PEERS_MAX, SENDS_MAX};

/// Everybody's facts: the own record goes to each connected member when it changes, the others' come from their owners.
/// What was missed is found by comparing digests and fetched from the owner. Clients are told by a [`Feed`](super::Feed).
///
/// After every `handle_*` the owner of the machine drains [`poll_send`](Self::poll_send) and
/// [`poll_changed`](Self::poll_changed). It sends in order and reliably while a connection stands; what it has to
/// drop for a slow peer it reports by [`handle_lagged`](Self::handle_lagged).
#[derive(Debug)]
pub struct Facts {
    own: Own,
    held: Held,
    peers: BTreeMap<NodeId, Peer>,
    /// Peers that must be sent the own record whole.
    owed: BTreeSet<NodeId>,
    sends: VecDeque<FactsSend>,
    changed: BTreeSet<NodeId>,
    /// When each missing record was asked for.
    pulls: BTreeMap<NodeId, Instant>,
    digest_at: Instant,
    chance: SmallRng,
    counters: FactsCounters,
}

impl Facts {
    /// The machine of a member. `chance` seeds the choice of whom to compare with.
    #[must_use]
    pub fn new(life: Life, chance: u64, now: Instant) -> Self {
        Self {
            own: Own::new(life),
            held: Held::default(),
            peers: BTreeMap::new(),
            owed: BTreeSet::new(),
            sends: VecDeque::new(),
            changed: BTreeSet::new(),
            pulls: BTreeMap::new(),
            digest_at: now + DIGEST_PERIOD,
            chance: SmallRng::seed_from_u64(chance),
            counters: FactsCounters::default(),
        }
    }

    /// A node's record as it is known here, the own one included.
    #[must_use]
    pub fn record(&self, node: NodeId) -> Option<&Arc<NodeFacts>> {
        self.held.get(node)
    }

    /// All records, by node.
    pub fn records(&self) -> impl Iterator<Item = &Arc<NodeFacts>> {
        self.held.iter()
    }

    /// What happened since the start.
    #[must_use]
    pub fn counters(&self) -> FactsCounters {
        self.counters
    }

    /// This node's facts are these now. They are published at once, or together with what else changes within 100 ms of
    /// the last time.
    ///
    /// # Errors
    /// [`FactsRefused::Limit`]: they could not be sent; what was published stays.
    pub fn handle_own(&mut self, facts: OwnFacts, now: Instant) -> Result<(), FactsRefused> {
        self.own.set(facts, now)?;
        self.publish(now);
        Ok(())
    }

    /// This node goes on under another generation.
    pub fn handle_renewed(&mut self, life: Life, now: Instant) {
        self.own.renew(life, now);
        self.publish(now);
    }

    fn publish(&mut self, now: Instant) {
        let Some(delta) = self.own.publish(now) else {
            return;
        };
        let record = self.own.record.clone();
        self.counters.published += 1;
        let message = match delta {
            Some(delta) => FactsMessage::Delta(Arc::new(delta)),
            None => FactsMessage::Record(record.clone()),
        };
        let node = record.node;
        // Where foreign records left no room it is sent all the same.
        self.counters.refused += u64::from(self.held.put(record).is_err());
        self.changed.insert(node);
        // Who is still owed the record gets this state of it.
        let to = self.peers.keys().filter(|peer| !self.owed.contains(peer)).copied().collect();
        self.send(to, message);
    }

    fn send(&mut self, to: Vec<NodeId>, message: FactsMessage) {
        if to.is_empty() {
            return;
        }
        if self.sends.len() < SENDS_MAX {
            self.sends.push_back(FactsSend { to, message });
        } else if !matches!(message, FactsMessage::Pull(_)) {
            // A lost pull is repeated when the next digest or change shows the gap again.
            to.into_iter().for_each(|peer| self.handle_lagged(peer));
        }
    }

    /// A connection to an authenticated peer stands.
    ///
    /// # Errors
    /// [`FactsRefused::Full`]: too many peers; this one will be told nothing.
    pub fn handle_connected(&mut self, peer: NodeId, now: Instant) -> Result<(), FactsRefused> {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            return Err(FactsRefused::Full("as many peers as are served"));
        }
        self.peers.insert(peer, Peer::new(now));
        self.owed.insert(peer);
        self.digest_at = self.digest_at.min(now + DIGEST_SOON);
        Ok(())
    }

    /// The connection is gone. What the peer said stays: whether it lives is membership's to say.
    pub fn handle_disconnected(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
        self.owed.remove(&peer);
        self.pulls.remove(&peer);
    }

    /// Something that was to be sent to the peer was dropped: it is sent the own record again.
    pub fn handle_lagged(&mut self, peer: NodeId) {
        if self.peers.contains_key(&peer) {
            self.owed.insert(peer);
            self.counters.resyncs += 1;
        }
    }

    /// Membership declared a life dead.
    pub fn handle_down(&mut self, life: Life, now: Instant) {
        if self.own.life().node == life.node {
            return;
        }
        self.pulls.remove(&life.node);
        if self.held.bury(life, now) {
            self.changed.insert(life.node);
        }
    }

    /// A whole record came from `from`.
    ///
    /// # Errors
    /// See [`FactsRefused`].
    pub fn handle_record(
        &mut self,
        from: NodeId,
        record: impl Into<Arc<NodeFacts>>,
    ) -> Result<(), FactsRefused> {
        let record = record.into();
        let node = record.node;
        let effect = self.may_speak(from, node).and_then(|()| self.held.accept(record));
        self.note(node, effect)?;
        self.pulls.remove(&node);
        Ok(())
    }

    /// A change came from `from`.
    ///
    /// # Errors
    /// See [`FactsRefused`].
    pub fn handle_delta(
        &mut self,
        from: NodeId,
        delta: FactsDelta,
        now: Instant,
    ) -> Result<(), FactsRefused> {
        let node = delta.node;
        let effect = self.may_speak(from, node).and_then(|()| self.held.apply(&delta));
        if self.note(node, effect)? == Effect::Gap {
            self.pull(from, node, now);
        }
        Ok(())
    }

    /// Counts and reports what a record or a delta did.
    fn note(&mut self, node: NodeId, effect: Result<Effect, FactsRefused>) -> Result<Effect, FactsRefused> {
        match &effect {
            Ok(Effect::Changed) | Err(FactsRefused::Full(_)) => {
                self.changed.insert(node);
            }
            _ => {}
        }
        self.counters.refused += u64::from(effect.is_err());
        effect
    }

    fn may_speak(&self, from: NodeId, about: NodeId) -> Result<(), FactsRefused> {
        if !self.peers.contains_key(&from) {
            return Err(FactsRefused::Stranger(from));
        }
        // A peer with our own key is no member but a copy of us.
        let is_owner = from == about && about != self.own.life().node;
        is_owner.then_some(()).ok_or(FactsRefused::NotOwner { from, about })
    }

    /// The time has come that [`poll_timeout`](Self::poll_timeout) named.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.publish(now);
        if self.digest_at <= now {
            self.digest_at = now + DIGEST_PERIOD;
            self.held.expire(now);
            if let Some(member) = self.peers.keys().copied().choose(&mut self.chance) {
                self.send(vec![member], self.digest());
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let publish = self.own.due().map(|at| (at, "publish own facts"));
        let digest = Some((self.digest_at, "compare with a member"));
        [publish, digest].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The next message to send.
    pub fn poll_send(&mut self) -> Option<FactsSend> {
        if let Some(send) = self.sends.pop_front() {
            return Some(send);
        }
        if self.own.record.version == 0 {
            // Nothing was said yet; the first word goes to everybody.
            self.owed.clear();
        }
        let peer = self.owed.pop_first()?;
        Some(FactsSend { to: vec![peer], message: FactsMessage::Record(self.own.record.clone()) })
    }

    /// A node whose record is new, changed or gone ([`record`](Self::record) says which).
    pub fn poll_changed(&mut self) -> Option<NodeId> {
        self.changed.pop_first()
    }
}
