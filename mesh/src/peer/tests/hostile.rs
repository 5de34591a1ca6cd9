//! Who must not come in, and members that do not keep to the protocol.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::udp::Transmit;
use quinn::{Connection, ConnectionError, Endpoint};
use shoal_protocol::message::{NodeFacts, Role};
use shoal_protocol::{Message, NodeId, WIRE_VERSION, encode};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::ground::{Ground, address};
use super::{LATENCY, model, ms, state_of};
use crate::core::Life;
use crate::identity::{Authority, Identity};
use crate::link::accept::greet;
use crate::link::codes::Code;
use crate::link::dial::{greet as say_hello, handshake};
use crate::link::hello::Own;
use crate::link::transport::{client_config, endpoint_config, server_config};
use crate::link::{Door, Net};
use crate::testing::identity;

/// Where the others come from.
fn elsewhere(port: u16) -> SocketAddr {
    SocketAddr::new([10, 0, 9, 9].into(), port)
}

/// Speaks the protocol by hand.
struct Raw {
    identity: Identity,
    own: Own,
    endpoint: Endpoint,
}

impl Raw {
    fn new(ground: &Ground, identity: Identity, port: u16) -> Self {
        let socket = ground.net.bind(elsewhere(port)).expect("a virtual address is free");
        let server = server_config(&identity.clone().into(), Door::Members).unwrap();
        let (config, runtime) = (endpoint_config(&identity), ground.net.quic_runtime());
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime).unwrap();
        let peer_address = Some(elsewhere(port));
        let own = Own { generation: 1_000_000, peer_address, ..Own::new(identity.node_id()) };
        Self { identity, own, endpoint }
    }

    async fn knock(&self, index: usize) -> Connection {
        let config = client_config(&self.identity.clone().into(), Door::Members).unwrap();
        handshake(&self.endpoint, config, address(index)).await.expect("TLS is through at this end")
    }

    async fn enter(&self, ground: &Ground, index: usize) -> Connection {
        let connection = self.knock(index).await;
        let hello = say_hello(&connection, &self.own, address(index), ground.id(index)).await;
        hello.expect("a member of this mesh");
        connection
    }
}

async fn closed(connection: &Connection) -> Code {
    match timeout(Duration::from_secs(3), connection.closed()).await.expect("closed at once") {
        ConnectionError::ApplicationClosed(close) => Code::from(close.error_code),
        other => panic!("closed otherwise: {other}"),
    }
}

async fn tell(connection: &Connection, bytes: &[u8]) {
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(bytes).await.unwrap();
    // Ends when the node closes the connection, which is what the caller waits for.
    let _ = stream.stopped().await;
}

fn facts_of(node: NodeId) -> NodeFacts {
    model(shoal_protocol::message::ModelState::Ready).into_record(Life { node, generation: 1_000_000 }, 1)
}

