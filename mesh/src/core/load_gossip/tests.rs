//! Who hears when, and what it costs.

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

/// What is sent until `end`, with its time, and when everybody was told of a changed class.
fn run_telling(
    gossip: &mut LoadGossip,
    now: Instant,
    end: Instant,
) -> (Vec<(Instant, LoadSend)>, Vec<Instant>) {
    let (mut sent, mut announced) = (Vec::new(), Vec::new());
    while let Some((at, _)) = gossip.poll_timeout().filter(|(at, _)| *at <= end) {
        let (at, before) = (at.max(now), gossip.announced_at);
        gossip.handle_timeout(at);
        announced.extend(gossip.announced_at.filter(|_| gossip.announced_at != before));
        sent.extend(std::iter::from_fn(|| gossip.poll_send()).map(|send| (at, send)));
    }
    (sent, announced)
}

/// What is sent until `end`, with its time.
fn run(gossip: &mut LoadGossip, now: Instant, end: Instant) -> Vec<(Instant, LoadSend)> {
    run_telling(gossip, now, end).0
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
        assert_eq!(gossip.period(), Duration::from_millis(period_ms).max(gossip.period().min(seconds(8))));
        let sent = run(&mut gossip, now, now + seconds(60));
        for peer in 1..=peers {
            let heard: Vec<_> =
                sent.iter().filter(|(_, send)| send.to.contains(&node(peer))).map(|(at, _)| *at).collect();
            assert_eq!(heard[0], now, "at once");
            let ends = heard.iter().copied().zip(heard[1..].iter().copied().chain([now + seconds(60)]));
            assert!(ends.into_iter().all(|(a, b)| b - a <= gossip.period() * 5 / 4));
        }
        let late = sent.iter().filter(|(at, _)| *at > now + seconds(20));
        let datagrams: usize = late.map(|(_, send)| send.to.len()).sum();
        assert!(datagrams / 40 <= rate, "{} a second to {peers}", datagrams / 40);
    }
}

#[test]
fn a_changed_class_is_announced_to_all_at_once_and_then_as_the_budget_lasts() {
    let now = origin();
    let at = |ms| now + Duration::from_millis(ms);
    let mut gossip = gossip(7, now);
    gossip.handle_load(load(0, 5), now);
    run(&mut gossip, now, now);
    gossip.handle_load(load(0, 50), at(100));
    gossip.handle_load(LoadRecord { shed_level: 1, ..load(0, 50) }, at(100));
    let announced = |sent: &[(Instant, LoadSend)]| -> Vec<_> {
        let all = sent.iter().filter(|(_, send)| send.to.len() == 7);
        all.map(|(at, send)| (*at, send.records[0].shed_level)).collect()
    };
    let sent = run(&mut gossip, at(100), at(999));
    assert_eq!(announced(&sent), [(at(250), 1)], "what changed together, with the second one in hand");
    gossip.handle_load(load(0, 50), at(700));
    let sent = run(&mut gossip, at(700), at(1_100));
    assert_eq!(announced(&sent), [(at(800), 0)], "when the next one is earned");
    // Back where it was before anybody heard of it: nothing to announce.
    gossip.handle_load(LoadRecord { shed_level: 1, ..load(0, 50) }, at(1_100));
    gossip.handle_load(load(0, 50), at(1_200));
    let sent = run(&mut gossip, at(1_200), at(5_000));
    assert!(sent.iter().all(|(_, send)| send.to.len() < 7));
}

#[test]
fn a_wait_is_announced_once_it_lasts_and_a_refusal_at_once() {
    let now = origin();
    let at = |ms| now + Duration::from_millis(ms);
    let mut gossip = gossip(7, now);
    gossip.handle_load(load(0, 0), now);
    run(&mut gossip, now, at(1_999));
    for request in 0..20 {
        gossip.handle_load(load(0, 30), at(2_000 + request * 40));
        gossip.handle_load(load(0, 0), at(2_000 + request * 40 + 30));
    }
    let all = |sent: Vec<(Instant, LoadSend)>| -> Vec<_> {
        sent.into_iter().filter(|(_, send)| send.to.len() == 7).map(|(at, _)| at).collect()
    };
    assert!(all(run(&mut gossip, at(2_000), at(2_999))).is_empty(), "each request is over soon");
    gossip.handle_load(load(0, 30), at(3_000));
    assert_eq!(all(run(&mut gossip, at(3_000), at(3_500))), [at(3_100)]);
    gossip.handle_load(LoadRecord { draining: true, ..load(0, 30) }, at(3_500));
    assert_eq!(all(run(&mut gossip, at(3_500), at(3_600))), [at(3_500)]);
}

#[test]
fn load_that_changes_all_the_time_costs_hardly_more_than_peace() {
    for peers in [7, 63, 511] {
        let start = origin();
        let mut gossip = gossip(peers, start);
        let mut datagrams = 0;
        for half_seconds in 0..600 {
            let now = start + Duration::from_millis(500) * half_seconds;
            gossip.handle_load(load(0, u64::from(half_seconds % 2) * 100), now);
            let sent = run(&mut gossip, now, now + Duration::from_millis(499));
            datagrams += sent.iter().map(|(_, send)| send.to.len() as u64).sum::<u64>();
        }
        let earned = Duration::from_secs(300).div_duration_f64(gossip.earned_in()).ceil() as u64;
        let most = (earned + u64::from(ANNOUNCEMENTS_IN_HAND)) * peers;
        assert!(datagrams <= most, "{datagrams} to {peers} in 300 s, at most {most}");
    }
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

/// Whatever the load does: every peer hears in time, announcements keep apart and within their budget, and each peer sees
/// rising sequences.
fn check_rates(waits: &[(u64, u8, u64)], peers: u64) {
    let start = origin();
    let mut now = start;
    let mut gossip = gossip(peers, now);
    let (mut heard, mut announced) = (BTreeMap::new(), Vec::new());
    for &(wait_ms, shed_level, pause_ms) in waits {
        gossip.handle_load(LoadRecord { shed_level, ..load(0, wait_ms) }, now);
        let end = now + Duration::from_millis(pause_ms);
        let (sent, told) = run_telling(&mut gossip, now, end);
        announced.extend(told);
        for (at, send) in sent {
            for peer in send.to {
                let sequence = send.records[0].sequence;
                if let Some((last_at, last)) = heard.insert(peer, (at, sequence)) {
                    assert_eq!(order(sequence, last, Duration::ZERO), Ordering::Greater);
                    assert!(at - last_at <= gossip.period() * 5 / 4);
                }
            }
        }
        now = end;
    }
    assert_eq!(heard.len() as u64, peers);
    assert!(announced.windows(2).all(|two| two[1] - two[0] >= GATHER_MIN));
    let earned = now.duration_since(start).div_duration_f64(gossip.earned_in()) as usize;
    assert!(announced.len() <= earned + ANNOUNCEMENTS_IN_HAND as usize);
}

/// All of few peers may be due together: that is no announcement, and one may follow at once.
#[test]
fn who_is_told_in_time_is_not_told_of_a_change() {
    let waits = [(0, 0, 524), (0, 1, 525), (2_560, 2, 255), (1_280, 2, 509), (1_280, 2, 338), (0, 0, 249)];
    check_rates(&waits, 5);
}

proptest! {
    #[test]
    fn rates_hold(waits in vec((0..5_000_u64, 0..3_u8, 0..700_u64), 1..60), peers in 3..40_u64) {
        check_rates(&waits, peers);
    }
}
