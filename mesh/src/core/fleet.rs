//! Nodes, facts and loads to test with.

use std::time::Instant;

use shoal_protocol::message::{DeviceFact, LoadRecord, ModelFact, ModelState, NodeFacts, Numerics};
use shoal_protocol::{Bytes, DeviceIndex, Micros, NodeId};

use super::chance::mix;
use super::member::Life;

/// The node of a number: an id that looks like a hash, as real ones do.
pub(crate) fn node(number: u64) -> NodeId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&mix(number).to_be_bytes());
    id[8..].copy_from_slice(&number.to_be_bytes());
    NodeId(id)
}

pub(crate) fn life(number: u64, generation: u64) -> Life {
    Life { node: node(number), generation }
}

/// A model that is 50 MB large and loads in 100 ms.
pub(crate) fn model(name: &str, state: ModelState) -> ModelFact {
    ModelFact {
        name: name.to_owned(),
        aliases: Vec::new(),
        device: DeviceIndex(0),
        state,
        numerics: Numerics::F32,
        bytes: Bytes(50 << 20),
        load_us: Micros(100_000),
    }
}

/// Version 1 of generation 1 of a node with one device of 1 GiB and 10,000 tokens a second.
pub(crate) fn facts(number: u64, models: Vec<ModelFact>) -> NodeFacts {
    NodeFacts {
        node: node(number),
        generation: 1,
        version: 1,
        peer_addresses: Vec::new(),
        client_addresses: vec![format!("10.0.0.{number}:7001")],
        draining: false,
        devices: vec![DeviceFact {
            device: DeviceIndex(0),
            name: "cpu".to_owned(),
            budget_bytes: Bytes(1 << 30),
            tokens_per_s: 10_000,
        }],
        models,
    }
}

/// A record with this wait, and a request in flight for every 10 ms of it.
pub(crate) fn load(sequence: u16, wait_ms: u64) -> LoadRecord {
    LoadRecord {
        queue_tokens: wait_ms * 10,
        wait_us: wait_ms * 1000,
        free_bytes: 1 << 30,
        tokens_per_s: 10_000,
        requests: (wait_ms / 10) as u32,
        sequence,
        ..LoadRecord::default()
    }
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin of virtual time")]
pub(crate) fn origin() -> Instant {
    Instant::now()
}
