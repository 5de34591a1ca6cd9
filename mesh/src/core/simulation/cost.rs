//! What it costs when nothing happens.

use super::network::Weather;
use super::world::World;
use super::{membership, seconds};

/// Bytes a second that a node may send.
const BUDGET_BYTES_PER_S: u64 = 20_000;

/// Bytes and datagrams that each node sends a second, over half a minute of peace: membership, facts and load,
/// with what QUIC, UDP and IP put around each datagram.
fn steady(count: usize) -> (u64, u64) {
    let mut world = World::new(count, Weather::CALM, 1);
    world.run(seconds(15));
    assert!(membership::complete(&world), "{count} nodes see each other after fifteen seconds");
    let before = world.sent;
    world.run(seconds(30));
    let per_node = |after: u64, before: u64| (after - before) / 30 / count as u64;
    for (index, node) in world.nodes.iter().enumerate() {
        assert_eq!(node.loads.len(), count - 1, "node {index} hears everybody's load");
        let oldest = node.loads.values().min().expect("others");
        assert!(world.now - *oldest <= node.load.period() + seconds(1), "node {index}");
    }
    (per_node(world.sent.0, before.0), per_node(world.sent.1, before.1))
}

#[test]
fn peace_is_cheap() {
    for count in [8, 64] {
        let (bytes, datagrams) = steady(count);
        println!("{count} nodes: {bytes} B/s and {datagrams} datagrams/s a node");
        assert!(bytes <= BUDGET_BYTES_PER_S, "{count} nodes: {bytes} B/s");
    }
}
