//! What membership promises, against the network's moods.

use std::time::Duration;

use super::network::Weather;
use super::world::World;
use super::{origin, seconds};
use crate::core::{Life, MemberState, Membership, MembershipOptions};

const COUNT: usize = 8;
const SEEDS: std::ops::Range<u64> = 1..6;

fn weathers() -> [Weather; 3] {
    [Weather::CALM, Weather::stormy(5), Weather::stormy(10)]
}

/// Every living node sees every other living one under its present generation.
pub(super) fn complete(world: &World) -> bool {
    let living = || world.nodes.iter().enumerate().filter(|(_, node)| node.alive);
    living().all(|(a, node)| {
        living()
            .filter(|(b, _)| *b != a)
            .all(|(b, other)| node.state_of(b) == Some((other.generation, MemberState::Alive)))
    })
}

/// How every node but `gone` sees `gone`.
fn all_say(world: &World, gone: usize, wanted: &[MemberState]) -> bool {
    let others = world.nodes.iter().enumerate().filter(|(index, node)| *index != gone && node.alive);
    others.into_iter().all(|(_, node)| node.state_of(gone).is_some_and(|(_, state)| wanted.contains(&state)))
}

/// Times that anybody was told that somebody is down.
fn downs(world: &World) -> usize {
    let down = |node: &super::node::Node| {
        node.log.iter().filter(|(_, seen)| seen.state == MemberState::Down).count()
    };
    world.nodes.iter().map(down).sum()
}

fn settled(weather: Weather, seed: u64) -> World {
    let mut world = World::new(COUNT, weather, seed);
    world.until("everybody sees everybody", seconds(3), complete);
    world.run(seconds(5));
    world
}

#[test]
fn a_newcomer_is_seen_by_all_within_two_seconds() {
    for (weather, seed) in weathers().into_iter().flat_map(|weather| SEEDS.map(move |seed| (weather, seed))) {
        let mut world = settled(weather, seed);
        let newcomer = world.join();
        let took = world.until("the newcomer is seen", seconds(2), complete);
        assert!(world.nodes[newcomer].membership.counters().renewals == 0, "{took:?}");
    }
}

#[test]
fn a_killed_node_is_suspect_then_down_in_the_documented_times() {
    for (weather, seed) in weathers().into_iter().flat_map(|weather| SEEDS.map(move |seed| (weather, seed))) {
        let mut world = settled(weather, seed);
        let start = world.now;
        world.kill(5);
        let doubted = [MemberState::Suspect, MemberState::Down];
        world.until("it is suspect", seconds(4), |world| all_say(world, 5, &doubted));
        world.until("it is down", seconds(6), |world| all_say(world, 5, &[MemberState::Down]));
        let took = world.now - start;
        assert!(took >= seconds(2), "a suspect has two seconds to refute, seed {seed}: {took:?}");
        assert!(took <= seconds(6), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_restarted_node_replaces_its_former_life_at_once() {
    for (weather, seed) in weathers().into_iter().flat_map(|weather| SEEDS.map(move |seed| (weather, seed))) {
        let mut world = settled(weather, seed);
        world.restart(5, 2_000);
        world.until("the new life is seen", seconds(2), complete);
        assert_eq!(downs(&world), 0, "nobody had to be declared dead, seed {seed}");
    }
}

#[test]
fn the_dead_come_back_only_as_a_higher_generation() {
    let mut world = settled(Weather::stormy(5), 1);
    world.kill(5);
    world.until("it is down", seconds(6), |world| all_say(world, 5, &[MemberState::Down]));
    let before = world.now;
    // Its clock was set back by an hour while it was away, and nothing was persisted.
    world.restart(5, 1);
    world.until("it is back", seconds(10), complete);
    assert!(world.nodes[5].generation > 1_000, "above the life that the others buried");
    for node in &world.nodes {
        let risen =
            node.log.iter().filter(|(at, seen)| *at >= before && seen.life.node == super::node::id(5));
        let risen = risen.filter(|(_, seen)| seen.state != MemberState::Down);
        assert!(risen.into_iter().all(|(_, seen)| seen.life.generation > 1_000));
    }
}

#[test]
fn a_partition_heals_within_two_seconds() {
    for (weather, seed) in weathers().into_iter().flat_map(|weather| SEEDS.map(move |seed| (weather, seed))) {
        let mut world = settled(weather, seed);
        world.partition(COUNT / 2);
        world.run(seconds(10));
        let across = world.nodes[0].state_of(COUNT - 1).expect("remembered");
        assert_eq!(across.1, MemberState::Down);
        world.network.heal();
        world.until("all are one again", seconds(2), complete);
    }
}

#[test]
fn a_node_that_lost_everybody_finds_its_way_back() {
    for seed in SEEDS {
        let mut world = settled(Weather::stormy(5), seed);
        world.partition(1);
        world.run(seconds(60));
        assert!(world.nodes[0].membership.members().all(|seen| seen.state == MemberState::Down));
        world.network.heal();
        world.until("it is back", seconds(6), complete);
    }
}

#[test]
fn two_that_hold_each_other_for_dead_find_each_other_without_seeds() {
    let mut world = World::new(3, Weather::stormy(5), 1);
    world.until("everybody sees everybody", seconds(3), complete);
    world.kill(0);
    world.partition(2);
    world.run(seconds(60));
    world.network.heal();
    world.until("the two meet", seconds(6), complete);
}

#[test]
fn nobody_is_declared_dead_for_a_tenth_of_the_datagrams() {
    for seed in 1..3 {
        let mut world = settled(Weather::stormy(10), seed);
        world.run(seconds(300));
        assert_eq!(downs(&world), 0, "seed {seed}");
        assert!(complete(&world), "seed {seed}");
        let renewals: u64 = world.nodes.iter().map(|node| node.membership.counters().renewals).sum();
        let faults: u64 = world.nodes.iter().map(|node| node.membership.counters().faults).sum();
        assert_eq!((renewals, faults), (0, 0), "seed {seed}");
    }
}

#[test]
fn a_node_that_was_stopped_accuses_nobody() {
    for (seed, nap) in SEEDS.zip([1, 2, 3, 10, 60]) {
        let mut world = settled(Weather::CALM, seed);
        world.sleep(3);
        world.run(seconds(nap));
        let slept = downs(&world);
        world.awaken(3);
        world.until("it is back", seconds(2), complete);
        world.run(seconds(10));
        assert!(world.nodes[3].membership.counters().stalls >= 1);
        let accused = world
            .nodes
            .iter()
            .flat_map(|node| &node.log)
            .filter(|(_, seen)| seen.state != MemberState::Alive && seen.life.node != super::node::id(3));
        assert_eq!(accused.count(), 0, "seed {seed}, {nap} s");
        assert_eq!(downs(&world), slept, "seed {seed}, {nap} s");
    }
}

#[test]
fn who_leaves_is_down_without_being_suspect() {
    let mut world = settled(Weather::stormy(5), 1);
    let (now, sent) = (world.now, world.sent.1);
    world.nodes[5].membership.handle_leave(now);
    world.flush(5);
    assert_eq!(world.sent.1 - sent, 6, "told more than once");
    world.run(Duration::from_millis(200));
    world.kill(5);
    world.until("all know", seconds(1), |world| all_say(world, 5, &[MemberState::Down]));
}

#[test]
fn a_lone_node_dials_its_seeds_again_and_again() {
    let now = origin();
    let seed = super::node::address(1);
    let life = Life { node: super::node::id(0), generation: 1 };
    let own = super::node::address(0);
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
