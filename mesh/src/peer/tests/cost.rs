//! What members of a small mesh send when nothing happens, and when their load changes all the time: by real QUIC, with
//! its acknowledgements and keep-alives.

use std::time::Duration;

use shoal_protocol::message::LoadRecord;

use super::ground::Ground;
use super::{LATENCY, ms};

/// Headers of UDP and IPv4.
const HEADER_BYTES: u64 = 28;
const SPAN_S: u64 = 60;
/// Bytes a second that a node may send.
const BUDGET_BYTES_PER_S: u64 = 20_000;

/// Bytes a second of each member, at peace and at work.
async fn cost(count: usize) -> [u64; 2] {
    let mut ground = Ground::new(60 + count as u64, LATENCY);
    ground.start(count);
    (0..count).for_each(|index| ground.node(index).set_load(LoadRecord::default()));
    ground.all_alive(ms(2000)).await;
    ground.linked(count - 1, ms(2000)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let mut figures = [0; 2];
    for (is_at_work, figure) in [false, true].into_iter().zip(&mut figures) {
        let before = ground.net.sent();
        for second in 0..SPAN_S {
            let wait_us = if is_at_work { second % 2 * 100_000 } else { 0 };
            let load = LoadRecord { wait_us, ..LoadRecord::default() };
            (0..count).for_each(|index| ground.node(index).set_load(load));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let [packets, bytes] = std::array::from_fn(|at| ground.net.sent()[at] - before[at]);
        *figure = (bytes + packets * HEADER_BYTES) / SPAN_S / count as u64;
        println!("{count} members, at work: {is_at_work}: {packets} packets, {figure} B/s each");
    }
    figures
}

#[tokio::test(start_paused = true)]
async fn small_meshes_are_cheap_at_peace_and_at_work() {
    for count in [3, 8] {
        let [peace, work] = cost(count).await;
        assert!(peace < work && work <= BUDGET_BYTES_PER_S / 4, "{count} members: {peace} and {work} B/s");
    }
}
