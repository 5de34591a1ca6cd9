//! Peers that do not keep to the protocol: each gets a typed answer or a closed connection, and nobody else notices.

mod follow;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint, RecvStream};
use shoal_protocol::header::Header;
use shoal_protocol::limits::REQUEST_BODY_BYTES_MAX;
use shoal_protocol::message::{Failure, Hello, Input, Priority, Role, StatusRequest, Task, TaskRequest};
use shoal_protocol::{
    ErrorCode, Frame, Kind, Message, NodeId, RequestId, VersionRange, WIRE_VERSION, encode,
};
use tokio::runtime::Handle;

use super::codes::Code;
use super::frames::{FrameError, FrameSource};
use super::net::{Net, TokioNet};
use super::server::{LinkLimits, QuicServer, QuicServerOptions};
use super::transport::{Door, client_config, endpoint_config, server_config};
use crate::client::{Client, ConnectOptions, Encode};
use crate::core::Lease;
use crate::identity::{Identity, LiveIdentity, NODE_SERVER_NAME};
use crate::link::ConnectError;
use crate::testing::{ISSUER, LOOPBACK, Mood, TestService, connect, identity, serve};

fn endpoint(identity: &Identity, server: Option<quinn::ServerConfig>) -> Endpoint {
    let net = TokioNet::new(Handle::current());
    let socket = net.bind(LOOPBACK).unwrap();
    Endpoint::new_with_abstract_socket(endpoint_config(identity), server, socket, net.quic_runtime()).unwrap()
}

/// A connection that has said nothing yet.
async fn raw(server: &QuicServer, identity: &Identity) -> Connection {
    raw_to(server, identity, Door::Clients).await
}

async fn raw_to(server: &QuicServer, identity: &Identity, door: Door) -> Connection {
    let endpoint = endpoint(identity, None);
    let config = client_config(&identity.clone().into(), door).unwrap();
    let connecting = endpoint.connect_with(config, server.local_addr(), NODE_SERVER_NAME);
    connecting.unwrap().await.expect("mutual trust")
}

fn bytes_of(message: Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&message.into(), WIRE_VERSION, &mut bytes).unwrap();
    bytes
}

fn hello(node: NodeId, version_min: u16, version_max: u16) -> Message {
    let (software, peer_address) = ("raw".to_owned(), None);
    Message::Hello(Hello { version_min, version_max, node, generation: 1, software, peer_address })
}

fn request() -> Message {
    Message::TaskRequest(TaskRequest {
        request_id: RequestId::new(1),
        part: 0,
        attempt: 0,
        to: None,
        redirects: 0,
        model: "m".to_owned(),
        items: vec![Input::Text("a".to_owned())],
        task: Task::default(),
        deadline_us: None,
        priority: Priority::Interactive,
        decision: Vec::new(),
        trace: None,
    })
}

/// Writes `bytes` on a new stream and ends it.
async fn write(connection: &Connection, bytes: &[u8]) -> RecvStream {
    let (mut send, recv) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    recv
}

/// A connection that has been greeted.
async fn greeted(server: &QuicServer) -> Connection {
    let identity = identity(Role::Client);
    let connection = raw(server, &identity).await;
    let own = bytes_of(hello(identity.node_id(), WIRE_VERSION, WIRE_VERSION));
    let theirs = FrameSource::Quic(write(&connection, &own).await).read().await.unwrap();
    assert!(matches!(theirs.message, Message::Hello(_)));
    connection
}

async fn failure(recv: RecvStream) -> Failure {
    let mut answer = FrameSource::Quic(recv);
    let Ok(Frame { message: Message::Failure(failure), .. }) = answer.read().await else {
        panic!("a typed failure is the answer");
    };
    assert!(matches!(answer.read().await, Err(FrameError::Ended)), "and the last word");
    failure
}

async fn closed_with(connection: &Connection) -> Code {
    match connection.closed().await {
        ConnectionError::ApplicationClosed(close) => Code::from(close.error_code),
        other => panic!("closed otherwise: {other}"),
    }
}

