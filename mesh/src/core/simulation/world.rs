//! The nodes, the network between them, and the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use shoal_protocol::{Message, VersionRange, encode};

use super::network::{Network, Parcel, Weather};
use super::node::{Node, address, id, index};
use super::origin;
use crate::core::{FactsMessage, FactsPeer, FactsRefused, MemberState};

/// QUIC's header and tag, UDP and IP around a datagram.
const OVERHEAD_BYTES: usize = 70;

/// A header and a load record.
const LOAD_FRAME_BYTES: usize = 16 + 48;

#[derive(Clone, Debug)]
pub(super) enum Packet {
    Datagram(Vec<u8>),
    Load,
    /// On a stream: ordered, and lost with the connection only.
    Facts(FactsMessage),
    /// The end of a handshake: with it the connection stands.
    Connected,
}

/// Bytes of a message as a frame.
fn frame_bytes(message: &FactsMessage) -> usize {
    let message = match message.clone() {
        FactsMessage::Record(record) => Message::Facts(Box::new(record.as_ref().clone())),
        FactsMessage::Delta(delta) => Message::FactsDelta(Box::new(delta.as_ref().clone())),
        FactsMessage::Digest(digest) => Message::FactsDigest(digest.as_ref().clone()),
        FactsMessage::Pull(pull) => Message::FactsPull(pull),
    };
    let mut bytes = Vec::new();
    encode(&message.into(), VersionRange::OURS.max, &mut bytes).expect("within the limits");
    bytes.len()
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network<Packet>,
    /// Wake-ups: (time, node), at most one a node.
    wakes: BTreeSet<(Instant, usize)>,
    wake_of: BTreeMap<usize, Instant>,
    links: BTreeSet<(usize, usize)>,
    /// When the last message of each stream arrives: the next comes after it.
    streams: BTreeMap<(usize, usize), Instant>,
    inboxes: BTreeMap<usize, Vec<Parcel<Packet>>>,
    /// Bytes and datagrams that all nodes sent.
    pub(super) sent: (u64, u64),
    seed: u64,
}

impl World {
    pub(super) fn new(count: usize, weather: Weather, seed: u64) -> Self {
        let now = origin();
        let mut world = Self {
            now,
            nodes: Vec::new(),
            network: Network::new(weather, seed),
            wakes: BTreeSet::new(),
            wake_of: BTreeMap::new(),
            links: BTreeSet::new(),
            streams: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            sent: (0, 0),
            seed,
        };
        (0..count).for_each(|index| world.add(index, 1_000));
        world
    }

    fn add(&mut self, index: usize, generation: u64) {
        let chance = self.seed * 100_000 + index as u64 * 7 + generation;
        let node = Node::start(index, generation, chance, self.now);
        if index == self.nodes.len() {
            self.nodes.push(node)
        } else {
            self.nodes[index] = node
        }
        self.after(index);
    }

    /// One more node, which knows number 0's address.
    pub(super) fn join(&mut self) -> usize {
        self.add(self.nodes.len(), 1_000);
        self.nodes.len() - 1
    }

    pub(super) fn kill(&mut self, index: usize) {
        self.nodes[index].alive = false;
        self.inboxes.remove(&index);
        self.wake(index);
    }

    /// The process starts again with generation `generation`; its peers' old connections are dead.
    pub(super) fn restart(&mut self, index: usize, generation: u64) {
        self.kill(index);
        (0..self.nodes.len()).filter(|other| *other != index).for_each(|other| self.disconnect(index, other));
        self.add(index, generation);
    }

    pub(super) fn sleep(&mut self, index: usize) {
        self.nodes[index].asleep = true;
        self.wake(index);
    }

