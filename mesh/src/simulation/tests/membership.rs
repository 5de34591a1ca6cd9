//! Who is there, and who is not.

use super::super::{address, node_id};
use super::{CALM, COUNT, Ground, MemberState, all_say, complete, seconds, settled, stormy, weathers};
use crate::core::fleet::origin;
use crate::core::{Life, Membership, MembershipOptions};

const SEEDS: std::ops::Range<u64> = 1..6;

/// Times that anybody was told that somebody is down.
fn downs(ground: &Ground) -> usize {
    ground.log.iter().filter(|(_, _, seen)| seen.state == MemberState::Down).count()
}

#[test]
fn a_newcomer_is_seen_by_all_within_two_seconds() {
    for (weather, seed) in weathers().into_iter().flat_map(|weather| SEEDS.map(move |seed| (weather, seed))) {
        let mut ground = settled(weather, seed);
        let newcomer = ground.join();
        let took = ground.until("the newcomer is seen", seconds(2), complete);
        assert!(ground.members.counters(newcomer).expect("a member").membership.renewals == 0, "{took:?}");
    }
}

#[test]
fn a_killed_node_is_suspect_then_down_in_the_documented_times() {
    for (weather, seed) in weathers().into_iter().flat_map(|weather| SEEDS.map(move |seed| (weather, seed))) {
        let mut ground = settled(weather, seed);
        let start = ground.now();
        ground.members.kill(5);
        let doubted = [MemberState::Suspect, MemberState::Down];
        ground.until("it is suspect", seconds(4), |ground| all_say(ground, 5, &doubted));
        ground.until("it is down", seconds(6), |ground| all_say(ground, 5, &[MemberState::Down]));
        let took = ground.now() - start;
        assert!(took >= seconds(2), "a suspect has two seconds to refute, seed {seed}: {took:?}");
        assert!(took <= seconds(6), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_restarted_node_replaces_its_former_life_at_once() {
    for (weather, seed) in weathers().into_iter().flat_map(|weather| SEEDS.map(move |seed| (weather, seed))) {
        let mut ground = settled(weather, seed);
        ground.start(5, 2_000);
        ground.until("the new life is seen", seconds(2), complete);
        assert_eq!(downs(&ground), 0, "nobody had to be declared dead, seed {seed}");
    }
}

#[test]
fn the_dead_come_back_only_as_a_higher_generation() {
    let mut ground = settled(stormy(0.05), 1);
    ground.members.kill(5);
    ground.until("it is down", seconds(6), |ground| all_say(ground, 5, &[MemberState::Down]));
    let before = ground.now();
    // Its clock was set back by an hour while it was away, and nothing was persisted.
    ground.start(5, 1);
    ground.until("it is back", seconds(10), complete);
    assert!(ground.generation(5) > 1_000, "above the life that the others buried");
    let risen = ground.log.iter().filter(|(at, _, seen)| *at >= before && seen.life.node == node_id(5));
    let mut risen = risen.filter(|(_, _, seen)| seen.state != MemberState::Down);
    assert!(risen.all(|(_, _, seen)| seen.life.generation > 1_000));
}

#[test]
fn a_partition_heals_within_two_seconds() {
    for (weather, seed) in weathers().into_iter().flat_map(|weather| SEEDS.map(move |seed| (weather, seed))) {
        let mut ground = settled(weather, seed);
        ground.partition(COUNT / 2);
        ground.run(seconds(10));
        let across = ground.state_of(0, COUNT - 1).expect("remembered");
        assert_eq!(across.1, MemberState::Down);
        ground.members.heal();
        ground.until("all are one again", seconds(2), complete);
    }
}

#[test]
fn a_node_that_lost_everybody_finds_its_way_back() {
    for seed in SEEDS {
        let mut ground = settled(stormy(0.05), seed);
        ground.partition(1);
        ground.run(seconds(60));
        assert!(ground.members.seen_by(0).all(|seen| seen.state == MemberState::Down));
        ground.members.heal();
        ground.until("it is back", seconds(6), complete);
    }
}

#[test]
fn two_that_hold_each_other_for_dead_find_each_other_without_seeds() {
    let mut ground = Ground::new(3, stormy(0.05), 1);
    ground.until("everybody sees everybody", seconds(3), complete);
    ground.members.kill(0);
    ground.partition(2);
    ground.run(seconds(60));
    ground.members.heal();
    ground.until("the two meet", seconds(6), complete);
}

#[test]
fn nobody_is_declared_dead_for_a_tenth_of_the_datagrams() {
    for seed in 1..3 {
        let mut ground = settled(stormy(0.1), seed);
        ground.run(seconds(300));
        assert_eq!(downs(&ground), 0, "seed {seed}");
        assert!(complete(&ground), "seed {seed}");
        for number in 0..COUNT {
            let counters = ground.members.counters(number).expect("a member").membership;
            assert_eq!((counters.renewals, counters.faults), (0, 0), "seed {seed}");
        }
    }
}

#[test]
fn a_node_that_was_stopped_accuses_nobody() {
    for (seed, nap) in SEEDS.flat_map(|seed| [1, 2, 3, 10, 60].map(|nap| (seed, nap))) {
        let mut ground = settled(CALM, seed);
        ground.members.stop(3);
        ground.run(seconds(nap));
        let slept = downs(&ground);
        ground.members.resume(3);
        ground.until("it is back", seconds(2), complete);
        ground.run(seconds(10));
        assert!(ground.members.counters(3).expect("a member").membership.stalls >= 1);
        let accused = ground
            .log
            .iter()
            .filter(|(_, _, seen)| seen.state != MemberState::Alive && seen.life.node != node_id(3));
        let accused: Vec<_> = accused.collect();
        assert!(accused.is_empty(), "seed {seed}, {nap} s: {accused:?}");
        assert_eq!(downs(&ground), slept, "seed {seed}, {nap} s");
    }
}

#[test]
fn who_leaves_is_down_without_being_suspect() {
    let mut ground = settled(stormy(0.05), 1);
    let sent = ground.members.traffic().packets;
    ground.members.leave(5);
    assert_eq!(ground.members.traffic().packets - sent, 6, "told more than once");
    ground.until("all know", seconds(1), |ground| all_say(ground, 5, &[MemberState::Down]));
}

#[test]
fn a_lone_node_dials_its_seeds_again_and_again() {
    let now = origin();
    let seed = address(1);
    let life = Life { node: node_id(0), generation: 1 };
    let own = address(0);
    let options = MembershipOptions { life, address: own, seeds: vec![own, seed], chance: 1 };
    let mut alone = Membership::new(options, now);
    let mut dials = 0;
    while let Some((at, _)) = alone.poll_timeout().filter(|(at, _)| *at < now + seconds(60)) {
        alone.handle_timeout(at);
        while let Some(dial) = alone.poll_dial() {
            assert_eq!(dial, seed, "never itself");
            dials += 1;
        }
    }
    assert!((12..=20).contains(&dials), "every half second at first, every five later: {dials}");
}
