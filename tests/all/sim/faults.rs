//! Things go wrong, one at a time and all together; the rules hold.

use std::time::Duration;

use shoal_protocol::ErrorCode;
use shoal_tests::sim::{Ailments, Fault, Peer, Policy, Scenario, World};

use super::{run, small};

const POLICY: Policy = Policy::Router;
/// How an overloaded mesh may end a request; the last where another holder's load takes longer than the caller has.
const SHED: [ErrorCode; 3] = [ErrorCode::Overloaded, ErrorCode::DeadlineExceeded, ErrorCode::Loading];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The small scenario with these faults: (second, fault).
fn with(seed: u64, faults: impl IntoIterator<Item = (u64, Fault)>) -> Scenario {
    let faults = faults.into_iter().map(|(at, fault)| (seconds(at), fault)).collect();
    Scenario { faults, ..small(seed, POLICY) }
}

#[test]
fn one_seed_is_one_history() {
    let trace = |seed| run(small(seed, POLICY).stormy());
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1).trace, trace(2).trace);
}

#[test]
fn half_of_the_nodes_killed_at_once_cost_nobody_an_answer() {
    for seed in 1..4 {
        let report = run(with(seed, (0..4).map(|node| (5, Fault::Kill(node)))));
        assert!(report.failed.is_empty(), "{report:?}");
        assert!(report.retries > 0, "somebody's node died under the work");
    }
}

#[test]
fn deaths_that_overtake_the_retries_of_others_cost_nobody_an_answer() {
    let faults = (0..5).map(|node| (5 + u64::from(node) / 2, Fault::Kill(node)));
    let report = run(with(2, faults));
    assert!(report.failed.is_empty(), "{report:?}");
}

#[test]
fn the_last_node_answers_for_all() {
    let faults = (1..8).map(|node| (seconds(5), Fault::Kill(node))).collect();
    let scenario = Scenario { models: 6, faults, ..small(3, POLICY) };
    let report = run(scenario.at_load(0.05));
    assert!(report.failed.is_empty() && report.answered > 0, "{report:?}");
}

#[test]
fn a_third_killed_under_load_sheds_and_loses_nothing() {
    let faults = (0..3).map(|node| (seconds(5), Fault::Kill(node))).collect();
    let scenario =
        Scenario { nodes: 10, deadline: seconds(3), may_overload: true, faults, ..small(4, POLICY) };
    let report = run(scenario.at_load(0.7));
    assert!(report.failed.keys().all(|code| SHED.contains(code)), "{report:?}");
    assert!(report.answered * 10 > report.requests * 7, "{report:?}");
}

#[test]
fn nodes_that_are_restarted_one_after_another_cost_nobody_an_answer() {
    let faults = (0..8).flat_map(|node| {
        let at = 2 + u64::from(node);
        [(at, Fault::Kill(node)), (at + 1, Fault::Restart(node))]
    });
    assert!(run(with(1, faults)).failed.is_empty());
}

#[test]
fn nodes_that_drain_fail_nothing() {
    let report = run(with(2, (0..4).map(|node| (3, Fault::Drain(node, seconds(25))))));
    assert!(report.failed.is_empty(), "{report:?}");
}

#[test]
fn a_stopped_node_is_left_within_the_beacons_patience() {
    let faults =
        [(3, Fault::Stop(0)), (3, Fault::Stop(1)), (13, Fault::Continue(0)), (13, Fault::Continue(1))];
    let report = run(with(3, faults));
    assert!(report.failed.is_empty(), "{report:?}");
    // The longest silence that is still waited for, and the work itself.
    assert!(report.p99 < seconds(4), "{report:?}");
}

#[test]
fn cut_links_in_either_direction_lose_nothing() {
    let cuts = (0..4).flat_map(|client| {
        let (client, near, far) = (Peer::Client(client), Peer::Node(client), Peer::Node(client + 4));
        [(3, Fault::Cut(client, near)), (4, Fault::Cut(far, client))]
    });
    let report = run(with(4, cuts.chain([(10, Fault::Heal)])));
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(report.retries > 0, "answers were on the links that were cut");
}

#[test]
fn members_that_hear_each_other_one_way_lose_nothing_and_agree_afterwards() {
    // Half of the members are not heard by the other half, and clients reach them all.
    let halves = (0..4).flat_map(|near| (4..8).map(move |far| (Peer::Node(near), Peer::Node(far))));
    let cuts = halves.map(|(near, far)| (2, Fault::Cut(near, far)));
    let report = run(with(9, cuts.chain([(12, Fault::Heal)])));
    assert!(report.failed.is_empty(), "{report:?}");
}

#[test]
fn parted_members_lose_nothing_and_agree_afterwards() {
    let halves = (0..4).flat_map(|near| (4..8).map(move |far| (Peer::Node(near), Peer::Node(far))));
    let cuts = halves.flat_map(|(near, far)| [(2, Fault::Cut(near, far)), (2, Fault::Cut(far, near))]);
    let report = run(with(10, cuts.chain([(12, Fault::Heal)])));
    assert!(report.failed.is_empty(), "{report:?}");
}

#[test]
fn a_slow_node_costs_nobody_an_answer() {
    let slow = Ailments { slowdown: 5.0, lag: Duration::from_millis(100), ..Ailments::default() };
    let faults = [(2, Fault::Ail(0, slow)), (10, Fault::Ail(0, Ailments::default()))];
    let report = run(with(11, faults));
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(report.p99 < seconds(3), "{report:?}");
}

#[test]
fn hung_devices_and_failing_loads_are_left_for_others() {
    let hung = Ailments { hangs: true, ..Ailments::default() };
    let broken = Ailments { loads_fail: 1.0, ..Ailments::default() };
    let faults = [
        (2, Fault::Ail(0, hung)),
        (2, Fault::Ail(1, broken)),
        (8, Fault::Ail(0, Ailments::default())),
        (10, Fault::Ail(1, Ailments::default())),
    ];
    assert!(run(with(5, faults)).failed.is_empty());
}

#[test]
fn when_nobody_lives_every_request_still_has_one_outcome() {
    let report = run(with(6, (0..8).map(|node| (5, Fault::Kill(node)))));
    assert!(report.answered > 0);
    let failed: u64 = report.failed.values().sum();
    assert_eq!(report.answered + failed, report.requests);
}

#[test]
fn overload_is_answered_with_refusals_and_deadlines_only() {
    let (deadline, duration) = (seconds(1), seconds(4));
    let scenario = Scenario { nodes: 2, deadline, duration, may_overload: true, ..small(7, POLICY) };
    let report = run(scenario.at_load(2.0));
    assert!(report.failed.keys().all(|code| SHED.contains(code)), "{report:?}");
    assert!(report.failed.values().sum::<u64>() > 0 && report.answered > 0, "{report:?}");
}

#[test]
fn storms_break_no_rule() {
    for seed in 1..7 {
        run(small(seed, POLICY).stormy());
    }
}

#[test]
fn a_rule_that_is_broken_ends_the_run() {
    // Devices that can do nothing and may not be blamed: not every request can be answered.
    let scenario = Scenario { nodes: 2, deadline: seconds(1), ..small(8, POLICY) };
    let report = World::new(scenario.at_load(3.0)).run();
    assert!(report.violations.iter().any(|violation| violation.what.contains("was lost")), "{report:?}");
}