    /// Everything that arrived meanwhile is read first.
    pub(super) fn awaken(&mut self, index: usize) {
        self.nodes[index].asleep = false;
        for parcel in self.inboxes.remove(&index).unwrap_or_default() {
            self.arrive(parcel);
        }
        self.wake(index);
    }

    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done`; the virtual time that it took. Fails after `limit`.
    pub(super) fn until(&mut self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            let late = self.now >= start + limit;
            assert!(!late, "{what}: not within {limit:?}, seed {}: {:?}", self.seed, self.census());
            self.run(Duration::from_millis(10));
        }
        self.now - start
    }

    fn census(&self) -> Vec<usize> {
        let alive =
            |node: &Node| node.membership.members().filter(|seen| seen.state == MemberState::Alive).count();
        self.nodes.iter().map(alive).collect()
    }

    /// One event, if one is due by `end`.
    fn step(&mut self, end: Instant) -> bool {
        let wake = self.wakes.first().map(|(at, _)| *at);
        let Some(at) = [wake, self.network.next()].into_iter().flatten().min().filter(|at| *at <= end) else {
            return false;
        };
        self.now = self.now.max(at);
        if let Some(parcel) = self.network.pop(self.now) {
            self.arrive(parcel);
        } else if let Some((at, index)) = self.wakes.first().copied().filter(|(at, _)| *at <= self.now) {
            self.wakes.remove(&(at, index));
            self.wake_of.remove(&index);
            self.nodes[index].membership.handle_timeout(self.now);
            self.nodes[index].facts.handle_timeout(self.now);
            self.nodes[index].load.handle_timeout(self.now);
            self.after(index);
        }
        true
    }

    fn arrive(&mut self, parcel: Parcel<Packet>) {
        let Parcel { from, to, .. } = parcel;
        if !self.nodes[to].alive {
            return;
        }
        if self.nodes[to].asleep {
            self.inboxes.entry(to).or_default().push(parcel);
            return;
        }
        let now = self.now;
        match parcel.what {
            Packet::Datagram(bytes) => {
                let refused = self.nodes[to].membership.handle_datagram(id(from), &bytes, now);
                assert_eq!(refused, Ok(()), "honest nodes send nothing that is refused");
            }
            Packet::Load => {
                self.nodes[to].loads.insert(from, now);
            }
            Packet::Facts(_) if !self.connected(from, to) => {}
            Packet::Facts(message) => {
                let facts = &mut self.nodes[to].facts;
                let handled = match message {
                    FactsMessage::Record(record) => facts.handle_record(id(from), record.as_ref().clone()),
                    FactsMessage::Delta(delta) => facts.handle_delta(id(from), delta.as_ref().clone(), now),
                    FactsMessage::Digest(digest) => facts.handle_digest(id(from), &digest, now),
                    FactsMessage::Pull(pull) => facts.handle_pull(id(from), pull, now),
                };
                // A node that does not know yet that it was declared dead is the one honest case.
                assert!(matches!(handled, Ok(()) | Err(FactsRefused::Dead(_))), "{handled:?}");
            }
            Packet::Connected => {
                self.links.insert((from.min(to), from.max(to)));
                let life = self.nodes[from].membership.life();
                self.nodes[to].membership.handle_connected(life, address(from), now);
                self.nodes[to].facts.handle_connected(id(from), FactsPeer::Member, now).expect("room");
                self.nodes[to].load.handle_connected(id(from), now);
            }
        }
        self.after(to);
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        self.links.contains(&(a.min(b), a.max(b)))
    }

    /// A handshake: one round trip, and it needs both ends.
    fn dial(&mut self, from: usize, to: usize) -> Duration {
        let trip = self.network.trip() + self.network.trip();
        let answers = self.nodes.get(to).is_some_and(|node| node.alive && !node.asleep);
        if from != to && answers && self.network.reaches(from, to) && !self.connected(from, to) {
            for (from, to) in [(from, to), (to, from)] {
                self.network.deliver(Parcel { from, to, what: Packet::Connected }, self.now + trip);
            }
        }
        trip
    }

    /// Does what the node's machines want.
    fn after(&mut self, index_of: usize) {
        for seen in self.nodes[index_of].take_events(self.now) {
            let other = index(seen.life.node);
            match seen.state {
                MemberState::Alive => {
                    self.dial(index_of, other);
                }
                MemberState::Down => self.disconnect(index_of, other),
                MemberState::Suspect => {}
            }
        }
        while let Some(seed) = self.nodes[index_of].membership.poll_dial() {
            self.dial(index_of, usize::from(seed.port() - 7000));
        }
        while let Some(transmit) = self.nodes[index_of].membership.poll_transmit() {
            let to = index(transmit.to);
            assert_eq!(transmit.address, address(to));
            self.count(transmit.bytes.len());
            let parcel = Parcel { from: index_of, to, what: Packet::Datagram(transmit.bytes) };
            if self.connected(index_of, to) {
                self.network.send(parcel, self.now);
            } else {
                let at = self.now + self.dial(index_of, to);
                if self.network.reaches(index_of, to) {
                    self.network.send(parcel, at);
                }
            }
        }
        while let Some(send) = self.nodes[index_of].facts.poll_send() {
            for to in send.to.into_iter().map(index) {
                if !self.connected(index_of, to) {
                    continue;
                }
                self.count(frame_bytes(&send.message));
                let trip = self.network.trip();
                let arrives = self.streams.entry((index_of, to)).or_insert(self.now);
                *arrives = (*arrives).max(self.now + trip);
                let what = Packet::Facts(send.message.clone());
                self.network.deliver(Parcel { from: index_of, to, what }, *arrives);
            }
        }
        while let Some(send) = self.nodes[index_of].load.poll_send() {
            for to in send.to.into_iter().map(index) {
                self.count(send.records.len() * LOAD_FRAME_BYTES);
                self.network.send(Parcel { from: index_of, to, what: Packet::Load }, self.now);
            }
        }
        self.wake(index_of);
    }

    fn count(&mut self, bytes: usize) {
        self.sent.0 += (bytes + OVERHEAD_BYTES) as u64;
        self.sent.1 += 1;
    }

    /// Sends what the node's machines have to say after a call from outside.
    pub(super) fn flush(&mut self, index: usize) {
        self.after(index);
    }

    fn wake(&mut self, index: usize) {
        let next = self.nodes[index].next().map(|at| at.max(self.now));
        if let Some(former) = self.wake_of.remove(&index) {
            self.wakes.remove(&(former, index));
        }
        if let Some(at) = next {
            self.wakes.insert((at, index));
            self.wake_of.insert(index, at);
        }
    }

    /// Nodes below `side` against the others.
    pub(super) fn partition(&mut self, side: usize) {
        self.network.partition(0..side);
        for (a, b) in self.links.clone() {
            if !self.network.reaches(a, b) {
                self.disconnect(a, b);
            }
        }
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        self.links.remove(&(a.min(b), a.max(b)));
        for (here, there) in [(a, b), (b, a)] {
            self.nodes[here].membership.handle_disconnected(id(there));
            self.nodes[here].facts.handle_disconnected(id(there));
            self.nodes[here].load.handle_disconnected(id(there));
            self.streams.remove(&(here, there));
        }
    }
}
