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
use super::interface::{FactsCounters, FactsMessage, FactsPeer, FactsRefused, FactsSend, OwnFacts};
use super::own::Own;
use super::parameters::{CENSUS_DELAY, DIGEST_PERIOD, DIGEST_SOON, PEERS_MAX, SENDS_MAX};

/// Everybody's facts: the own record goes to each connected peer when it changes, the others' come from their owners
/// and go on to followers. What was missed is found by comparing digests and fetched from the owner.
///
/// After every `handle_*` the owner of the machine drains [`poll_send`](Self::poll_send) and
/// [`poll_changed`](Self::poll_changed). It sends in order and reliably while a connection stands; what it has to
/// drop for a slow peer it reports by [`handle_lagged`](Self::handle_lagged).
#[derive(Debug)]
pub struct Facts {
    /// `None` in a client, which has no facts of its own.
    own: Option<Own>,
    held: Held,
    peers: BTreeMap<NodeId, Peer>,
    /// Peers that must be sent everything, and the last record that was sent to each.
    owed: BTreeMap<NodeId, Option<NodeId>>,
    sends: VecDeque<FactsSend>,
    changed: BTreeSet<NodeId>,
    /// When each missing record was asked for.
    pulls: BTreeMap<NodeId, Instant>,
    digest_at: Instant,
    census_at: Instant,
    chance: SmallRng,
    counters: FactsCounters,
}

