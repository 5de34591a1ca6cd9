//! Telling every peer how loaded this node's devices are.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use shoal_protocol::limits::FACTS_DEVICES_MAX;
use shoal_protocol::message::LoadRecord;
use shoal_protocol::{DeviceIndex, NodeId};

use super::chance::Chance;
use super::load_sequence::{LoadSequence, order};

/// A peer hears from us about this often; it doubles as the connection's keep-alive ...
const PERIOD_MIN: Duration = Duration::from_secs(1);
/// ... except that all peers together get no more than this many datagrams a second for that.
const PEERS_PER_SECOND: u32 = 64;
/// Whoever is due within this part of the period is told together: a large mesh costs 16 wake-ups a period and not one for
/// each peer.
const TOGETHER_PARTS: u32 = 16;
/// The budget earns a datagram to each peer so much sooner than peace would send one: a quarter more than peace takes up to
/// 64 peers, hardly more than that in a large mesh. What binds a choice is asked for anew, so that a class may be known some
/// seconds late where classes change all the time.
const EARNED_AHEAD: Duration = Duration::from_millis(200);
/// Between two announcements of a changed class at least: what changes within this time is announced together.
const GATHER_MIN: Duration = Duration::from_millis(250);
/// A longer or shorter wait is announced once it has lasted this long: on a device that is mostly idle every request would
/// be news, and over before anybody heard of it. What a device refuses is told at once.
const WAIT_LASTS_MIN: Duration = Duration::from_millis(100);
/// Announcements in hand after a quiet time: a node that gets busy says so at once, and that it is idle again, too.
const ANNOUNCEMENTS_IN_HAND: u32 = 2;
/// Records in one datagram: frames of 64 bytes, within QUIC's smallest datagram (1150).
const RECORDS_PER_SEND: usize = 16;
/// Sends that wait to be polled. Beyond it the newest is dropped, as the network would.
const SENDS_MAX: usize = 256;
/// Waits at which the class of a queue rises: each four times the one before, as far apart as a router cares.
const WAIT_STEPS_US: [u64; 5] = [10_000, 40_000, 160_000, 640_000, 2_560_000];

/// One datagram to each of several peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadSend {
    /// The receivers.
    pub to: Vec<NodeId>,
    /// One record a device, at most 16.
    pub records: Vec<LoadRecord>,
}

/// What has to be said soon when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    shed_level: u8,
    draining: bool,
    /// How many of [`WAIT_STEPS_US`] the wait has passed.
    wait: usize,
}

impl Class {
    /// The class of a record after `former`. It falls only where the wait is below half of the step, so that a queue
    /// at the edge does not chatter.
    fn of(record: &LoadRecord, former: Option<Self>) -> Self {
        let passed = |part: u64| WAIT_STEPS_US.iter().filter(|step| record.wait_us >= **step / part).count();
        let (rises_to, falls_to) = (passed(1), passed(2));
        let before = former.map_or(rises_to, |former| former.wait);
        let wait = before.clamp(rises_to, falls_to);
        Self { shed_level: record.shed_level, draining: record.draining, wait }
    }
}

/// A device's load now, and its class when it was last announced to everybody.
#[derive(Clone, Copy, Debug)]
struct Device {
    record: LoadRecord,
    class: Class,
    announced: Option<Class>,
}

impl Device {
    /// Whether what changed is more than the wait.
    fn is_urgent(&self) -> bool {
        let of = |class: Class| (class.shed_level, class.draining);
        self.announced.is_none_or(|announced| of(announced) != of(self.class))
    }
}

/// Sends each connected member one record a device: to everybody when a class changed, as long as the budget of
/// announcements lasts, and to each now and then. Records are stamped when they leave; who receives them orders them by
/// that.
#[derive(Debug)]
pub struct LoadGossip {
    devices: BTreeMap<DeviceIndex, Device>,
    /// When each peer hears from us next, in this order: who is told moves to the end, all others stay where they are.
    peers: Vec<(Instant, NodeId)>,
    /// When a changed class is announced, and when that was done last.
    announce_at: Option<Instant>,
    /// Since when there is something to announce.
    news_since: Option<Instant>,
    announced_at: Option<Instant>,
    /// Until when what was sent so far has used up what the budget earns (a leaky bucket, full at the start).
    spent_until: Option<Instant>,
    sequence: LoadSequence,
    /// The number of the last records, and when they left.
    stamped: Option<(u16, Instant)>,
    sends: VecDeque<LoadSend>,
    chance: Chance,
}

impl LoadGossip {
    /// A node that has measured nothing yet. `chance` seeds how sends are spread over time.
    #[must_use]
    pub fn new(sequence: LoadSequence, chance: u64) -> Self {
        Self {
            devices: BTreeMap::new(),
            peers: Vec::new(),
            announce_at: None,
            news_since: None,
            announced_at: None,
            spent_until: None,
            sequence,
            stamped: None,
            sends: VecDeque::new(),
            chance: Chance::new(chance),
        }
    }

    /// Time between two records to one peer; a quarter more at most.
    #[must_use]
    pub fn period(&self) -> Duration {
        PERIOD_MIN.max(Duration::from_secs(1) * self.peers_len() / PEERS_PER_SECOND)
    }

    /// Time in which the budget earns a record to everybody.
    fn earned_in(&self) -> Duration {
        self.period() - EARNED_AHEAD
    }

