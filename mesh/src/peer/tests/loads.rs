//! Loads in datagrams, and requests to load a model.

use shoal_protocol::DeviceIndex;
use shoal_protocol::message::{LoadRecord, LoadRequest};

use super::ground::Ground;
use super::{LATENCY, ms, state_of};
use crate::core::MemberState;
use crate::peer::{MeshState, News};

fn load(wait_us: u64) -> LoadRecord {
    LoadRecord { wait_us, tokens_per_s: 10_000, ..LoadRecord::default() }
}

#[tokio::test(start_paused = true)]
async fn a_changed_class_is_heard_everywhere_and_a_quiet_node_now_and_then() {
    let mut ground = Ground::new(50, LATENCY);
    ground.start(5);
    ground.node(2).set_load(load(5));
    ground.all_alive(ms(2000)).await;
    let (who, place) = (ground.id(2), (ground.id(2), DeviceIndex(0)));
    let says = |wait_us| {
        move |mesh: &MeshState| {
            let heard = mesh.loads.get(&place);
            mesh.life.node == who || heard.is_some_and(|heard| heard.record.wait_us == wait_us)
        }
    };
    ground.everybody("the first load", ms(1000), says(5)).await;
    ground.node(2).set_load(load(700_000));
    // An announcement is earned within 0.8 s.
    ground.everybody("the class that rose", ms(1200), says(700_000)).await;
    let heard_at = |ground: &Ground| ground.node(0).state().borrow().loads[&place].at;
    let before = heard_at(&ground);
    tokio::time::sleep(ms(3000)).await;
    let after = heard_at(&ground);
    assert!(after - before > ms(1500), "it is told again and again: {:?}", after - before);
    let counters = ground.counters(2).await;
    assert!((4 * 3..4 * 12).contains(&counters.loads_sent), "{counters:?}");
    assert_eq!((counters.breaches, counters.datagrams_dropped), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_load_of_the_dead_is_forgotten() {
    let mut ground = Ground::new(51, LATENCY);
    ground.start(3);
    ground.node(1).set_load(load(5));
    ground.all_alive(ms(2000)).await;
    let who = ground.id(1);
    let knows = |mesh: &MeshState| mesh.loads.keys().any(|(node, _)| *node == who);
    ground.everybody("its load", ms(1000), |mesh| mesh.life.node == who || knows(mesh)).await;
    ground.kill(1);
    ground.everybody("its death", ms(8000), |mesh| state_of(mesh, who) == Some(MemberState::Down)).await;
    ground.everybody("no load of the dead", ms(10), |mesh| !knows(mesh)).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_is_asked_to_load_a_model() {
    let mut ground = Ground::new(52, LATENCY);
    ground.start(3);
    ground.all_alive(ms(2000)).await;
    let wanted = LoadRequest { model: "minilm".to_owned(), device: DeviceIndex(0) };
    ground.node(0).request_load(ground.id(2), wanted.clone()).await;
    let asked = |news| match news {
        News::LoadRequested { from, request } => Some((from, request)),
        _ => None,
    };
    assert_eq!(ground.news(2, asked).await, (ground.id(0), wanted));
}
