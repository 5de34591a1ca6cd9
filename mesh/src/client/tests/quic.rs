//! What only a network can do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::ErrorCode;
use shoal_protocol::message::Role;

use crate::client::{Client, ConnectOptions, Encode};
use crate::identity::{Authority, Identity};
use crate::link::{BindError, ConnectError, Net, NetThread, QuicServer, QuicServerOptions};
use crate::testing::{ISSUER, LOOPBACK, Mood, TestService, connect, identity, over_quic, serve};

#[tokio::test]
async fn a_restarted_node_is_found_again_in_the_middle_of_a_call() {
    let service = TestService::new();
    let node = identity(Role::Node);
    let options = |addr| QuicServerOptions::new(addr, node.clone());
    let first = QuicServer::bind(options(LOOPBACK), service.clone()).unwrap();
    let addr = first.local_addr();
    let client = connect(addr).await;
    service.mood.send_replace(Mood::Stall);
    let call = client.encode(Encode::new("m", ["a"]));
    let restart = async {
        service.serving_is(1).await;
        drop(first);
        service.mood.send_replace(Mood::Work);
        service.serving_is(0).await;
        bind_again(|| QuicServer::bind(options(addr), service.clone())).await
    };
    let (done, _second) = tokio::join!(call, restart);
    assert_eq!(done.expect("served by the restarted node").items.len(), 1);
}

