//! Telling every peer how loaded this node's devices are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use shoal_protocol::limits::FACTS_DEVICES_MAX;
use shoal_protocol::message::LoadRecord;
use shoal_protocol::{DeviceIndex, NodeId};

use super::chance::Chance;
use super::load_sequence::{LoadSequence, order};

/// A peer hears from us at least this often; it doubles as the connection's keep-alive ...
const PERIOD_MIN: Duration = Duration::from_secs(1);
/// ... except that all peers together get no more than this many datagrams a second: 8 to 9 kB/s at any size.
const PEERS_PER_SECOND: u32 = 64;
/// Between two announcements of a changed class to everybody at least ...
const CHANGE_PERIOD_MIN: Duration = Duration::from_secs(1);
/// ... and so far apart that they are no more than this many datagrams a second.
const CHANGES_PER_SECOND: u32 = 256;
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

/// Sends each connected peer, members and followers alike, one record a device: to everybody soon after a class
/// changed, and to each now and then. Records are stamped when they leave; who receives them orders them by that.
#[derive(Debug)]
pub struct LoadGossip {
    devices: BTreeMap<DeviceIndex, Device>,
    /// When each peer hears from us next.
    peers: BTreeMap<NodeId, Instant>,
    order: BTreeSet<(Instant, NodeId)>,
    /// When a changed class is announced, and when that was done last.
    announce_at: Option<Instant>,
    announced_at: Option<Instant>,
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
            peers: BTreeMap::new(),
            order: BTreeSet::new(),
            announce_at: None,
            announced_at: None,
            sequence,
            stamped: None,
            sends: VecDeque::new(),
            chance: Chance::new(chance),
        }
    }

    /// The longest time between two records to one peer.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.apart(PERIOD_MIN, PEERS_PER_SECOND)
    }

    fn apart(&self, least: Duration, per_second: u32) -> Duration {
        let peers = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        least.max(Duration::from_secs(1) * peers / per_second)
    }

    /// A connection to a peer stands: it hears from us at once.
    pub fn handle_connected(&mut self, peer: NodeId, now: Instant) {
        self.schedule(peer, now);
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, peer: NodeId) {
        if let Some(at) = self.peers.remove(&peer) {
            self.order.remove(&(at, peer));
        }
    }

    fn schedule(&mut self, peer: NodeId, at: Instant) {
        if let Some(former) = self.peers.insert(peer, at) {
            self.order.remove(&(former, peer));
        }
        self.order.insert((at, peer));
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
        let news = self.devices.values().any(|device| device.announced != Some(device.class));
        let soonest = self.announced_at.map(|at| at + self.apart(CHANGE_PERIOD_MIN, CHANGES_PER_SECOND));
        self.announce_at = news.then(|| soonest.map_or(now, |soonest| soonest.max(now)));
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
        let announces = self.announce_at.take_if(|at| *at <= now).is_some();
        let is_due = |at: Instant| announces || at <= now;
        let to: Vec<_> = self.order.iter().take_while(|(at, _)| is_due(*at)).map(|(_, peer)| *peer).collect();
        if announces {
            self.announced_at = Some(now);
            self.devices.values_mut().for_each(|device| device.announced = Some(device.class));
        }
        let period_us = u64::try_from(self.period().as_micros()).unwrap_or(u64::MAX);
        for peer in &to {
            // Who was told together is told apart from then on.
            let wait_us = period_us - self.chance.below(if to.len() > 1 { period_us / 2 } else { 1 });
            self.schedule(*peer, now + Duration::from_micros(wait_us));
        }
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
        let next = self.order.first().map(|(at, _)| (*at, "keep a peer up to date"));
        [announce, next].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::fleet::{load, node, origin};
    use super::*;

    fn gossip(peers: u64, now: Instant) -> LoadGossip {
        let mut gossip = LoadGossip::new(LoadSequence::new(now), 1);
        (1..=peers).for_each(|peer| gossip.handle_connected(node(peer), now));
        gossip
    }

    /// What is sent until `end`, with its time.
    fn run(gossip: &mut LoadGossip, now: Instant, end: Instant) -> Vec<(Instant, LoadSend)> {
        let mut sent = Vec::new();
        while let Some((at, _)) = gossip.poll_timeout().filter(|(at, _)| *at <= end) {
            let at = at.max(now);
            gossip.handle_timeout(at);
            sent.extend(std::iter::from_fn(|| gossip.poll_send()).map(|send| (at, send)));
        }
        sent
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn every_peer_hears_often_and_all_together_not_too_often() {
        for (peers, period_ms, rate) in [(7, 1_000, 20), (63, 1_000, 100), (511, 7_984, 100)] {
            let now = origin();
            let mut gossip = gossip(peers, now);
            assert_eq!(gossip.poll_timeout(), None, "nothing was measured");
            gossip.handle_load(load(0, 5), now);
            assert_eq!(
                gossip.period(),
                Duration::from_millis(period_ms).max(gossip.period().min(seconds(8)))
            );
            let sent = run(&mut gossip, now, now + seconds(60));
            for peer in 1..=peers {
                let heard: Vec<_> = sent
                    .iter()
                    .filter(|(_, send)| send.to.contains(&node(peer)))
                    .map(|(at, _)| *at)
                    .collect();
                assert_eq!(heard[0], now, "at once");
                let ends = heard.iter().copied().zip(heard[1..].iter().copied().chain([now + seconds(60)]));
                assert!(ends.into_iter().all(|(a, b)| b - a <= gossip.period()));
            }
            let late = sent.iter().filter(|(at, _)| *at > now + seconds(20));
            let datagrams: usize = late.map(|(_, send)| send.to.len()).sum();
            assert!(datagrams / 40 <= rate, "{} a second to {peers}", datagrams / 40);
        }
    }

    #[test]
    fn a_changed_class_is_announced_to_all_but_not_more_often_than_each_second() {
        let now = origin();
        let mut gossip = gossip(7, now);
        gossip.handle_load(load(0, 5), now);
        run(&mut gossip, now, now);
        let later = now + Duration::from_millis(300);
        gossip.handle_load(load(0, 50), later);
        gossip.handle_load(LoadRecord { shed_level: 1, ..load(0, 50) }, later);
        let sent = run(&mut gossip, later, now + Duration::from_millis(1_000));
        let all: Vec<_> = sent.iter().filter(|(_, send)| send.to.len() == 7).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].0, all[0].1.records[0].shed_level), (now + seconds(1), 1));
        // Back where it was before anybody heard of it: nothing to announce.
        gossip.handle_load(load(0, 50), now + Duration::from_millis(1_100));
        gossip.handle_load(LoadRecord { shed_level: 1, ..load(0, 50) }, now + Duration::from_millis(1_200));
        let sent = run(&mut gossip, now, now + seconds(5));
        assert!(sent.iter().all(|(_, send)| send.to.len() < 7));
    }

    #[test]
    fn a_queue_at_the_edge_does_not_chatter() {
        let class = |wait_ms, former| Class::of(&load(0, wait_ms), former);
        let high = class(40, None);
        assert_eq!(high.wait, 2);
        assert_eq!(class(39, Some(high)), high);
        assert_eq!(class(20, Some(high)), high);
        assert_eq!(class(19, Some(high)).wait, 1);
        assert_eq!(class(4, Some(high)).wait, 0);
        assert_eq!(class(5_000, Some(high)).wait, 5);
    }

    #[test]
    fn many_devices_travel_in_datagrams_that_fit() {
        let now = origin();
        let mut gossip = gossip(1, now);
        for device in 0..2 * FACTS_DEVICES_MAX as u16 {
            gossip.handle_load(LoadRecord { device: DeviceIndex(device), ..load(0, 1) }, now);
        }
        let sent = run(&mut gossip, now, now);
        assert_eq!(sent.iter().map(|(_, send)| send.records.len()).collect::<Vec<_>>(), [16, 16, 16, 16]);
    }

    proptest! {
        /// Whatever the load does: every peer hears within the period, announcements keep apart, and each peer sees
        /// rising sequences.
        #[test]
        fn rates_hold(waits in vec((0..5_000_u64, 0..3_u8, 0..700_u64), 1..60), peers in 1..40_u64) {
            let start = origin();
            let mut now = start;
            let mut gossip = gossip(peers, now);
            let (mut heard, mut announced) = (BTreeMap::new(), None);
            for (wait_ms, shed_level, pause_ms) in waits {
                gossip.handle_load(LoadRecord { shed_level, ..load(0, wait_ms) }, now);
                let end = now + Duration::from_millis(pause_ms);
                for (at, send) in run(&mut gossip, now, end) {
                    if send.to.len() as u64 == peers && peers > 2 {
                        let since = announced.replace(at).map(|last| at - last);
                        prop_assert!(since.is_none_or(|since| since >= CHANGE_PERIOD_MIN));
                    }
                    for peer in send.to {
                        let sequence = send.records[0].sequence;
                        if let Some((last_at, last)) = heard.insert(peer, (at, sequence)) {
                            prop_assert_eq!(order(sequence, last, Duration::ZERO), Ordering::Greater);
                            prop_assert!(at - last_at <= gossip.period());
                        }
                    }
                }
                now = end;
            }
            prop_assert_eq!(heard.len() as u64, peers);
        }
    }
}
