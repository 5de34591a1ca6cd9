//! Real QUIC over a bad network, in virtual time: minutes pass in milliseconds, and a seed is a history.

use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::message::Role;
use tokio::time::Instant;

use crate::client::{Client, ConnectOptions, Encode};
use crate::link::{ConnectError, QuicServer, QuicServerOptions};
use crate::testing::{LOOPBACK, Mood, TestService, VirtualNet, identity};

struct Weather {
    net: VirtualNet,
    service: Arc<TestService>,
    server: QuicServer,
}

impl Weather {
    fn new(seed: u64) -> Self {
        let net = VirtualNet::new(seed, Duration::from_millis(25));
        let service = TestService::new();
        let options = QuicServerOptions::new(LOOPBACK, identity(Role::Node)).net(net.clone());
        let server = QuicServer::bind(options, service.clone()).expect("a virtual address is free");
        Self { net, service, server }
    }

    async fn connect(&self) -> Result<Client, ConnectError> {
        let options = ConnectOptions::new([self.server.local_addr()], identity(Role::Client));
        Client::connect(options.net(self.net.clone())).await
    }
}

#[tokio::test(start_paused = true)]
async fn every_call_survives_five_percent_loss() {
    for seed in 0..4 {
        let weather = Weather::new(seed);
        weather.net.lose(5);
        let client = weather.connect().await.expect("a lost packet is sent again");
        let start = Instant::now();
        for n in 0..100 {
            let text = format!("text {n} {}", "x".repeat(3000));
            let done = client.encode(Encode::new("m", [text])).await;
            assert_eq!(done.expect("served").items.len(), 1, "seed {seed}");
        }
        // A round trip is 50 ms.
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_cable_is_told_and_a_mended_one_is_used_again() {
    let weather = Weather::new(7);
    let client = weather.connect().await.expect("fine weather");
    weather.net.lose(100);
    let start = Instant::now();
    let call = Encode::new("m", ["a"]).deadline(Duration::from_secs(20));
    let error = client.encode(call).await.expect_err("nobody can answer");
    assert!(start.elapsed() <= Duration::from_secs(20), "{error}");
    weather.net.lose(0);
    client.encode(Encode::new("m", ["a"])).await.expect("served again");
}

#[tokio::test(start_paused = true)]
async fn a_short_cut_in_the_middle_of_a_call_is_bridged() {
    for seed in 0..4 {
        let weather = Weather::new(seed);
        let client = weather.connect().await.expect("fine weather");
        weather.service.mood.send_replace(Mood::Hold);
        let call = client.encode(Encode::new("m", ["a"]));
        let cut = async {
            weather.service.serving_is(1).await;
            weather.net.lose(100);
            tokio::time::sleep(Duration::from_millis(1500)).await;
            weather.net.lose(0);
            weather.service.mood.send_replace(Mood::Work);
        };
        let (done, ()) = tokio::join!(call, cut);
        assert_eq!(done.expect("bridged").items.len(), 1, "seed {seed}");
        weather.service.serving_is(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_cut_off_frees_its_slot_at_the_idle_timeout() {
    let weather = Weather::new(1);
    let client = weather.connect().await.expect("fine weather");
    weather.service.mood.send_replace(Mood::Stall);
    let call = client.encode(Encode::new("m", ["a"]));
    let cut = async {
        weather.service.serving_is(1).await;
        weather.net.lose(100);
        let start = Instant::now();
        weather.service.serving_is(0).await;
        start.elapsed()
    };
    let (_failed, freed) = tokio::join!(call, cut);
    assert!(freed <= Duration::from_secs(6), "{freed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lone_node_that_returns_under_another_key_is_found_in_the_middle_of_a_call() {
    let weather = Weather::new(3);
    let client = weather.connect().await.expect("fine weather");
    let (addr, former) = (weather.server.local_addr(), client.entry());
    weather.net.kill(addr);
    let options = QuicServerOptions::new(addr, identity(Role::Node)).net(weather.net.clone());
    let _other = QuicServer::bind(options, weather.service.clone()).expect("the address is free again");
    client.encode(Encode::new("m", ["a"])).await.expect("served by whoever is there");
    assert_ne!(client.entry(), former);
}