/// The old socket closes when quinn's driver has ended, some polls after the drop.
async fn bind_again<T>(bind: impl Fn() -> Result<T, BindError>) -> T {
    for _ in 0..1000 {
        match bind() {
            Err(BindError::Socket { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            bound => return bound.expect("only the address may be in the way"),
        }
    }
    panic!("the address stays in use");
}

/// A node on a thread of its own, so that its death takes everything with it and says nothing.
struct Mortal {
    net: NetThread,
    server: QuicServer,
}

impl Mortal {
    fn start(addr: SocketAddr, identity: &Identity, service: &Arc<TestService>) -> Result<Self, BindError> {
        let net = NetThread::start().expect("a thread");
        let options = QuicServerOptions::new(addr, identity.clone()).net(net.net());
        let server = QuicServer::bind(options, service.clone())?;
        Ok(Self { net, server })
    }

    /// Ends its tasks before its endpoint could say that it closes.
    fn crash(self) {
        drop(self.net);
        drop(self.server);
    }
}

#[tokio::test]
async fn a_crashed_node_that_restarts_is_noticed_before_the_idle_timeout() {
    let service = TestService::new();
    let node = identity(Role::Node);
    let first = Mortal::start(LOOPBACK, &node, &service).unwrap();
    let addr = first.server.local_addr();
    let client = connect(addr).await;
    client.encode(Encode::new("m", ["a"])).await.expect("served");
    first.crash();
    let _second = bind_again(|| Mortal::start(addr, &node, &service)).await;
    // The old connection is reset by the restarted node, which has the keys of its former self: a status, which is
    // not tried again, fails at once instead of at the idle timeout of 5 s.
    let start = tokio::time::Instant::now();
    assert!(client.status(false).await.is_err());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    client.encode(Encode::new("m", ["b"])).await.expect("served by the restarted node");
}

#[tokio::test]
async fn a_crash_under_many_calls_loses_none_of_them() {
    let service = TestService::new();
    let node = identity(Role::Node);
    let first = Mortal::start(LOOPBACK, &node, &service).unwrap();
    let addr = first.server.local_addr();
    let client = connect(addr).await;
    service.mood.send_replace(Mood::Stall);
    // More than the retry budget covers.
    let calls = futures_util::future::join_all((0..40).map(|_| client.encode(Encode::new("m", ["a"]))));
    let restart = async {
        service.serving_is(40).await;
        first.crash();
        service.mood.send_replace(Mood::Work);
        bind_again(|| Mortal::start(addr, &node, &service)).await
    };
    let (done, _second) = tokio::join!(calls, restart);
    for call in done {
        assert_eq!(call.expect("served by the restarted node").items.len(), 1);
    }
}

#[tokio::test]
async fn a_client_that_vanishes_frees_its_slot() {
    let service = TestService::new();
    let server = serve(&service, LOOPBACK);
    let addr = server.local_addr();
    service.mood.send_replace(Mood::Stall);
    let net = NetThread::start().expect("a thread");
    // Dropping the runtime drops its tasks in the middle: nothing is said to the node.
    let asking = net.net().tasks().spawn(async move {
        let client = connect(addr).await;
        client.encode(Encode::new("m", ["a"])).await
    });
    service.serving_is(1).await;
    drop(net);
    service.serving_is(0).await;
    assert!(asking.await.expect_err("never answered").is_cancelled());
}

#[test]
fn a_node_on_a_thread_of_its_own_answers_while_its_starters_runtime_stands_still() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let service = TestService::new();
    let still = runtime();
    let node = still.block_on(async { Mortal::start(LOOPBACK, &identity(Role::Node), &service).unwrap() });
    // From here on nobody polls `still`.
    let done = runtime().block_on(async {
        let client = connect(node.server.local_addr()).await;
        client.encode(Encode::new("m", ["a"])).await
    });
    assert_eq!(done.expect("served").items.len(), 1);
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let service = TestService::new();
    let server = serve(&service, LOOPBACK);
    let elsewhere = Authority::create().unwrap().issuer().unwrap();
    let stranger = elsewhere.issue(Role::Client, "stranger").unwrap();
    let refused = Client::connect(ConnectOptions::new([server.local_addr()], stranger)).await;
    // The stranger does not trust the node either, and finds out first.
    assert!(matches!(refused.map(drop), Err(ConnectError::Untrusted { .. })));

    // One that trusts the node all the same.
    let mut stranger = elsewhere.issue(Role::Client, "stranger").unwrap();
    stranger.authority = identity(Role::Client).authority;
    let refused = Client::connect(ConnectOptions::new([server.local_addr()], stranger)).await;
    assert!(matches!(refused.map(drop), Err(ConnectError::Forbidden { .. })));

    let impostor = QuicServerOptions::new(LOOPBACK, identity(Role::Client));
    let refused = QuicServer::bind(impostor, service.clone());
    assert!(matches!(refused.map(drop), Err(BindError::Role(Role::Client))));

    let served = connect(server.local_addr()).await;
    served.encode(Encode::new("m", ["a"])).await.expect("others are not harmed");
}

#[tokio::test]
async fn shutdown_lets_work_finish_and_takes_no_more() {
    let world = over_quic().await;
    let server = world.server.unwrap();
    world.service.mood.send_replace(Mood::Hold);
    let call = world.client.encode(Encode::new("m", ["a"]));
    let leave = async {
        world.service.serving_is(1).await;
        let late = world.client.clone();
        let leaving = server.shutdown(Duration::from_secs(20));
        let after = async {
            let call = Encode::new("m", ["b"]).when_overloaded(crate::WhenOverloaded::Fail);
            let refused = late.encode(call).await.expect_err("the node is leaving");
            world.service.mood.send_replace(Mood::Work);
            refused
        };
        tokio::join!(leaving, after)
    };
    let (done, (cut, refused)) = tokio::join!(call, leave);
    assert_eq!(done.expect("finished").items.len(), 1);
    assert_eq!(cut, 0);
    assert_eq!(refused.code(), ErrorCode::Draining);
}

#[tokio::test]
async fn shutdown_cuts_what_does_not_finish() {
    let world = over_quic().await;
    world.service.mood.send_replace(Mood::Stall);
    let call = world.client.encode(Encode::new("m", ["a"]).deadline(Duration::from_secs(5)));
    let leave = async {
        world.service.serving_is(1).await;
        let cut = world.server.unwrap().shutdown(Duration::from_millis(50)).await;
        world.service.serving_is(0).await;
        cut
    };
    let (done, cut) = tokio::join!(call, leave);
    assert_eq!(cut, 1);
    let code = done.expect_err("nobody is left").code();
    assert!(matches!(code, ErrorCode::Unavailable | ErrorCode::DeadlineExceeded), "{code:?}");
}

#[tokio::test]
async fn a_port_in_use_and_a_silent_port_are_told() {
    let taken = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    let addr = taken.local_addr().unwrap();
    let options = QuicServerOptions::new(addr, ISSUER.issue(Role::Node, "n").unwrap());
    let bound = QuicServer::bind(options, TestService::new());
    assert!(matches!(bound.map(drop), Err(BindError::Socket { .. })));
    let dialed = Client::connect(ConnectOptions::new([addr], identity(Role::Client))).await;
    assert!(matches!(dialed.map(drop), Err(ConnectError::NoAnswer { .. })));
    let nobody: [&str; 0] = [];
    let dialed = Client::connect(ConnectOptions::new(nobody, identity(Role::Client))).await;
    assert!(matches!(dialed.map(drop), Err(ConnectError::NoAddress)));
}
