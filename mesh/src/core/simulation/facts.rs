//! What facts promise, while membership says who lives.

use super::network::Weather;
use super::node::{Node, id};
use super::seconds;
use super::world::World;

const COUNT: usize = 8;

/// Every living node holds exactly the living nodes' present records.
fn agreed(world: &World) -> bool {
    let living = || world.nodes.iter().filter(|node| node.alive);
    let truth: Vec<_> = living().filter_map(|node| node.facts.record(node.membership.life().node)).collect();
    let present = |node: &Node| {
        let own = node.facts.record(node.membership.life().node);
        own.is_some_and(|own| own.generation == node.generation)
    };
    living().all(|node| present(node) && node.facts.records().eq(truth.iter().copied()))
}

#[test]
fn facts_converge_after_deaths_restarts_and_partitions() {
    for seed in 1..6 {
        let mut world = World::new(COUNT, Weather::stormy(5), seed);
        world.until("all know all", seconds(5), agreed);
        let now = world.now;
        world.nodes[3].hold(&["a", "b"], now);
        world.flush(3);
        world.until("a change is known", seconds(1), agreed);

        world.kill(5);
        world.until("the dead are forgotten", seconds(6), agreed);
        world.restart(5, 2_000);
        world.until("a new life is known", seconds(3), agreed);

        world.partition(COUNT / 2);
        world.run(seconds(5));
        for (index, name) in [(1, "left"), (6, "right")] {
            let now = world.now;
            world.nodes[index].hold(&[name], now);
            world.flush(index);
        }
        world.run(seconds(5));
        world.network.heal();
        world.until("both sides are known to both", seconds(30), agreed);
        assert!(world.nodes[0].facts.record(id(6)).is_some_and(|record| record.models[0].name == "right"));
    }
}

#[test]
fn a_quiet_mesh_stays_agreed_and_publishes_nothing() {
    let mut world = World::new(COUNT, Weather::stormy(10), 1);
    world.until("all know all", seconds(5), agreed);
    world.run(seconds(120));
    assert!(agreed(&world));
    assert!(world.nodes.iter().all(|node| node.facts.counters().published == 1));
    assert!(world.nodes.iter().all(|node| node.facts.counters().pulls == 0));
}
