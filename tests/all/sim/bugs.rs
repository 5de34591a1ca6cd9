//! Each rule catches the fault that it is there for: planted in every process of a run, it ends the run.

use std::time::Duration;

use shoal_tests::sim::{Bug, Fault, Machine, Policy, Scenario, World};

use super::{run, small};

/// The scenario is fine without the fault and breaks a rule with it, in these words.
#[track_caller]
fn assert_caught(scenario: &Scenario, bug: Bug, words: &str) {
    run(scenario.clone());
    let report = World::new(Scenario { bug: Some(bug), ..scenario.clone() }).run();
    let is_caught = report.violations.iter().any(|violation| violation.what.contains(words));
    assert!(is_caught, "{bug:?}: {:#?}", report.violations);
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn router(seed: u64) -> Scenario {
    small(seed, Policy::Router)
}

fn draining(seed: u64) -> Scenario {
    let at = |node| seconds(3 + u64::from(node));
    let faults = (0..4).map(|node| (at(node), Fault::Drain(node, seconds(25)))).collect();
    Scenario { faults, ..router(seed) }
}

/// More models than the nodes have room for together.
fn crowded(seed: u64) -> Scenario {
    Scenario { models: 80, zipf: 0.5, deadline: seconds(60), may_overload: true, ..router(seed) }.at_load(0.1)
}

#[test]
fn attempts_at_the_dead() {
    let scenario = Scenario { faults: vec![(seconds(5), Fault::Kill(0))], ..router(1).at_load(0.5) };
    assert_caught(&scenario, Bug::BindsToTheDead, "dead for");
    assert_caught(&scenario, Bug::NeverDoubts, "waits in vain");
}

#[test]
fn loads_of_one_model_at_many_nodes() {
    assert_caught(&crowded(2), Bug::EverybodyLoads, "which nobody holds");
}

#[test]
fn requests_that_a_leaving_node_had_taken() {
    assert_caught(&draining(3).at_load(0.5), Bug::DrainsAway, "drained away a request");
    assert_caught(&draining(3).at_load(0.5), Bug::LeavesAtOnce, "requests unanswered");
}

#[test]
fn models_that_only_a_leaving_node_held() {
    let scenario = Scenario { has_sole_copies: true, ..draining(4) };
    assert_caught(&scenario, Bug::LeavesSoleCopies, "leaves with the only copy");
}

#[test]
fn copies_given_back_without_need() {
    let scenario = Scenario { has_sole_copies: true, ..router(5) };
    assert_caught(&scenario, Bug::GivesBackUnpressed, "bytes free");
}

#[test]
fn followers_that_are_not_told_of_changes() {
    let faults = vec![(seconds(3), Fault::Kill(0)), (seconds(4), Fault::Restart(0))];
    assert_caught(&Scenario { faults, ..router(6) }, Bug::FeedsNoChanges, "said long ago");
}

#[test]
fn devices_over_their_bounds() {
    assert_caught(&crowded(7), Bug::HoldsTooMuch, "resident bytes");
    // More than they can do, with queues that are full before anybody's deadline is.
    let machine = Machine { queue_tokens_max: 1_600, tokens_per_s: 24_000.0, ..Machine::USUAL };
    let overloaded = Scenario { machine, nodes: 2, models: 6, may_overload: true, ..router(8) };
    let scenario = Scenario { duration: seconds(1), deadline: seconds(5), ..overloaded.at_load(3.0) };
    assert_caught(&scenario, Bug::QueuesTooMuch, "queued tokens");
}
