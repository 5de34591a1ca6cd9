//! A client of three real members over real QUIC, in virtual time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use shoal_protocol::message::{LoadRecord, LoadReply, ModelState, Role};
use shoal_protocol::{DeviceIndex, Micros, NodeId};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, Completed, Encode};
use crate::core::ClientError;
use crate::testing::{Mesh, Mood, identity, vector};

const READY: &[(&str, ModelState)] = &[("m", ModelState::Ready)];
const STORED: &[(&str, ModelState)] = &[("m", ModelState::Stored)];
const PATIENCE: Duration = Duration::from_secs(60);

async fn call(client: &Client) -> Result<Completed, ClientError> {
    client.encode(Encode::new("m", ["a text"])).await
}

fn node_of(encoded: &Completed) -> NodeId {
    encoded.served_by.as_ref().expect("it was sent").node
}

/// Waits until what the client knows lets a call end at this node.
async fn until_served_by(client: &Client, node: NodeId) {
    let asking = async { while call(client).await.map(|done| node_of(&done)).ok() != Some(node) {} };
    timeout(PATIENCE, asking).await.expect("the client hears of it");
}

#[tokio::test(start_paused = true)]
async fn a_request_lands_where_the_model_is_hot() {
    let mesh = Mesh::new(1, 3).await;
    mesh.publish(1, STORED).await;
    mesh.publish(2, READY).await;
    let client = mesh.client_of(0).await;
    assert_eq!(client.nodes().len(), 3, "told of everybody before the first call");
    for _ in 0..20 {
        assert_eq!(node_of(&call(&client).await.expect("served")), mesh.id(2));
    }
    for other in [0, 1] {
        assert_eq!(mesh.members[other].service.requests.load(Ordering::SeqCst), 0);
    }
    let unknown = client.encode(Encode::new("nowhere", ["a"])).await;
    assert!(unknown.is_ok(), "what no facts answer is the entry's to say");
    assert_eq!(mesh.members[0].service.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn probes_find_the_idle_one() {
    let mesh = Mesh::new(2, 3).await;
    for number in 0..3 {
        mesh.publish(number, READY).await;
        mesh.members[number].service.wait_us.store(400_000, Ordering::SeqCst);
    }
    mesh.members[1].service.wait_us.store(0, Ordering::SeqCst);
    let client = mesh.client_of(0).await;
    call(&client).await.expect("the first dials"); // nobody is connected: its probes are lost
    sleep(Duration::from_secs(1)).await;
    let mut there = 0;
    for _ in 0..20 {
        there += usize::from(node_of(&call(&client).await.expect("served")) == mesh.id(1));
        sleep(Duration::from_millis(300)).await; // answers are too old then
    }
    assert!(there >= 18, "{there} of 20");
    // Two of the three are asked for each: gossip knows all.
    let asked = mesh.members.iter().map(|member| member.service.probes.load(Ordering::SeqCst));
    assert!(asked.sum::<usize>() >= 2 * 18);
}

#[tokio::test(start_paused = true)]
async fn a_killed_node_loses_nothing_and_the_answer_comes_within_a_second() {
    let mesh = Mesh::new(3, 3).await;
    let client = mesh.client_of(0).await;
    mesh.publish(1, READY).await;
    until_served_by(&client, mesh.id(1)).await;
    mesh.members[1].service.mood.send_replace(Mood::Hold);
    let calls: Vec<_> = (0..100).map(|n| format!("text {n}")).collect();
    let calls = join_all(calls.into_iter().map(|text| {
        let client = client.clone();
        async move {
            let done = client.encode(Encode::new("m", [text.clone()])).await.expect("nothing is lost");
            (Instant::now(), text, done)
        }
    }));
    let killing = async {
        mesh.members[1].service.serving_is(100).await;
        mesh.publish(2, READY).await;
        sleep(Duration::from_millis(500)).await; // the client has heard of it
        mesh.kill(1);
        Instant::now()
    };
    let (done, killed) = tokio::join!(calls, killing);
    let mut took: Vec<_> = done.iter().map(|(at, ..)| at.duration_since(killed)).collect();
    took.sort();
    assert!(took[98] < Duration::from_secs(1), "p99 of failover: {:?}", took[98]);
    for (_, text, done) in &done {
        let [Some(answer)] = done.items.iter().map(crate::ItemResult::vector).collect::<Vec<_>>()[..] else {
            panic!("exactly one answer: {:?}", done.items);
        };
        assert_eq!(answer.as_f32().expect("f32").as_ref(), vector(text));
        assert_eq!(node_of(done), mesh.id(2));
    }
    assert_eq!(mesh.members[2].service.requests.load(Ordering::SeqCst), 100, "each once");
}

#[tokio::test(start_paused = true)]
async fn the_entrys_death_is_not_noticed_by_callers_and_another_is_followed() {
    let mesh = Mesh::new(4, 3).await;
    mesh.publish(1, READY).await;
    let client = mesh.client_of(0).await;
    until_served_by(&client, mesh.id(1)).await;
    let mut entry = client.inner.entry.subscribe();
    mesh.kill(0);
    let killed = Instant::now();
    let calling = async {
        for _ in 0..10 {
            let start = Instant::now();
            assert_eq!(node_of(&call(&client).await.expect("served")), mesh.id(1));
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
            sleep(Duration::from_millis(400)).await;
        }
    };
    let moving = async {
        let moved = entry.wait_for(|entry| entry.node != mesh.id(0));
        timeout(PATIENCE, moved).await.expect("another is found").expect("the client lives");
        killed.elapsed()
    };
    let ((), moved_after) = tokio::join!(calling, moving);
    assert!(moved_after < Duration::from_secs(2), "its silence is noticed: {moved_after:?}");
    mesh.members[2].publish(&[("n", ModelState::Ready)]).await;
    let news = async {
        while node_of(&client.encode(Encode::new("n", ["a"])).await.expect("served")) != mesh.id(2) {}
    };
    timeout(PATIENCE, news).await.expect("news come over the new entry");
    let gone = async {
        while client.nodes().contains(&mesh.id(0)) {
            sleep(Duration::from_millis(100)).await
        }
    };
    timeout(PATIENCE, gone).await.expect("the death is told");
}

#[tokio::test(start_paused = true)]
async fn the_entry_may_return_as_another_node_or_from_another_place() {
    for seed in 0..2 {
        let mut mesh = Mesh::new(50 + seed, 3).await;
        let client = mesh.client_of(0).await;
        mesh.publish(0, READY).await;
        until_served_by(&client, mesh.id(0)).await;
        mesh.kill(0);
        let (former, new) = (mesh.id(0), (seed == 0).then(|| identity(Role::Node)));
        let on = if seed == 0 { 0 } else { 7 };
        mesh.restart(0, on, new).await;
        let id = mesh.id(0);
        assert_eq!(id != former, seed == 0);
        mesh.everybody(|state| state.life.node == id || state.facts.contains_key(&id)).await;
        mesh.publish(0, READY).await;
        until_served_by(&client, id).await;
        let told_apart = async {
            while client.nodes().contains(&former) != (id == former) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, told_apart).await.expect("nobody takes it for its former self");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stranger_at_a_nodes_address_is_one_node_less() {
    let mesh = Mesh::new(12, 3).await;
    mesh.publish(1, READY).await;
    mesh.publish(2, READY).await;
    let client = mesh.client_of(0).await;
    mesh.kill(1);
    let _stranger = mesh.usurp(1);
    for _ in 0..20 {
        assert_eq!(node_of(&call(&client).await.expect("served")), mesh.id(2));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_is_closed_and_dialed_again() {
    let mesh = Mesh::new(6, 3).await;
    mesh.publish(1, READY).await;
    let client = mesh.client_of(0).await;
    let connected = || client.inner.links.as_ref().expect("over QUIC").connected();
    until_served_by(&client, mesh.id(1)).await;
    assert_eq!(connected().len(), 2);
    sleep(Duration::from_secs(80)).await;
    assert_eq!(connected(), [mesh.id(0)], "the feed is in use");
    assert_eq!(node_of(&call(&client).await.expect("served")), mesh.id(1));
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_followed() {
    let mesh = Mesh::new(7, 3).await;
    mesh.publish(1, READY).await;
    mesh.publish(2, READY).await;
    let client = mesh.client_of(0).await;
    mesh.members[1].service.mood.send_replace(Mood::Redirect(mesh.id(2)));
    for _ in 0..20 {
        assert_eq!(node_of(&call(&client).await.expect("served")), mesh.id(2));
    }
    assert!(mesh.members[1].service.requests.load(Ordering::SeqCst) > 0, "it was asked");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_reached_directly_goes_through_the_entry() {
    let mesh = Mesh::new(8, 3).await;
    mesh.publish(1, READY).await;
    let client = mesh.client_of(0).await;
    mesh.part_client_from(1);
    let start = Instant::now();
    assert_eq!(node_of(&call(&client).await.expect("forwarded")), mesh.id(1));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    let start = Instant::now();
    call(&client).await.expect("forwarded");
    assert!(start.elapsed() < Duration::from_millis(50), "known by now: {:?}", start.elapsed());
    let status = client.status_of(mesh.id(1), false).await.expect("forwarded as well");
    assert_eq!(status.node, mesh.id(1));
    let refused = client.drain(mesh.id(1), None).await.expect_err("whoever got it would leave");
    assert!(matches!(refused, ClientError::Unreachable { .. }), "{refused}");
    let service = &mesh.members[1].service;
    service.mood.send_replace(Mood::Stall);
    let dropped = timeout(Duration::from_secs(1), call(&client)).await;
    assert!(dropped.is_err(), "beacons pass, and keep it waiting");
    service.serving_is(0).await;
    assert_eq!(service.cancelled.load(Ordering::SeqCst), 1, "the cancellation passes");
    assert_eq!(mesh.members[0].service.requests.load(Ordering::SeqCst), 0, "the entry served nothing");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_lost_behind_the_entry_goes_elsewhere() {
    let mesh = Mesh::new(9, 3).await;
    mesh.publish(1, READY).await;
    let client = mesh.client_of(0).await;
    mesh.part_client_from(1);
    call(&client).await.expect("forwarded");
    mesh.members[1].service.mood.send_replace(Mood::Hold);
    let killing = async {
        mesh.members[1].service.serving_is(1).await;
        mesh.publish(2, READY).await;
        sleep(Duration::from_millis(500)).await;
        mesh.kill(1);
    };
    let (done, ()) = tokio::join!(call(&client), killing);
    assert_eq!(node_of(&done.expect("elsewhere")), mesh.id(2));
}

#[tokio::test(start_paused = true)]
async fn more_calls_than_a_connection_takes_are_answered_all_the_same() {
    let mesh = Mesh::new(10, 3).await;
    let client = mesh.client_of(0).await;
    mesh.publish(1, READY).await;
    until_served_by(&client, mesh.id(1)).await;
    let service = &mesh.members[1].service;
    service.mood.send_replace(Mood::Hold);
    let calls = join_all((0..1300).map(|_| call(&client)));
    let release = async {
        service.serving_is(1024).await; // as many attempts as one connection may have
        service.mood.send_replace(Mood::Work);
    };
    let (done, ()) = tokio::join!(calls, release);
    for done in done {
        assert_eq!(done.expect("told to wait, and served then").items.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_asked_for_are_not_believed() {
    let mesh = Mesh::new(11, 3).await;
    mesh.publish(2, READY).await;
    let client = mesh.client_of(0).await;
    let load = LoadRecord { tokens_per_s: 1_000_000, ..LoadRecord::default() };
    for nonce in 0..1000 {
        let (model, ready_in_us) = (Some(ModelState::Ready), Micros(0));
        client.inner.shared.handle_reply(mesh.id(2), &LoadReply { nonce, load, model, ready_in_us });
    }
    let core = client.inner.core();
    let device = core.view().find(mesh.id(2)).and_then(|node| node.device(DeviceIndex(0)));
    assert!(device.expect("told").load.is_none());
}
