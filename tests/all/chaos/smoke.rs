//! A short series over real processes, so that the harness and the rules are held by every build.

use std::path::PathBuf;
use std::time::Duration;

use shoal_tests::chaos::{Machine, Outcome, Plan, Scenario};

/// Runs a scenario on three nodes at a rate that any machine can bear beside its other tests.
fn run(name: &str) -> Outcome {
    let dir = tempfile::tempdir().expect("a directory");
    let plan = Plan {
        program: PathBuf::from(env!("CARGO_BIN_EXE_shoal-cli")),
        nodes: 3,
        clients: 2,
        duration: Duration::from_secs(4),
        seed: 1,
        load: 0.5,
    };
    let scenario = Scenario::all(plan.nodes).into_iter().find(|scenario| scenario.name == name);
    let machine = Machine { texts_per_s: 400.0, tokens_per_text: 10.0 };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let run = async { plan.run(&scenario.expect("its name"), machine, dir.path()).await };
    let outcome = runtime.block_on(run).expect("the run itself works");
    let verdict = &outcome.verdict;
    assert_eq!((verdict.violations, verdict.lost, verdict.duplicated), (0, 0, 0), "{:#?}", verdict.told);
    assert!(verdict.asked > 100 && verdict.answered == verdict.asked, "{verdict:#?}");
    outcome
}

#[test]
fn a_killed_node_loses_and_doubles_nothing() {
    let verdict = run("kill-third").verdict;
    let killed = verdict.events.iter().filter(|event| event.takes).count();
    assert_eq!(killed, 1, "{:#?}", verdict.events);
    let [unrouted] = &verdict.unrouted[..] else { panic!("one look: {:#?}", verdict.unrouted) };
    assert!(unrouted.clients > 0 && unrouted.after_us < unrouted.watched_us, "{unrouted:#?}");
}

#[test]
fn a_lossy_network_loses_packets_and_no_request() {
    let outcome = run("loss");
    assert!(outcome.wire.lost > 0 && outcome.wire.duplicated > 0, "{:?}", outcome.wire);
}
