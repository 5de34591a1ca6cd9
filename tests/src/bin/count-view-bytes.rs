//! Counts the bytes of a view of 512 nodes with 64 resident models each, in a process of its own. Prints those of a
//! mesh that serves 256 models, and of one in which no model is on two nodes.
#![expect(clippy::print_stdout, reason = "the counts are read by a test")]

use std::alloc::System;
use std::time::Instant;

use shoal_mesh::core::View;
use shoal_protocol::message::{DeviceFact, LoadRecord, ModelFact, ModelState, NodeFacts, Numerics};
use shoal_protocol::{Bytes, DeviceIndex, Micros, NodeId};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NODES: u64 = 512;
const MODELS: u64 = 64;

fn held() -> usize {
    let stats = COUNTING.stats();
    // A reallocation counts its growth as allocated and its shrinking as deallocated.
    stats.bytes_allocated - stats.bytes_deallocated
}

fn facts(node: u64, names: u64) -> NodeFacts {
    let model = |model: u64| ModelFact {
        name: format!("an-organisation/a-model-of-usual-name-{}", (node * MODELS + model) % names),
        aliases: vec![format!("alias-{}", (node * MODELS + model) % names)],
        device: DeviceIndex(0),
        state: ModelState::Ready,
        numerics: Numerics::F32,
        bytes: Bytes(50 << 20),
        load_us: Micros(100_000),
    };
    let mut id = [0; 16];
    id[..8].copy_from_slice(&node.to_be_bytes());
    NodeFacts {
        node: NodeId(id),
        generation: 1,
        version: 1,
        peer_addresses: vec!["node.example.org:7000".to_owned()],
        client_addresses: vec!["node.example.org:7001".to_owned()],
        draining: false,
        devices: vec![DeviceFact {
            device: DeviceIndex(0),
            name: "cpu avx512".to_owned(),
            budget_bytes: Bytes(8 << 30),
            tokens_per_s: 10_000,
        }],
        models: (0..MODELS).map(model).collect(),
    }
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary moment")]
fn bytes(names: u64) -> usize {
    let (before, now) = (held(), Instant::now());
    let mut view = View::default();
    for node in 0..NODES {
        let facts = facts(node, names);
        assert!(view.handle_facts(&facts, now));
        view.handle_load(facts.node, &LoadRecord::default(), now);
    }
    assert_eq!(view.places_len() as u64, NODES * MODELS);
    held() - before
}

fn main() {
    println!("{} {}", bytes(256), bytes(NODES * MODELS));
}
