//! The relay's decisions, in virtual time, and its shell over real sockets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use shoal_tests::chaos::{CLEAR, LOSSY, Packet, Relay, Wire};
use shoal_tests::sim::Peer;
use tokio::net::UdpSocket;

const A: Peer = Peer::Node(0);
const B: Peer = Peer::Node(1);
const C: Peer = Peer::Client(0);

fn packet(from: Peer, to: Peer, number: u32) -> Packet {
    Packet { from, to, route: 0, bytes: number.to_le_bytes().to_vec() }
}

/// Sends `count` packets a millisecond apart and gives what came out, with the time of each.
fn send(wire: &mut Wire, from: Peer, to: Peer, count: u32) -> Vec<(Duration, u32)> {
    let start = shoal::clock::now();
    let mut out = Vec::new();
    for number in 0..count {
        let now = start + Duration::from_millis(u64::from(number));
        wire.handle_packet(packet(from, to, number), now);
        drain(wire, now, start, &mut out);
    }
    while let Some(at) = wire.poll_timeout() {
        drain(wire, at, start, &mut out);
    }
    out
}

fn drain(wire: &mut Wire, now: Instant, start: Instant, out: &mut Vec<(Duration, u32)>) {
    while let Some(packet) = wire.poll_packet(now) {
        let number = packet.bytes.try_into().map(u32::from_le_bytes).expect("four bytes");
        out.push((now - start, number));
    }
}

#[test]
fn a_clear_wire_adds_nothing() {
    let mut wire = Wire::new(CLEAR, 1);
    let out = send(&mut wire, A, B, 100);
    assert!(
        out.iter().enumerate().all(|(at, (when, number))| {
            *number as usize == at && *when == Duration::from_millis(at as u64)
        })
    );
    assert_eq!(out.len(), 100);
    assert_eq!(wire.poll_timeout(), None);
}

#[test]
fn a_bad_wire_loses_doubles_delays_and_reorders() {
    let mut wire = Wire::new(LOSSY, 1);
    let out = send(&mut wire, A, B, 10_000);
    let counters = wire.counters();
    assert!((350..650).contains(&counters.lost), "{counters:?}");
    assert!((120..280).contains(&counters.duplicated), "{counters:?}");
    assert_eq!(out.len() as u64, 10_000 - counters.lost + counters.duplicated);
    let overtaken = out.windows(2).filter(|pair| pair[0].1 > pair[1].1).count();
    assert!(overtaken > 500, "{overtaken}");
    assert!(out.iter().all(|(at, number)| *at >= Duration::from_millis(u64::from(*number)) + LOSSY.delay));
}

#[test]
fn the_seed_decides_a_direction_whatever_the_others_do() {
    let alone = send(&mut Wire::new(LOSSY, 7), A, B, 500);
    let mut busy = Wire::new(LOSSY, 7);
    send(&mut busy, B, A, 300);
    send(&mut busy, C, B, 300);
    assert_eq!(send(&mut busy, A, B, 500), alone);
    assert_ne!(send(&mut Wire::new(LOSSY, 8), A, B, 500), alone);
}

#[test]
fn a_cut_has_one_direction_and_takes_what_is_under_way() {
    let mut wire = Wire::new(LOSSY, 1);
    let now = shoal::clock::now();
    for number in 0..50 {
        wire.handle_packet(packet(A, B, number), now);
    }
    wire.cut(A, B);
    assert_eq!(wire.poll_timeout(), None);
    assert!(send(&mut wire, A, B, 10).is_empty());
    assert!(!send(&mut wire, B, A, 50).is_empty());
    wire.set_weather(CLEAR);
    assert!(send(&mut wire, A, B, 10).is_empty(), "other weather heals nothing");
    wire.heal();
    assert_eq!(send(&mut wire, A, B, 10).len(), 10);
}

#[test]
fn what_is_under_way_is_bounded() {
    let mut wire = Wire::new(LOSSY, 1);
    let now = shoal::clock::now();
    for number in 0..100_000 {
        wire.handle_packet(packet(A, B, number), now);
    }
    let counters = wire.counters();
    assert!(counters.overflowed > 0);
    let mut out = Vec::new();
    drain(&mut wire, now + Duration::from_secs(60), now, &mut out);
    assert_eq!(out.len() as u64, 100_000 + counters.duplicated - counters.lost - counters.overflowed);
}

#[tokio::test]
async fn packets_cross_the_relay_both_ways_and_stop_at_a_cut() {
    let (local, node_ip) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from([127, 0, 0, 77]));
    let node = UdpSocket::bind((node_ip, 0)).await.expect("a socket");
    let client = UdpSocket::bind((local, 0)).await.expect("a socket");
    let nodes = BTreeMap::from([(node_ip, A)]);
    let relay = Relay::start(local, nodes, Wire::new(CLEAR, 1)).expect("a thread");
    let front = relay.front(A, node.local_addr().expect("bound")).await.expect("a front");

    let mut buffer = [0; 16];
    client.send_to(b"ask", front).await.expect("sent");
    let (length, sender) = node.recv_from(&mut buffer).await.expect("comes");
    assert_eq!(&buffer[..length], b"ask");
    node.send_to(b"answer", sender).await.expect("sent");
    let (length, from) = client.recv_from(&mut buffer).await.expect("comes");
    assert_eq!((&buffer[..length], from), (&b"answer"[..], front));

    relay.wire().cut(A, C);
    node.send_to(b"cut", sender).await.expect("sent");
    client.send_to(b"again", front).await.expect("sent");
    node.recv_from(&mut buffer).await.expect("the other direction is open");
    while relay.wire().counters().packets < 4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(relay.wire().counters().cut, 1);
}
