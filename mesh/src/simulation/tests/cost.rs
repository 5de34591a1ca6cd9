//! What it costs when nothing happens.

use super::super::Traffic;
use super::{CALM, Ground, complete, seconds};

/// Bytes a second that a node may send.
const BUDGET_BYTES_PER_S: u64 = 20_000;

/// What each member sends a second, over half a minute of peace: membership, facts and load.
fn steady(count: u16) -> Traffic {
    let mut ground = Ground::new(count, CALM, 1);
    ground.run(seconds(15));
    assert!(complete(&ground), "{count} members see each other after fifteen seconds");
    let before = ground.members.traffic();
    ground.run(seconds(30));
    let after = ground.members.traffic();
    let per_member = |after: u64, before: u64| (after - before) / 30 / u64::from(count);
    for number in 0..count {
        let loads: Vec<_> = ground.members.loads(number).collect();
        assert_eq!(loads.len(), usize::from(count) - 1, "member {number} hears everybody's load");
        let oldest = loads.iter().map(|(_, heard)| heard.at).min().expect("others");
        let age = ground.members.local(number) - oldest;
        assert!(age <= seconds(2 + u64::from(count) * 5 / 4 / 64), "member {number}: {age:?}");
    }
    Traffic {
        bytes: per_member(after.bytes, before.bytes),
        packets: per_member(after.packets, before.packets),
    }
}

#[test]
fn peace_is_cheap() {
    for count in [3, 8, 64] {
        let Traffic { bytes, packets } = steady(count);
        println!("{count} members: {bytes} B/s and {packets} packets/s each");
        assert!(bytes <= BUDGET_BYTES_PER_S, "{count} members: {bytes} B/s");
    }
}
