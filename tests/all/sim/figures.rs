//! What routing is measured by, small enough for every commit.

use std::time::Duration;

use shoal_tests::sim::{Policy, Scenario, Since, Tie};

use super::{run, small};

#[test]
fn a_calm_mesh_answers_everybody_soon() {
    for policy in Policy::ALL {
        let report = run(Scenario { warm_up: Duration::from_secs(5), ..small(1, policy) }.at_load(0.6));
        assert!(report.failed.is_empty() && report.retries == 0, "{report:?}");
        assert!(report.p99 < Duration::from_millis(600), "{report:?}");
        assert!(report.cold_percent() < 1.0, "{report:?}");
    }
}

#[test]
fn whoever_talks_to_a_killed_node_leaves_it_within_a_second() {
    let scenario = Scenario { duration: Duration::from_secs(60), ..small(1, Policy::Router) };
    let report = run(scenario.at_load(0.6).with_kills());
    println!("{}", report.unrouted);
    let second = Duration::from_secs(1);
    let (clients, most) = report.unrouted.last(Tie::Attempt, Since::Death, 1.0);
    assert!(clients >= 5 && most < second, "{}", report.unrouted);
    // The others as soon as they wait there in vain, or are told.
    let (_, most) = report.unrouted.last(Tie::Connection, Since::Wait, 1.0);
    assert!(most < second, "{}", report.unrouted);
    assert!(report.failed.is_empty(), "{report:?}");
}
