//! Real endpoints over a network in virtual time.

mod cost;
mod ground;
mod hostile;
mod loads;
mod weather;

use std::time::Duration;

use shoal_protocol::DeviceIndex;
use shoal_protocol::message::{ModelFact, ModelState, Numerics};
use shoal_protocol::{Bytes, Micros, NodeId};

use self::ground::Ground;
use crate::core::{MemberState, OwnFacts};
use crate::peer::MeshState;

const LATENCY: Duration = Duration::from_millis(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn model(state: ModelState) -> OwnFacts {
    let fact = ModelFact {
        name: "minilm".to_owned(),
        aliases: Vec::new(),
        device: DeviceIndex(0),
        state,
        numerics: Numerics::F32,
        bytes: Bytes(90 << 20),
        load_us: Micros(100_000),
    };
    OwnFacts { models: vec![fact], ..OwnFacts::default() }
}

#[tokio::test(start_paused = true)]
async fn eight_members_find_each_other_from_one_seed() {
    let mut ground = Ground::new(1, LATENCY);
    ground.start(8);
    ground.all_alive(ms(2000)).await;
    // One connection for each pair, whoever dialed.
    ground.linked(7, ms(2000)).await;
    for index in 0..8 {
        let counters = ground.counters(index).await;
        assert_eq!((counters.breaches, counters.membership.refused, counters.facts.refused), (0, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_facts_is_everywhere_within_half_a_second() {
    let mut ground = Ground::new(2, LATENCY);
    ground.start(8);
    ground.node(3).set_facts(model(ModelState::Stored)).await;
    ground.all_alive(ms(2000)).await;
    let who = ground.id(3);
    let has = |state| {
        move |mesh: &MeshState| mesh.facts.get(&who).is_some_and(|record| record.models[0].state == state)
    };
    ground.everybody("the first record", ms(2000), has(ModelState::Stored)).await;
    for state in [ModelState::Loading, ModelState::Ready] {
        ground.node(3).set_facts(model(state)).await;
        ground.everybody("the change", ms(500), has(state)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_member_is_suspect_and_then_down() {
    let mut ground = Ground::new(3, LATENCY);
    ground.start(5);
    ground.node(2).set_facts(model(ModelState::Ready)).await;
    ground.all_alive(ms(2000)).await;
    let who = ground.id(2);
    ground.everybody("facts", ms(2000), |mesh| mesh.facts.contains_key(&who)).await;
    ground.kill(2);
    ground.everybody("suspicion", ms(3000), |mesh| state_of(mesh, who) == Some(MemberState::Suspect)).await;
    ground.everybody("death", ms(5000), |mesh| state_of(mesh, who) == Some(MemberState::Down)).await;
    ground.everybody("no facts of the dead", ms(10), |mesh| !mesh.facts.contains_key(&who)).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_is_down_at_once() {
    let mut ground = Ground::new(4, LATENCY);
    ground.start(5);
    ground.all_alive(ms(2000)).await;
    let who = ground.id(4);
    ground.leave(4).await;
    ground.everybody("the farewell", ms(500), |mesh| state_of(mesh, who) == Some(MemberState::Down)).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_a_new_generation_at_once() {
    let mut ground = Ground::new(5, LATENCY);
    ground.start(5);
    ground.all_alive(ms(2000)).await;
    let (who, before) = (ground.id(1), ground.generation(1));
    ground.kill(1);
    ground.restart(1);
    ground
        .everybody("the new life", ms(1500), |mesh| {
            let seen = mesh.members.iter().find(|seen| seen.life.node == who);
            mesh.life.node == who
                || seen.is_some_and(|seen| seen.life.generation > before && seen.state == MemberState::Alive)
        })
        .await;
    ground.all_alive(ms(1500)).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_is_nobodys_identity() {
    let mut ground = Ground::new(6, LATENCY);
    ground.start(4);
    ground.all_alive(ms(2000)).await;
    let former = ground.id(2);
    ground.kill(2);
    ground.replace(2);
    let newcomer = ground.id(2);
    ground
        .everybody("the newcomer", ms(3000), |mesh| state_of(mesh, newcomer) == Some(MemberState::Alive))
        .await;
    ground.everybody("the former", ms(6000), |mesh| state_of(mesh, former) == Some(MemberState::Down)).await;
    ground
        .everybody("still there", ms(10), |mesh| state_of(mesh, newcomer) == Some(MemberState::Alive))
        .await;
}

fn state_of(mesh: &MeshState, node: NodeId) -> Option<MemberState> {
    // Nobody is a member to itself.
    if mesh.life.node == node {
        return Some(MemberState::Alive);
    }
    mesh.members.iter().find(|seen| seen.life.node == node).map(|seen| seen.state)
}
