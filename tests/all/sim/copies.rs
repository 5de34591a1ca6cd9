//! Models get as many holders as they need, and keep them while there is room.

use std::time::Duration;

use shoal_tests::sim::{Policy, Scenario};

use super::{run, small};

#[test]
fn a_hot_model_gets_further_holders_which_stay_while_there_is_room() {
    // Each model on one node, most requests for one of them: more than that node can do.
    let scenario = Scenario {
        zipf: 2.0,
        has_sole_copies: true,
        duration: Duration::from_secs(60),
        warm_up: Duration::from_secs(35),
        may_overload: true,
        ..small(1, Policy::Router)
    };
    let sole = u64::from(scenario.models);
    let report = run(scenario.at_load(0.3));
    assert!(report.loads > sole, "somebody else loaded it: {report:?}");
    let few = report.loads <= 2 * sole && report.evictions == 0;
    assert!(few, "fewer than one a model, and for good: {report:?}");
    assert!(report.p99 < Duration::from_secs(1), "{report:?}");
}