impl Facts {
    /// The machine of a member (`life`) or of a client (`None`). `chance` seeds the choice of whom to compare with.
    #[must_use]
    pub fn new(life: Option<Life>, chance: u64, now: Instant) -> Self {
        Self {
            own: life.map(Own::new),
            held: Held::default(),
            peers: BTreeMap::new(),
            owed: BTreeMap::new(),
            sends: VecDeque::new(),
            changed: BTreeSet::new(),
            pulls: BTreeMap::new(),
            digest_at: now + DIGEST_PERIOD,
            census_at: now + DIGEST_PERIOD,
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

    /// This node's facts are these now (a client has none, and this does nothing). They are published at once, or
    /// together with what else changes within 100 ms of the last time.
    ///
    /// # Errors
    /// [`FactsRefused::Limit`]: they could not be sent; what was published stays.
    pub fn handle_own(&mut self, facts: OwnFacts, now: Instant) -> Result<(), FactsRefused> {
        if let Some(own) = &mut self.own {
            own.set(facts, now)?;
        }
        self.publish(now);
        Ok(())
    }

    /// This node goes on under another generation.
    pub fn handle_renewed(&mut self, life: Life, now: Instant) {
        if let Some(own) = &mut self.own {
            own.renew(life, now);
        }
        self.publish(now);
    }

    fn publish(&mut self, now: Instant) {
        let Some(own) = &mut self.own else {
            return;
        };
        let Some(delta) = own.publish(now) else {
            return;
        };
        let record = own.record.clone();
        self.counters.published += 1;
        let message = match delta {
            Some(delta) => FactsMessage::Delta(Arc::new(delta)),
            None => FactsMessage::Record(record.clone()),
        };
        let node = record.node;
        // Where foreign records left no room it is sent all the same.
        self.counters.refused += u64::from(self.held.put(record).is_err());
        self.changed.insert(node);
        self.tell(node, message, |kind| kind != FactsPeer::Entry);
    }

    /// Sends news about `node` to the peers of a kind, except where all of it is still to come.
    fn tell(&mut self, node: NodeId, message: FactsMessage, kinds: impl Fn(FactsPeer) -> bool) {
        let to_come = |peer: &NodeId| self.owed.get(peer).is_some_and(|sent| *sent < Some(node));
        let to = self.peers.iter().filter(|(id, peer)| kinds(peer.kind) && !to_come(id));
        let to: Vec<_> = to.map(|(id, _)| *id).collect();
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
    pub fn handle_connected(
        &mut self,
        peer: NodeId,
        kind: FactsPeer,
        now: Instant,
    ) -> Result<(), FactsRefused> {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            return Err(FactsRefused::Full("as many peers as are served"));
        }
        self.peers.insert(peer, Peer::new(kind, now));
        if kind != FactsPeer::Entry {
            self.owed.insert(peer, None);
        }
        if kind == FactsPeer::Member {
            self.digest_at = self.digest_at.min(now + DIGEST_SOON);
        }
        Ok(())
    }

    /// The connection is gone. What the peer said stays: whether it lives is membership's to say.
    pub fn handle_disconnected(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
        self.owed.remove(&peer);
        self.pulls.remove(&peer);
    }

    /// Something that was to be sent to the peer was dropped: it is sent everything again.
    pub fn handle_lagged(&mut self, peer: NodeId) {
        if self.peers.get(&peer).is_some_and(|peer| peer.kind != FactsPeer::Entry) {
            self.owed.insert(peer, None);
            self.counters.resyncs += 1;
        }
    }

    /// Membership declared a life dead.
    pub fn handle_down(&mut self, life: Life, now: Instant) {
        if self.own.as_ref().is_some_and(|own| own.life().node == life.node) {
            return;
        }
        self.pulls.remove(&life.node);
        if self.held.bury(life, now) {
            self.changed.insert(life.node);
            self.census_at = self.census_at.min(now + CENSUS_DELAY);
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
        let effect = self.note(node, effect)?;
        self.pulls.remove(&node);
        if let Some(record) = self.held.get(node).filter(|_| effect == Effect::Changed) {
            let message = FactsMessage::Record(record.clone());
            self.tell(node, message, |kind| kind == FactsPeer::Follower);
        }
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
        match self.note(node, effect)? {
            Effect::Changed => {
                let message = FactsMessage::Delta(Arc::new(delta));
                self.tell(node, message, |kind| kind == FactsPeer::Follower);
            }
            Effect::Gap => self.pull(from, node, now),
            Effect::Stale => {}
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
        let own = self.own.as_ref().is_some_and(|own| own.life().node == about);
        match self.peers.get(&from).map(|peer| peer.kind) {
            None => Err(FactsRefused::Stranger(from)),
            Some(FactsPeer::Entry) if !own => Ok(()),
            Some(FactsPeer::Member) if from == about && !own => Ok(()),
            Some(_) => Err(FactsRefused::NotOwner { from, about }),
        }
    }

    /// The time has come that [`poll_timeout`](Self::poll_timeout) named.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.publish(now);
        if self.digest_at <= now {
            self.digest_at = now + DIGEST_PERIOD;
            self.held.expire(now);
            let members = self.peers.iter().filter(|(_, peer)| peer.kind == FactsPeer::Member);
            if let Some(member) = members.map(|(id, _)| *id).choose(&mut self.chance) {
                self.send(vec![member], self.digest());
            }
        }
        if self.census_at <= now {
            self.census_at = now + DIGEST_PERIOD;
            let followers = self.peers.iter().filter(|(_, peer)| peer.kind == FactsPeer::Follower);
            // Who is still being sent everything gets the census at the end of that.
            let to = followers.map(|(id, _)| *id).filter(|id| !self.owed.contains_key(id)).collect();
            self.send(to, self.digest());
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let publish = self.own.as_ref().and_then(Own::due).map(|at| (at, "publish own facts"));
        let digest = Some((self.digest_at, "compare with a member"));
        let census = Some((self.census_at, "tell followers who is there"));
        [publish, digest, census].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The next message to send.
    pub fn poll_send(&mut self) -> Option<FactsSend> {
        if let Some(send) = self.sends.pop_front() {
            return Some(send);
        }
        let (peer, sent) = self.owed.first_key_value().map(|(peer, sent)| (*peer, *sent))?;
        let follower = self.peers.get(&peer).is_some_and(|peer| peer.kind == FactsPeer::Follower);
        let message = if follower && let Some(record) = self.held.after(sent) {
            self.owed.insert(peer, Some(record.node));
            FactsMessage::Record(record.clone())
        } else {
            self.owed.remove(&peer);
            match &self.own {
                _ if follower => self.digest(),
                Some(own) if own.record.version > 0 => FactsMessage::Record(own.record.clone()),
                _ => return self.poll_send(),
            }
        };
        Some(FactsSend { to: vec![peer], message })
    }

    /// A node whose record is new, changed or gone ([`record`](Self::record) says which).
    pub fn poll_changed(&mut self) -> Option<NodeId> {
        self.changed.pop_first()
    }
}
