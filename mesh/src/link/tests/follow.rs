//! Followers and probes that ask for too much.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use shoal_protocol::DeviceIndex;
use shoal_protocol::message::{
    FactsDigest, LoadProbe, MeshUpdate, ModelFact, ModelState, NodeFacts, Numerics,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::*;
use crate::core::{Life, OwnFacts};
use crate::peer::MeshState;

fn record(number: u8, models: usize) -> NodeFacts {
    let model = |at: usize| ModelFact {
        name: format!("{at:0>200}"),
        aliases: Vec::new(),
        device: DeviceIndex(0),
        state: ModelState::Stored,
        numerics: Numerics::Any,
        bytes: shoal_protocol::Bytes(1),
        load_us: shoal_protocol::Micros(1),
    };
    let models = (0..models).map(model).collect();
    let life = Life { node: NodeId([number; 16]), generation: 1 };
    OwnFacts { models, ..OwnFacts::default() }.into_record(life, 1)
}

/// A service that knows of so many nodes with so many models each.
fn in_a_mesh(nodes: u8, models: usize) -> (Arc<TestService>, watch::Sender<Arc<MeshState>>) {
    let service = TestService::new();
    let facts: BTreeMap<_, _> =
        (0..nodes).map(|number| record(number, models)).map(Arc::new).map(entry).collect();
    let life = Life { node: NodeId([0; 16]), generation: 1 };
    let state = MeshState { life, members: Vec::new(), facts, loads: BTreeMap::new() };
    let (tell, told) = watch::channel(Arc::new(state));
    assert!(service.mesh.set(told).is_ok());
    (service, tell)
}

fn entry(record: Arc<NodeFacts>) -> (NodeId, Arc<NodeFacts>) {
    (record.node, record)
}

fn follow() -> Vec<u8> {
    bytes_of(Message::FactsDigest(FactsDigest { entries: Vec::new(), answer: false }))
}

fn probe(nonce: u64) -> Bytes {
    let model = "m".to_owned();
    bytes_of(Message::LoadProbe(LoadProbe { nonce, device: DeviceIndex(0), model })).into()
}

#[tokio::test]
async fn a_follower_is_told_everything_and_then_that_it_was() {
    let (service, tell) = in_a_mesh(3, 2);
    let server = serve(&service, LOOPBACK);
    let connection = greeted(&server).await;
    let mut feed = FrameSource::Quic(write(&connection, &follow()).await);
    let mut records = 0;
    loop {
        match feed.read().await.expect("told").message {
            Message::Facts(_) => records += 1,
            Message::MeshUpdate(MeshUpdate { settled: true, .. }) => break,
            _ => {}
        }
    }
    assert_eq!(records, 3);
    let refused = failure(write(&connection, &follow()).await).await;
    assert_eq!(refused.code, ErrorCode::Overloaded, "one feed a connection");
    drop(tell);
    let Message::Failure(over) = feed.read().await.expect("told").message else {
        panic!("a typed end");
    };
    assert_eq!(over.code, ErrorCode::Draining);
}

#[tokio::test]
async fn who_asks_a_lone_node_about_its_mesh_is_told_that_there_is_none() {
    let server = serve(&TestService::new(), LOOPBACK);
    let connection = greeted(&server).await;
    assert_eq!(failure(write(&connection, &follow()).await).await.code, ErrorCode::Unavailable);
}

#[tokio::test]
async fn a_follower_that_never_reads_is_cut_off_and_others_are_not_harmed() {
    let (service, _tell) = in_a_mesh(8, 2000); // 2 MB, twice what a stream's window takes
    let server = serve(&service, LOOPBACK);
    let connection = greeted(&server).await;
    let mut unread = write(&connection, &follow()).await;
    let start = Instant::now();
    let cut = unread.received_reset().await.expect("the connection stands");
    assert_eq!(cut.map(Code::from), Some(Code::Slow));
    assert!((4..8).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    let answer = FrameSource::Quic(write(&connection, &bytes_of(request())).await).read().await;
    assert!(matches!(answer.expect("served").message, Message::TaskResult(_)));
    let mut feed = FrameSource::Quic(write(&connection, &follow()).await);
    assert!(feed.read().await.is_ok(), "it may follow anew");
}

#[tokio::test]
async fn a_flood_of_probes_is_not_answered_and_harms_no_request() {
    let service = TestService::new();
    let server = serve(&service, LOOPBACK);
    let connection = greeted(&server).await;
    for nonce in 0..50_000 {
        connection.send_datagram_wait(probe(nonce)).await.expect("the connection stands");
    }
    let answer = FrameSource::Quic(write(&connection, &bytes_of(request())).await).read().await;
    assert!(matches!(answer.expect("served").message, Message::TaskResult(_)));
    let answered = service.probes.load(Ordering::SeqCst);
    assert!((1..25_000).contains(&answered), "{answered} of 50,000");
}

#[tokio::test]
async fn a_probe_is_answered_as_asked_and_one_for_a_missing_device_is_not() {
    let service = TestService::new();
    let server = serve(&service, LOOPBACK);
    let connection = greeted(&server).await;
    let missing = LoadProbe { nonce: 1, device: DeviceIndex(9), model: "m".to_owned() };
    connection.send_datagram(bytes_of(Message::LoadProbe(missing)).into()).unwrap();
    connection.send_datagram(probe(2)).unwrap();
    let answer = connection.read_datagram().await.unwrap();
    let Message::LoadReply(reply) = FrameSource::datagram(&answer).unwrap().message else {
        panic!("a reply");
    };
    assert_eq!(reply.nonce, 2);
}

/// A client that speaks the members' language on its own port is shown the door.
#[tokio::test]
async fn a_datagram_that_is_no_probe_ends_the_connection() {
    let server = serve(&TestService::new(), LOOPBACK);
    let membership = vec![crate::core::MEMBERSHIP_FORMAT; 64];
    let load = bytes_of(Message::Load(shoal_protocol::message::LoadRecord::default()));
    for datagram in [membership, load, Vec::new(), vec![0xff; 900]] {
        let connection = greeted(&server).await;
        connection.send_datagram(datagram.into()).unwrap();
        assert_eq!(closed_with(&connection).await, Code::Protocol);
    }
}