#[tokio::test]
async fn what_is_not_a_request_gets_a_typed_answer_and_harms_nothing_else() {
    let service = TestService::new();
    let server = serve(&service, LOOPBACK);
    let connection = greeted(&server).await;
    let header = |kind, length| {
        let schema = WIRE_VERSION;
        Header { kind, schema, length, hops: 0 }.encode().to_vec()
    };
    let whole = bytes_of(request());
    let status = bytes_of(Message::StatusRequest(StatusRequest { histograms: false, to: None }));
    let mut rotten = whole.clone();
    let root = rotten.len() - 64; // at the archive's end, with enums that have no such variant
    rotten[root..].fill(0xff);
    let hostile: [(&str, Vec<u8>); 9] = [
        ("nothing", Vec::new()),
        ("garbage", vec![0xa5; 4096]),
        ("half a header", whole[..9].to_vec()),
        ("half a body", whole[..whole.len() / 2].to_vec()),
        ("too large", header(Kind::TaskRequest, REQUEST_BODY_BYTES_MAX + 1)),
        ("an answer", header(Kind::End, 8)),
        ("an empty body", header(Kind::TaskRequest, 0)),
        ("rotten", rotten),
        ("two requests", [whole.clone(), status].concat()),
    ];
    for (what, bytes) in hostile {
        let failure = failure(write(&connection, &bytes).await).await;
        assert_eq!(failure.code, ErrorCode::InvalidRequest, "{what}: {}", failure.message);
    }
    let mut answer = FrameSource::Quic(write(&connection, &whole).await);
    let served = answer.read().await.expect("the connection still serves");
    assert!(matches!(served.message, Message::TaskResult(_)));
    assert_eq!(*service.serving.borrow(), 0);
    assert_eq!(service.requests.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_without_a_proper_hello_is_closed_with_the_reason() {
    let service = TestService::new();
    let server = serve(&service, LOOPBACK);
    let own = identity(Role::Client);
    let (id, other) = (own.node_id(), NodeId([1; 16]));
    let greetings = [
        (vec![0; 64], Code::Protocol),
        (bytes_of(request()), Code::Protocol),
        (bytes_of(hello(id, WIRE_VERSION, WIRE_VERSION))[..20].to_vec(), Code::Protocol),
        (bytes_of(hello(id, WIRE_VERSION + 7, WIRE_VERSION + 8)), Code::Version),
        (bytes_of(hello(other, WIRE_VERSION, WIRE_VERSION)), Code::Forbidden),
    ];
    for (bytes, code) in greetings {
        let connection = raw(&server, &own).await;
        let _answer = write(&connection, &bytes).await;
        assert_eq!(closed_with(&connection).await, code);
    }
    connect(server.local_addr()).await.status(false).await.expect("others are served");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let service = TestService::new();
    let server = serve(&service, LOOPBACK);
    let own = identity(Role::Client);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.authority.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"shoal-client/1".to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let connecting = endpoint(&own, None).connect_with(config, server.local_addr(), NODE_SERVER_NAME);
    let error = match connecting.unwrap().await {
        Ok(connection) => connection.closed().await, // the client's half is done before the node has looked
        Err(error) => error,
    };
    let ConnectionError::ConnectionClosed(close) = error else {
        panic!("refused otherwise: {error}");
    };
    // certificate_required (RFC 8446, section 6.2)
    assert_eq!(close.error_code, quinn::TransportErrorCode::crypto(116));
}

#[tokio::test]
async fn a_client_certificate_cannot_act_as_a_node() {
    let impostor = identity(Role::Client);
    let listening =
        endpoint(&impostor, Some(server_config(&impostor.clone().into(), Door::Clients).unwrap()));
    let options = ConnectOptions::new([listening.local_addr().unwrap()], identity(Role::Client));
    let accept = async { listening.accept().await.expect("dialed").await };
    let (dialed, _accepted) = tokio::join!(Client::connect(options), accept);
    assert!(matches!(dialed.map(drop), Err(ConnectError::Untrusted { .. })));
}

/// Roles and ports: a member's port is closed to everybody but nodes, whatever the ALPN that they say.
#[tokio::test]
async fn only_nodes_come_in_where_members_are() {
    let options = QuicServerOptions::new(LOOPBACK, identity(Role::Node)).door(Door::Members);
    let server = QuicServer::bind(options, TestService::new()).unwrap();
    for role in [Role::Client, Role::Operator] {
        let connection = raw_to(&server, &identity(role), Door::Members).await;
        assert_eq!(closed_with(&connection).await, Code::Forbidden, "{role:?}");
        let options = ConnectOptions::new([server.local_addr()], identity(role));
        let dialed = Client::connect(options).await.map(drop);
        assert!(matches!(dialed, Err(ConnectError::Forbidden { .. })), "no protocol in common: {dialed:?}");
    }
    let node = identity(Role::Node);
    let connection = raw_to(&server, &node, Door::Members).await;
    let own = bytes_of(hello(node.node_id(), WIRE_VERSION, WIRE_VERSION));
    let answer = FrameSource::Quic(write(&connection, &own).await).read().await.unwrap();
    assert!(matches!(answer.message, Message::Hello(_)));
}

/// A certificate that is over is none, on either side.
#[tokio::test]
async fn expired_certificates_are_refused_both_ways() {
    let expired =
        |role| ISSUER.issue_for(role, "old", Lease { from_unix_s: 1_000_000, until_unix_s: 2_000_000 });
    let server = serve(&TestService::new(), LOOPBACK);
    let options = ConnectOptions::new([server.local_addr()], expired(Role::Client).unwrap());
    let refused = Client::connect(options).await.map(drop);
    let told = |what: &str| what.contains("join again");
    assert!(matches!(&refused, Err(ConnectError::Forbidden { what, .. }) if told(what)), "{refused:?}");
    let options = QuicServerOptions::new(LOOPBACK, expired(Role::Node).unwrap());
    let server = QuicServer::bind(options, TestService::new()).unwrap();
    let options = ConnectOptions::new([server.local_addr()], identity(Role::Client));
    assert!(matches!(Client::connect(options).await.map(drop), Err(ConnectError::Untrusted { .. })));
}

/// A renewed certificate is shown from the next handshake on; what is connected stays connected.
#[tokio::test]
async fn a_replaced_certificate_is_shown_and_old_connections_go_on() {
    let now = crate::identity::unix_time_s();
    let brief = Lease { from_unix_s: now - 60, until_unix_s: now + 600 };
    let live = LiveIdentity::from(ISSUER.issue_for(Role::Node, "n", brief).unwrap());
    let options = QuicServerOptions::new(LOOPBACK, live.clone());
    let server = QuicServer::bind(options, TestService::new()).unwrap();
    let shown = async || {
        let connection = raw(&server, &identity(Role::Client)).await;
        super::accept::certified(&connection).unwrap()
    };
    let old = greeted(&server).await;
    assert_eq!(shown().await.lease, brief);
    live.replace(ISSUER.renew(&live.current(), now).unwrap()).unwrap();
    let renewed = shown().await;
    assert_eq!(renewed.key_id, live.current().node_id(), "the key is who it is");
    assert!(renewed.lease.until_unix_s > brief.until_unix_s);
    let answer = FrameSource::Quic(write(&old, &bytes_of(request())).await).read().await;
    assert!(matches!(answer.unwrap().message, Message::TaskResult(_)));
    assert!(live.replace(identity(Role::Node)).is_err(), "another key is another node");
    assert_eq!(shown().await.lease, renewed.lease);
}

#[tokio::test]
async fn attempts_and_bytes_beyond_the_limits_are_told_overloaded_at_once() {
    let service = TestService::new();
    let limits = LinkLimits {
        attempts_per_connection_max: 2,
        receiving_bytes_max: 64 * 1024,
        ..LinkLimits::default()
    };
    let options = QuicServerOptions::new(LOOPBACK, identity(Role::Node)).limits(limits);
    let server = QuicServer::bind(options, service.clone()).unwrap();
    service.mood.send_replace(Mood::Stall);
    let connection = greeted(&server).await;
    let held =
        [write(&connection, &bytes_of(request())).await, write(&connection, &bytes_of(request())).await];
    service.serving_is(2).await;
    let refused = failure(write(&connection, &bytes_of(request())).await).await;
    assert_eq!(refused.code, ErrorCode::Overloaded);
    assert_eq!(server.serving(), 2);
    for mut stream in held {
        stream.stop(Code::Cancelled.into()).unwrap();
    }
    service.serving_is(0).await;

    service.mood.send_replace(Mood::Work);
    let other = greeted(&server).await;
    let header = Header { kind: Kind::TaskRequest, schema: WIRE_VERSION, length: 100_000, hops: 0 };
    let refused = failure(write(&other, &header.encode()).await).await;
    assert_eq!(refused.code, ErrorCode::Overloaded);
    let small = FrameSource::Quic(write(&other, &bytes_of(request())).await).read().await;
    assert!(matches!(small.unwrap().message, Message::TaskResult(_)));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let limits = LinkLimits { connections_max: 1, ..LinkLimits::default() };
    let options = QuicServerOptions::new(LOOPBACK, identity(Role::Node)).limits(limits);
    let server = QuicServer::bind(options, TestService::new()).unwrap();
    let first = connect(server.local_addr()).await;
    let options = ConnectOptions::new([server.local_addr()], identity(Role::Client));
    let second = Client::connect(options).await;
    assert!(matches!(second.map(drop), Err(ConnectError::Overloaded { .. })));
    first.status(false).await.expect("the first is not harmed");
}

/// A node that greets in these versions and answers every request with `answer`.
fn hostile_node(
    version_min: u16,
    version_max: u16,
    answer: Vec<u8>,
) -> (SocketAddr, tokio::task::JoinSet<()>) {
    let own = identity(Role::Node);
    let listening = endpoint(&own, Some(server_config(&own.clone().into(), Door::Clients).unwrap()));
    let addr = listening.local_addr().unwrap();
    let mut node = tokio::task::JoinSet::new();
    node.spawn(async move {
        let greeting = bytes_of(hello(own.node_id(), version_min, version_max));
        while let Some(incoming) = listening.accept().await {
            let connection = incoming.await.expect("mutual trust");
            let mut answer_next = greeting.clone();
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                recv.read_to_end(1 << 20).await.expect("a request");
                send.write_all(&answer_next).await.expect("read");
                send.finish().expect("once");
                answer_next = answer.clone();
            }
        }
    });
    (addr, node)
}

#[tokio::test]
async fn a_node_of_another_age_is_refused_with_both_ranges_of_versions() {
    let (addr, _node) = hostile_node(WIRE_VERSION + 2, WIRE_VERSION + 3, Vec::new());
    let options = ConnectOptions::new([addr], identity(Role::Client));
    let refused = Client::connect(options).await.map(drop);
    let Err(ConnectError::Version { what, .. }) = &refused else { panic!("{refused:?}") };
    let ranges = [VersionRange { min: WIRE_VERSION + 2, max: WIRE_VERSION + 3 }, VersionRange::OURS];
    assert!(ranges.iter().all(|range| what.contains(&format!("{range:?}"))), "{what}");
    // One that is only somewhat newer speaks our version, too.
    let (addr, _node) = hostile_node(WIRE_VERSION, WIRE_VERSION + 1, Vec::new());
    connect(addr).await;
}

#[tokio::test]
async fn a_flood_of_handshakes_and_noise_harms_nobody_who_is_in() {
    let limits = LinkLimits { handshakes_max: 8, ..LinkLimits::default() };
    let options = QuicServerOptions::new(LOOPBACK, identity(Role::Node)).limits(limits);
    let server = QuicServer::bind(options, TestService::new()).unwrap();
    let inside = connect(server.local_addr()).await;
    let stranger = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    for length in 0..500 {
        stranger.send_to(&vec![length as u8; length], server.local_addr()).unwrap();
    }
    let own = identity(Role::Client);
    let (flood, config) = (endpoint(&own, None), client_config(&own.clone().into(), Door::Clients).unwrap());
    let mut knocks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let knock = flood.connect_with(config.clone(), server.local_addr(), NODE_SERVER_NAME).unwrap();
        knocks.spawn(async move { knock.await.ok() });
    }
    let silent: Vec<_> = knocks.join_all().await.into_iter().flatten().collect();
    assert!((1..=8).contains(&silent.len()), "{} of 100 handshakes", silent.len());
    inside.status(false).await.expect("who is in is served");
    silent.iter().for_each(|connection| connection.close(0_u32.into(), b""));
    let others = async {
        let options = || ConnectOptions::new([server.local_addr()], identity(Role::Client));
        while Client::connect(options()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(4), others)
        .await
        .expect("others come in once the flood is over");
}

#[tokio::test]
async fn answers_that_are_none_end_as_typed_errors_by_the_deadline() {
    let unknown_version = Header { kind: Kind::End, schema: 99, length: 4, hops: 0 }.encode();
    // What is no frame counts as the node's death, which is waited out until the deadline; a frame that does not belong there
    // is a node that breaks the protocol, and is asked a bounded number of times.
    let answers = [
        ("the end without a terminal frame", Vec::new(), ErrorCode::DeadlineExceeded),
        ("garbage", vec![0xff; 200], ErrorCode::DeadlineExceeded),
        ("a cut frame", bytes_of(request())[..30].to_vec(), ErrorCode::DeadlineExceeded),
        ("a version that nobody agreed on", unknown_version.to_vec(), ErrorCode::DeadlineExceeded),
        ("a request", bytes_of(request()), ErrorCode::Unavailable),
        ("a hello", bytes_of(hello(NodeId([3; 16]), 1, 1)), ErrorCode::Unavailable),
    ];
    for (what, answer, expected) in answers {
        let (addr, _node) = hostile_node(WIRE_VERSION, WIRE_VERSION, answer);
        let client = connect(addr).await;
        let call = Encode::new("m", ["a"]).deadline(Duration::from_secs(2));
        let error = client.encode(call).await.expect_err("no answer");
        assert_eq!(error.code(), expected, "{what}: {error}");
    }
}
