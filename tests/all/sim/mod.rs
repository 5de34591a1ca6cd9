//! The mesh in virtual time: some fixed seeds of it. Longer runs: `shoal-sim`.

mod bugs;
mod copies;
mod faults;
mod figures;
mod rules;

use std::time::Duration;

use shoal_tests::sim::{Policy, Report, Scenario, World};

/// Eight nodes, sixteen models, fifteen seconds at 30 % load, so that half of the nodes can carry it.
fn small(seed: u64, policy: Policy) -> Scenario {
    let scenario = Scenario {
        policy,
        nodes: 8,
        clients: 4,
        models: 16,
        duration: Duration::from_secs(15),
        warm_up: Duration::ZERO,
        ..Scenario::usual(seed)
    };
    scenario.at_load(0.3)
}

/// Runs it; no rule may break.
#[track_caller]
fn run(scenario: Scenario) -> Report {
    let report = World::new(scenario.clone()).run();
    assert!(report.violations.is_empty(), "{:#?}\nof {scenario:#?}", report.violations);
    report
}
