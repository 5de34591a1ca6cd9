//! What facts promise, while membership says who lives.

use super::{COUNT, Ground, agreed, node_id, seconds, stormy};

#[test]
fn facts_converge_after_deaths_restarts_and_partitions() {
    for seed in 1..6 {
        let mut ground = Ground::new(COUNT, stormy(0.05), seed);
        ground.until("all know all", seconds(5), agreed);
        ground.hold(3, &["a", "b"]);
        ground.until("a change is known", seconds(1), agreed);

        ground.members.kill(5);
        ground.until("the dead are forgotten", seconds(6), agreed);
        ground.start(5, 2_000);
        ground.until("a new life is known", seconds(3), agreed);

        ground.partition(COUNT / 2);
        ground.run(seconds(5));
        ground.hold(1, &["left"]);
        ground.hold(6, &["right"]);
        ground.run(seconds(5));
        ground.members.heal();
        ground.until("both sides are known to both", seconds(30), agreed);
        let record = ground.members.record(0, node_id(6));
        assert!(record.is_some_and(|record| record.models[0].name == "right"));
    }
}

#[test]
fn a_quiet_mesh_stays_agreed_and_publishes_nothing() {
    let mut ground = Ground::new(COUNT, stormy(0.1), 1);
    ground.until("all know all", seconds(5), agreed);
    ground.run(seconds(120));
    assert!(agreed(&ground));
    let counters = |number| ground.members.counters(number).expect("a member").facts;
    assert!((0..COUNT).all(|number| counters(number).published == 1));
    assert!((0..COUNT).all(|number| counters(number).pulls == 0));
}
