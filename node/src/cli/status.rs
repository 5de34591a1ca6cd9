//! `shoal status`, and the models of a node for `shoal models --mesh`.

use serde_json::{Value, json};
use shoal_mesh::Client;
use shoal_protocol::message::{
    DeviceStatus, MemberState, MemberStatus, ModelState, ModelStatus, Numerics, Status,
};

use super::args::StatusArgs;
use super::exit::{Exit, Stop};
use super::models::megabytes;
use super::output::Output;
use super::runtime::run_interruptible;
use super::target::Target;

/// The schema of `--json`.
const VERSION: u32 = 1;

pub(super) fn run(args: &StatusArgs) -> Result<Exit, Stop> {
    run_interruptible(async {
        let target = Target::open_any(&args.mesh, &args.device).await?;
        let status = target.client().status(false).await?;
        target.close().await;
        let mut output = Output::new();
        if args.json {
            output.json(&to_json(&status))?;
        } else {
            print(&mut output, &status)?;
        }
        output.flush()?;
        Ok(Exit::Ok)
    })
}

/// The models of a node, as `shoal models --mesh` prints them.
pub(super) async fn print_models(client: &Client, as_json: bool, output: &mut Output) -> Result<(), Stop> {
    let status = client.status(false).await?;
    if as_json {
        let models: Vec<_> = status.models.iter().map(model_to_json).collect();
        output.json(&json!({ "version": VERSION, "node": status.node.to_string(), "models": models }))
    } else {
        models_table(output, &status.models)
    }
}

fn print(output: &mut Output, status: &Status) -> Result<(), Stop> {
    let state = match (status.ready, status.draining) {
        (_, true) => "draining",
        (true, false) => "ready",
        (false, false) => "starting",
    };
    output.line(&format!(
        "node {}  {}  {state}  up {} s",
        status.node,
        status.software,
        status.uptime_us.0 / 1_000_000
    ))?;
    for warning in &status.warnings {
        output.line(&format!("warning: {warning}"))?;
    }
    output.line("")?;
    let devices: Vec<_> = status.devices.iter().map(device_row).collect();
    output.table(&["DEVICE", "THREADS", "QUEUE", "RUNNING", "SPEED", "MODELS", "WHY"], &devices)?;
    output.line("")?;
    models_table(output, &status.models)?;
    if status.members.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let members: Vec<_> = status.members.iter().map(member_row).collect();
    output.table(&["MEMBER", "ADDRESS", "STATE", "READY"], &members)
}

fn member_row(member: &MemberStatus) -> Vec<String> {
    let state = if member.draining { "draining" } else { state_name(member.state) };
    let (node, ready) = (member.node.to_string(), member.models_ready.to_string());
    vec![node, member.address.clone(), state.to_owned(), format!("{ready} models")]
}

fn device_row(device: &DeviceStatus) -> Vec<String> {
    vec![
        device.name.clone(),
        device.threads.to_string(),
        format!("{} tokens", device.load.queue_tokens),
        device.load.running.to_string(),
        format!("{} tokens/s", device.load.tokens_per_s),
        format!(
            "{} of {}",
            megabytes(device.gauges.resident_bytes.0),
            megabytes(device.gauges.resident_bytes_max.0)
        ),
        device.reason.clone(),
    ]
}

fn models_table(output: &mut Output, models: &[ModelStatus]) -> Result<(), Stop> {
    let rows: Vec<_> = models
        .iter()
        .map(|model| {
            vec![
                model.name.clone(),
                state(model.state).to_owned(),
                megabytes(model.bytes.0),
                model.requests.to_string(),
                model.tokens.to_string(),
                model.error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    output.table(&["MODEL", "STATE", "MEMORY", "REQUESTS", "TOKENS", "ERROR"], &rows)
}

fn state(state: ModelState) -> &'static str {
    match state {
        ModelState::Stored => "stored",
        ModelState::Loading => "loading",
        ModelState::Ready => "ready",
        ModelState::Failed => "failed",
    }
}

fn numerics(numerics: Numerics) -> &'static str {
    match numerics {
        Numerics::Any => "any",
        Numerics::F32 => "f32",
        Numerics::Bits16 => "16bit",
        Numerics::Int8 => "int8",
    }
}

fn to_json(status: &Status) -> Value {
    json!({
        "version": VERSION,
        "node": status.node.to_string(),
        "generation": status.generation,
        "software": status.software,
        "uptime_us": status.uptime_us.0,
        "ready": status.ready,
        "draining": status.draining,
        "warnings": status.warnings,
        "devices": status.devices.iter().map(device_to_json).collect::<Vec<_>>(),
        "models": status.models.iter().map(model_to_json).collect::<Vec<_>>(),
        "members": status.members.iter().map(member_to_json).collect::<Vec<_>>(),
    })
}

fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Down => "down",
    }
}

fn member_to_json(member: &MemberStatus) -> Value {
    json!({
        "node": member.node.to_string(),
        "generation": member.generation,
        "address": member.address,
        "state": state_name(member.state),
        "draining": member.draining,
        "models_ready": member.models_ready,
    })
}

fn device_to_json(device: &DeviceStatus) -> Value {
    let (load, gauges) = (&device.load, &device.gauges);
    json!({
        "device": device.device.0,
        "name": device.name,
        "reason": device.reason,
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
    })
}

fn model_to_json(model: &ModelStatus) -> Value {
    json!({
        "name": model.name,
        "aliases": model.aliases,
        "state": state(model.state),
        "bytes": model.bytes.0,
        "device": model.device.map(|device| device.0),
        "pinned": model.pinned,
        "numerics": numerics(model.numerics),
        "tokens_max": model.tokens_max,
        "dims": model.dims,
        "error": model.error,
        "requests": model.requests,
        "tokens": model.tokens,
    })
}
