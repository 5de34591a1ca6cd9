//! The words of an answer, and the facts of a node.

use std::time::Duration;

use shoal::core::{BatchItem, StageTimes};
use shoal_mesh::core::OwnFacts;
use shoal_mesh::simulation::node_id;
use shoal_protocol::message::{
    DenseBlock, DeviceFact, End, Input, ItemOutcome, ModelFact, ModelState, Numerics, ServedBy, TaskRequest,
    TaskResult, Timings,
};
use shoal_protocol::{Bytes, DeviceIndex, Message, Micros};

use super::machine::{Machine, model_bytes};

/// A model's name.
pub(super) fn model_name(model: u16) -> String {
    format!("model-{model}")
}

/// The model of a name.
pub(super) fn model_number(name: &str) -> Option<u16> {
    name.strip_prefix("model-")?.parse().ok()
}

/// The facts of a node: one device, all models of the catalogue on its disk.
pub(super) fn facts(
    machine: &Machine,
    draining: bool,
    states: impl Iterator<Item = (u16, ModelState)>,
) -> OwnFacts {
    let model = |(model, state)| ModelFact {
        name: model_name(model),
        aliases: Vec::new(),
        device: DeviceIndex(0),
        state,
        numerics: Numerics::F32,
        bytes: model_bytes(),
        load_us: machine.load.into(),
    };
    OwnFacts {
        peer_addresses: Vec::new(),
        client_addresses: Vec::new(),
        draining,
        devices: vec![DeviceFact {
            device: DeviceIndex(0),
            name: String::new(),
            budget_bytes: Bytes(machine.core_config().resident_bytes_max),
            tokens_per_s: machine.device_tokens_per_s(),
        }],
        models: states.map(model).collect(),
    }
}

/// The vectors of a request's items in a batch: each is the first token of its item, so that a mix-up shows.
pub(super) fn result(request: &TaskRequest, items: &[BatchItem]) -> Message {
    let first_token = |item: &BatchItem| match request.items.get(item.index as usize) {
        Some(Input::TokenIds(ids)) => ids.first().copied().unwrap_or(0),
        _ => 0,
    };
    let rows = items.iter().flat_map(|item| (first_token(item) as f32).to_le_bytes());
    Message::TaskResult(TaskResult {
        indices: items.iter().map(|item| item.index).collect(),
        outcomes: items
            .iter()
            .map(|item| ItemOutcome::Answered { tokens: item.tokens, truncated: false })
            .collect(),
        answers: DenseBlock {
            dims: 1,
            rows: items.len() as u32,
            data: rows.collect(),
            ..DenseBlock::default()
        }
        .into(),
    })
}

/// The terminal frame.
pub(super) fn end(node: u16, request: &TaskRequest, stages: &StageTimes, took: Duration) -> Message {
    let tokens = |item: &Input| match item {
        Input::TokenIds(ids) => ids.len() as u64,
        Input::Text(text) => text.len() as u64,
    };
    Message::End(End {
        request_id: request.request_id,
        items: request.items.len() as u32,
        tokens: request.items.iter().map(tokens).sum(),
        served_by: ServedBy {
            node: node_id(node),
            device: DeviceIndex(0),
            device_name: String::new(),
            numerics: Numerics::F32,
        },
        timings: Timings {
            load_us: stages.load,
            queue_us: stages.queue,
            compute_us: stages.compute,
            total_us: Micros::from(took),
            ..Timings::default()
        },
    })
}