    fn peers_len(&self) -> u32 {
        u32::try_from(self.peers.len()).unwrap_or(u32::MAX)
    }

    /// When the budget lets a changed class be announced.
    fn may_announce_at(&self, now: Instant) -> Instant {
        let in_hand = self.earned_in() * (ANNOUNCEMENTS_IN_HAND - 1);
        let earned = self.spent_until.and_then(|until| until.checked_sub(in_hand));
        let apart = self.announced_at.map(|last| last + GATHER_MIN);
        [earned, apart].into_iter().flatten().fold(now, Instant::max)
    }

    /// Takes records to so many peers from the budget.
    fn spend(&mut self, receivers: usize, now: Instant) {
        let share = self.earned_in() * u32::try_from(receivers).unwrap_or(u32::MAX) / self.peers_len().max(1);
        let until = self.spent_until.map_or(now, |until| until.max(now)) + share;
        // What newcomers are told at once is no reason to be silent for longer than after an announcement.
        self.spent_until = Some(until.min(now + self.earned_in() * ANNOUNCEMENTS_IN_HAND));
        let may_at = self.may_announce_at(now);
        self.announce_at = self.announce_at.map(|at| at.max(may_at));
    }

    /// A connection to a peer stands: it hears from us at once.
    pub fn handle_connected(&mut self, peer: NodeId, now: Instant) {
        self.handle_disconnected(peer);
        let place = self.peers.partition_point(|(at, _)| *at <= now);
        self.peers.insert(place, (now, peer));
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, peer: NodeId) {
        self.peers.retain(|(_, known)| *known != peer);
    }

    /// A device's load as it is now; its `sequence` is ignored. A device beyond the 64 that facts can list is not
    /// gossiped.
    pub fn handle_load(&mut self, record: LoadRecord, now: Instant) {
        let former = self.devices.get(&record.device).copied();
        if former.is_none() && self.devices.len() >= FACTS_DEVICES_MAX {
            return;
        }
        let class = Class::of(&record, former.map(|device| device.class));
        let announced = former.and_then(|device| device.announced);
        self.devices.insert(record.device, Device { record, class, announced });
        let is_news = self.devices.values().any(|device| device.announced != Some(device.class));
        let lasts =
            if self.devices.values().any(Device::is_urgent) { Duration::ZERO } else { WAIT_LASTS_MIN };
        self.news_since = is_news.then(|| self.news_since.unwrap_or(now));
        self.announce_at = self.news_since.map(|since| self.may_announce_at(now).max(since + lasts));
    }

    /// Two datagrams within a step of the sequence are told apart all the same.
    fn stamp(&mut self, now: Instant) -> u16 {
        let by_time = self.sequence.at(now);
        let number = match self.stamped {
            Some((last, at)) if order(by_time, last, now.saturating_duration_since(at)).is_le() => {
                last.wrapping_add(1)
            }
            _ => by_time,
        };
        self.stamped = Some((number, now));
        number
    }

    /// The time has come that [`poll_timeout`](Self::poll_timeout) named.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.devices.is_empty() {
            return;
        }
        let period = self.period();
        let announces = self.announce_at.take_if(|at| *at <= now).is_some();
        let is_anybody_due = announces || self.peers.first().is_some_and(|(at, _)| *at <= now);
        if !is_anybody_due {
            return;
        }
        if announces {
            (self.announced_at, self.news_since) = (Some(now), None);
            self.devices.values_mut().for_each(|device| device.announced = Some(device.class));
        }
        let soon = now + period / TOGETHER_PARTS;
        let due = self.peers.partition_point(|(at, _)| announces || *at <= soon);
        let to: Vec<NodeId> = self.peers[..due].iter().map(|(_, peer)| *peer).collect();
        self.spend(to.len(), now);
        self.postpone(&to, announces, now);
        if to.is_empty() {
            return;
        }
        let sequence = self.stamp(now);
        let records = self.devices.values().map(|device| LoadRecord { sequence, ..device.record });
        let records: Vec<_> = records.collect();
        for records in records.chunks(RECORDS_PER_SEND) {
            if self.sends.len() < SENDS_MAX {
                self.sends.push_back(LoadSend { to: to.clone(), records: records.to_vec() });
            }
        }
    }

    /// The first of the peers, who were told now, hear again after a period. If they are all of them, they are told apart
    /// from then on: while classes change all the time nobody is due before the next announcement.
    fn postpone(&mut self, told: &[NodeId], to_all: bool, now: Instant) {
        let period = self.period();
        let again = now + period;
        if to_all {
            let apart_us = u64::try_from(period.as_micros() / 4).unwrap_or(u64::MAX);
            for (at, _) in &mut self.peers {
                *at = again + Duration::from_micros(self.chance.below(apart_us));
            }
            self.peers.sort_unstable();
        } else {
            self.peers.drain(..told.len());
            let place = self.peers.partition_point(|(at, _)| *at <= again);
            self.peers.splice(place..place, told.iter().map(|peer| (again, *peer)));
        }
    }

    /// The next datagram to send.
    pub fn poll_send(&mut self) -> Option<LoadSend> {
        self.sends.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.devices.is_empty() {
            return None;
        }
        let announce = self.announce_at.map(|at| (at, "announce a changed load"));
        let next = self.peers.first().map(|(at, _)| (*at, "keep a peer up to date"));
        [announce, next].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests;
