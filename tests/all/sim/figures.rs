//! What routing is measured by, small enough for every commit.

use std::time::Duration;

use shoal_tests::sim::{Policy, Scenario};

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