fn written(message: Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&message.into(), WIRE_VERSION, &mut bytes).unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn clients_and_strangers_stay_out() {
    let mut ground = Ground::new(30, LATENCY);
    ground.start(2);
    ground.all_alive(ms(2000)).await;
    let client = Raw::new(&ground, identity(Role::Client), 1);
    assert_eq!(closed(&client.knock(0).await).await, Code::Forbidden);
    let foreign = Authority::create().and_then(|root| root.issuer()?.issue(Role::Node, "foreign")).unwrap();
    let foreign = Raw::new(&ground, foreign, 2);
    let config = client_config(&foreign.identity.clone().into(), Door::Members).unwrap();
    assert!(handshake(&foreign.endpoint, config, address(0)).await.is_err(), "we are strangers to it, too");
    for index in 0..2 {
        let state = ground.node(index).state().borrow().clone();
        assert_eq!(state.members.len(), 1, "nobody new");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_speaks_for_another() {
    let mut ground = Ground::new(31, LATENCY);
    ground.start(3);
    ground.all_alive(ms(2000)).await;
    let liar = Raw::new(&ground, identity(Role::Node), 1);
    let connection = liar.enter(&ground, 0).await;
    tell(&connection, &written(Message::Facts(Box::new(facts_of(ground.id(1)))))).await;
    assert_eq!(closed(&connection).await, Code::Protocol);
    assert!(!ground.node(0).state().borrow().facts.contains_key(&ground.id(1)), "not believed");
    assert_eq!(ground.counters(0).await.facts.refused, 1);

    // What it says about itself is its own affair.
    let honest = Raw::new(&ground, identity(Role::Node), 2);
    let connection = honest.enter(&ground, 0).await;
    let who = honest.identity.node_id();
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&written(Message::Facts(Box::new(facts_of(who))))).await.unwrap();
    let mut state = ground.node(0).state();
    let heard = state.wait_for(|mesh| mesh.facts.contains_key(&who));
    timeout(ms(500), heard).await.expect("believed").expect("the driver lives");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_frame_closes_the_connection() {
    let mut ground = Ground::new(32, LATENCY);
    ground.start(2);
    ground.all_alive(ms(2000)).await;
    let who = identity(Role::Node);
    let misplaced = written(Message::StatusRequest(Default::default()));
    let whole = written(Message::Facts(Box::new(facts_of(who.node_id()))));
    let mut damaged = whole.clone();
    damaged[20..40].fill(0xff);
    let raw = Raw::new(&ground, who, 1);
    for bytes in [&b"not a frame at all"[..], &misplaced, &damaged, &whole[..12]] {
        let connection = raw.enter(&ground, 0).await;
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.finish().unwrap();
        assert_eq!(closed(&connection).await, Code::Protocol, "{bytes:?}");
    }
    let mut trailing = written(Message::Load(Default::default()));
    trailing.push(0);
    let misplaced = written(Message::FactsPull(pull(ground.id(0))));
    for datagram in [&[][..], &[1], &[1; 600], b"SHxx", &trailing, &misplaced] {
        let connection = raw.enter(&ground, 0).await;
        connection.send_datagram(datagram.to_vec().into()).unwrap();
        assert_eq!(closed(&connection).await, Code::Protocol, "{datagram:?}");
    }
    let connection = raw.enter(&ground, 0).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(b"again").await.unwrap();
    assert_eq!(closed(&connection).await, Code::Protocol);
    ground.all_alive(ms(100)).await;
}

fn pull(node: NodeId) -> shoal_protocol::message::FactsPull {
    let have = shoal_protocol::message::FactsVersion { node, generation: 0, version: 0 };
    shoal_protocol::message::FactsPull { have }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_breaks_the_protocol_is_dialed_again_within_bounds() {
    let mut ground = Ground::new(33, LATENCY);
    ground.start(2);
    ground.all_alive(ms(2000)).await;
    let raw = Raw::new(&ground, identity(Role::Node), 1);
    let connection = raw.enter(&ground, 0).await;
    connection.send_datagram(vec![0].into()).unwrap();
    assert_eq!(closed(&connection).await, Code::Protocol);
    let (start, mut dials) = (Instant::now(), Vec::new());
    while let Ok(Some(incoming)) = timeout(ms(5000), raw.endpoint.accept()).await {
        dials.push(start.elapsed());
        assert!(dials.len() < 40, "pauses grow: {dials:?}");
        if let Some(greeted) = greet(incoming, Door::Members, &raw.own).await {
            // The connection may be closed as the second of a pair already.
            let _ = greeted.connection.send_datagram(vec![0].into());
        }
        if start.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    assert!(dials.len() >= 3, "it is dialed again: {dials:?}");
    let early = dials.iter().filter(|at| **at < Duration::from_secs(1)).count();
    assert!(early <= 8, "both members, with growing pauses: {dials:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_strangers_is_bounded_and_stops_nobody() {
    let mut ground = Ground::new(34, LATENCY);
    ground.start(3);
    ground.all_alive(ms(2000)).await;
    let socket = ground.net.bind(elsewhere(9)).unwrap();
    for number in 0..500_u64 {
        let contents = vec![number as u8; 40 + number as usize];
        let transmit = Transmit {
            destination: address(1),
            ecn: None,
            contents: &contents,
            segment_size: None,
            src_ip: None,
        };
        socket.try_send(&transmit).unwrap();
    }
    let flood = Raw::new(&ground, identity(Role::Node), 1);
    let config = client_config(&flood.identity.clone().into(), Door::Members).unwrap();
    let mut knocks = JoinSet::new();
    for _ in 0..300 {
        let (endpoint, config) = (flood.endpoint.clone(), config.clone());
        knocks.spawn(async move { handshake(&endpoint, config, address(1)).await.is_ok() });
    }
    let done = knocks.join_all().await;
    let passed = done.iter().filter(|passed| **passed).count();
    assert!((1..=64).contains(&passed), "{passed} of 300 handshakes");
    assert!(ground.counters(1).await.handshakes_refused >= 200);
    // Members are there, and another host comes in while the silent connections are still waiting for their hello.
    ground.join();
    ground.all_alive(ms(1500)).await;
    let flooder = flood.identity.node_id();
    ground.everybody("nobody who said no hello", ms(10), |mesh| state_of(mesh, flooder).is_none()).await;
}
