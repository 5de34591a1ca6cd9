//! What only a network can do.

use std::time::Duration;

use shoal_protocol::ErrorCode;
use shoal_protocol::message::Role;

use super::service::{Mood, TestService};
use super::world::{AUTHORITY, LOOPBACK, connect, identity, over_quic, serve};
use crate::client::{Client, ConnectOptions, Encode};
use crate::identity::Authority;
use crate::link::{BindError, ConnectError, QuicServer, QuicServerOptions};

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
async fn bind_again(bind: impl Fn() -> Result<QuicServer, BindError>) -> QuicServer {
    for _ in 0..1000 {
        match bind() {
            Err(BindError::Socket { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            bound => return bound.expect("only the address may be in the way"),
        }
    }
    panic!("the address stays in use");
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let service = TestService::new();
    let server = serve(&service, LOOPBACK);
    let elsewhere = Authority::create().unwrap();
    let stranger = elsewhere.issue(Role::Client, "stranger").unwrap();
    let refused = Client::connect(ConnectOptions::new([server.local_addr()], stranger)).await;
    // The stranger does not trust the node either, and finds out first.
    assert!(matches!(refused.map(drop), Err(ConnectError::Untrusted { .. })));

    let impostor = QuicServerOptions::new(LOOPBACK, identity(Role::Client));
    let refused = QuicServer::bind(impostor, service.clone());
    assert!(matches!(refused.map(drop), Err(BindError::Role(Role::Client))));

    let served = connect(server.local_addr()).await;
    served
        .encode(Encode::new("m", ["a"]))
        .await
        .expect("others are not harmed");
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
    let call = world
        .client
        .encode(Encode::new("m", ["a"]).deadline(Duration::from_secs(5)));
    let leave = async {
        world.service.serving_is(1).await;
        let cut = world.server.unwrap().shutdown(Duration::from_millis(50)).await;
        world.service.serving_is(0).await;
        cut
    };
    let (done, cut) = tokio::join!(call, leave);
    assert_eq!(cut, 1);
    let code = done.expect_err("nobody is left").code();
    assert!(
        matches!(code, ErrorCode::Draining | ErrorCode::DeadlineExceeded),
        "{code:?}"
    );
}

#[tokio::test]
async fn a_port_in_use_and_a_silent_port_are_told() {
    let taken = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    let addr = taken.local_addr().unwrap();
    let options = QuicServerOptions::new(addr, AUTHORITY.issue(Role::Node, "n").unwrap());
    let bound = QuicServer::bind(options, TestService::new());
    assert!(matches!(bound.map(drop), Err(BindError::Socket { .. })));
    let dialed = Client::connect(ConnectOptions::new([addr], identity(Role::Client))).await;
    assert!(matches!(dialed.map(drop), Err(ConnectError::NoAnswer { .. })));
    let nobody: [&str; 0] = [];
    let dialed = Client::connect(ConnectOptions::new(nobody, identity(Role::Client))).await;
    assert!(matches!(dialed.map(drop), Err(ConnectError::NoAddress)));
}
