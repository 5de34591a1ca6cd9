//! The stable form: fields may be added, none changes its meaning within a version.

use serde_json::{Value, json};
use shoal_protocol::message::{DeviceStatus, ModelStatus, Numerics, Status};

use super::table::{member_state_name, model_state_name};
use crate::cli::census::{Census, Heard};

/// The schema of `--json`.
const VERSION: u32 = 1;

/// The entry node's own state at the top level, the mesh in `members` and `models_hot`.
pub(super) fn of_census(census: &Census) -> Value {
    let mut json = census.answers().next().map_or_else(|| json!({}), of_node);
    json["version"] = VERSION.into();
    // A node that is in no mesh has no members, not even itself.
    let alone = census.answers().next().is_none_or(|entry| entry.members.is_empty());
    let members = if alone { &[] } else { census.heard.as_slice() };
    json["members"] = members.iter().map(of_member).collect();
    let hot = census.hot_models().into_iter().map(|(name, places)| {
        let places = places.iter().map(
            |(node, model)| json!({ "node": node.to_string(), "device": model.device.map(|at| at.0), "bytes": model.bytes.0 }),
        );
        json!({ "name": name, "places": places.collect::<Vec<_>>() })
    });
    json["models_hot"] = hot.collect();
    json
}

pub(super) fn of_models(status: &Status) -> Value {
    let models: Vec<_> = status.models.iter().map(of_model).collect();
    json!({ "version": VERSION, "node": status.node.to_string(), "models": models })
}

fn of_node(status: &Status) -> Value {
    json!({
        "node": status.node.to_string(),
        "generation": status.generation,
        "software": status.software,
        "uptime_us": status.uptime_us.0,
        "ready": status.ready,
        "draining": status.draining,
        "warnings": status.warnings,
        "devices": status.devices.iter().map(of_device).collect::<Vec<_>>(),
        "models": status.models.iter().map(of_model).collect::<Vec<_>>(),
    })
}

/// `status` is the member's own word, null where it gave none; `unheard` says why then.
fn of_member(heard: &Heard) -> Value {
    let Heard { member, status } = heard;
    json!({
        "node": member.node.to_string(),
        "generation": member.generation,
        "address": member.address,
        "state": member_state_name(member.state),
        "draining": member.draining,
        "models_ready": member.models_ready,
        "status": status.as_ref().ok().map(of_node),
        "unheard": status.as_ref().err(),
    })
}

fn of_device(device: &DeviceStatus) -> Value {
    let (load, gauges) = (&device.load, &device.gauges);
    json!({
        "device": device.device.0,
        "name": device.name,
        "reason": device.reason,
        "up": device.is_up,
        "lanes": device.lanes,
        "threads": device.threads,
        "queue_tokens": load.queue_tokens,
        "queue_tokens_max": gauges.queue_tokens_max.0,
        "queue_oldest_us": gauges.queue_oldest_us.0,
        "wait_us": load.wait_us,
        "running": load.running,
        "requests": load.requests,
        "batches_done": load.batches_done,
        "tokens_per_s": load.tokens_per_s,
        "shed_level": load.shed_level,
        "admitted_bytes": gauges.admitted_bytes.0,
        "admitted_bytes_max": gauges.admitted_bytes_max.0,
        "resident_bytes": gauges.resident_bytes.0,
        "resident_bytes_max": gauges.resident_bytes_max.0,
        "loads": gauges.loads,
        "evictions": gauges.evictions,
        "shed": gauges.shed,
        "cancelled": gauges.cancelled,
        "expired": gauges.expired,
        "restarts": gauges.restarts,
        "batches_cut": gauges.batches_cut,
        "graphs_dropped": gauges.graphs_dropped,
        "memory_evictions": gauges.memory_evictions,
        "memory_refusals": gauges.memory_refusals,
    })
}

fn of_model(model: &ModelStatus) -> Value {
    json!({
        "name": model.name,
        "aliases": model.aliases,
        "state": model_state_name(model.state),
        "bytes": model.bytes.0,
        "device": model.device.map(|device| device.0),
        "placed": model.placed,
        "pinned": model.pinned,
        "numerics": numerics(model.numerics),
        "tokens_max": model.tokens_max,
        "dims": model.dims,
        "error": model.error,
        "requests": model.requests,
        "tokens": model.tokens,
    })
}

fn numerics(numerics: Numerics) -> &'static str {
    match numerics {
        Numerics::Any => "any",
        Numerics::F32 => "f32",
        Numerics::Bits16 => "16bit",
        Numerics::Int8 => "int8",
    }
}
