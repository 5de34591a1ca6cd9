//! What becomes of each packet that the relay carries. Pure: the shell around it is [`Relay`](super::Relay).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sim::{Network, Peer, Weather};

/// Packets under way at once: a second of delay at the rate of a busy mesh. A further one is lost.
const PACKETS_MAX: usize = 32_768;

/// A packet and the way that it goes on, by the shell's numbering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub from: Peer,
    /// Whom it is for.
    pub to: Peer,
    /// How the shell sends it on.
    pub route: usize,
    /// The datagram.
    pub bytes: Vec<u8>,
}

/// What happened to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireCounters {
    /// Came in.
    pub packets: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because the direction is cut.
    pub cut: u64,
    /// Went out twice.
    pub duplicated: u64,
    /// Lost because too many were under way.
    pub overflowed: u64,
}

/// All links between all peers, each direction with its own weather. The seed decides what becomes of the n-th packet of
/// a direction, whatever happens on the others.
#[derive(Debug)]
pub struct Wire {
    seed: u64,
    weather: Weather,
    directions: BTreeMap<(Peer, Peer), Network>,
    under_way: BTreeMap<(Instant, u64), Packet>,
    sequence: u64,
    counters: WireCounters,
}

impl Wire {
    /// Every direction in the same weather, nothing cut.
    #[must_use]
    pub fn new(weather: Weather, seed: u64) -> Self {
        Self {
            seed,
            weather,
            directions: BTreeMap::new(),
            under_way: BTreeMap::new(),
            sequence: 0,
            counters: WireCounters::default(),
        }
    }

    /// From now on every direction has this weather; chance begins anew.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
        let cut: Vec<_> = self.cuts().collect();
        self.directions.clear();
        for (from, to) in cut {
            self.cut(from, to);
        }
    }

    /// Nothing gets from `from` to `to` any more, what is under way included.
    pub fn cut(&mut self, from: Peer, to: Peer) {
        self.direction(from, to).cut(from, to);
        let before = self.under_way.len();
        self.under_way.retain(|_, packet| (packet.from, packet.to) != (from, to));
        self.counters.cut += (before - self.under_way.len()) as u64;
    }

    /// Undoes every cut.
    pub fn heal(&mut self) {
        self.directions.values_mut().for_each(Network::heal);
    }

    /// A packet came in.
    pub fn handle_packet(&mut self, packet: Packet, now: Instant) {
        let (from, to) = (packet.from, packet.to);
        self.counters.packets += 1;
        let direction = self.direction(from, to);
        let is_open = direction.is_open(from, to);
        match direction.datagram(from, to, false) {
            [None, None] if !is_open => self.counters.cut += 1,
            [None, None] => self.counters.lost += 1,
            [Some(delay), None] | [None, Some(delay)] => self.send(packet, now + delay),
            [Some(first), Some(second)] => {
                self.counters.duplicated += 1;
                self.send(packet.clone(), now + first);
                self.send(packet, now + second);
            }
        }
    }

    /// The next packet that is due.
    pub fn poll_packet(&mut self, now: Instant) -> Option<Packet> {
        let due = self.under_way.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(due.remove())
    }

    /// When the next packet is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.under_way.keys().next().map(|(at, _)| *at)
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> WireCounters {
        self.counters
    }

    fn send(&mut self, packet: Packet, at: Instant) {
        if self.under_way.len() >= PACKETS_MAX {
            self.counters.overflowed += 1;
            return;
        }
        self.sequence += 1;
        self.under_way.insert((at, self.sequence), packet);
    }

    fn cuts(&self) -> impl Iterator<Item = (Peer, Peer)> {
        let cut = |((from, to), network): (&(Peer, Peer), &Network)| {
            (!network.is_open(*from, *to)).then_some((*from, *to))
        };
        self.directions.iter().filter_map(cut)
    }

    fn direction(&mut self, from: Peer, to: Peer) -> &mut Network {
        let seed = self.seed ^ number(from) << 40 ^ number(to) << 20;
        self.directions.entry((from, to)).or_insert_with(|| Network::new(self.weather, seed))
    }
}

/// The relay adds nothing.
pub const CLEAR: Weather =
    Weather { delay: Duration::ZERO, jitter: Duration::ZERO, loss: 0.0, duplicate: 0.0 };

/// Tells peers apart in 17 bits.
fn number(peer: Peer) -> u64 {
    match peer {
        Peer::Node(node) => u64::from(node),
        Peer::Client(client) => 1 << 16 | u64::from(client),
    }
}
