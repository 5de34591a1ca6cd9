//! The form for people: one node in full, or a mesh in a line a device.

use shoal_protocol::message::{DeviceStatus, MemberState, ModelState, ModelStatus, Status};

use crate::cli::census::{Census, Heard};
use crate::cli::exit::Stop;
use crate::cli::models::megabytes;
use crate::cli::output::Output;

pub(super) fn print(output: &mut Output, census: &Census) -> Result<(), Stop> {
    match census.heard.as_slice() {
        [Heard { status: Ok(status), .. }] => one_node(output, status),
        _ => mesh(output, census),
    }
}

fn one_node(output: &mut Output, status: &Status) -> Result<(), Stop> {
    let state = state_of_node(status);
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
    let devices: Vec<_> = status
        .devices
        .iter()
        .map(|device| {
            let mut row = vec![device_name(device), device.threads.to_string()];
            row.extend(load_cells(device));
            row.push(device.reason.clone());
            row
        })
        .collect();
    output.table(&["DEVICE", "THREADS", "SPEED", "QUEUE", "RUNNING", "MODELS", "WHY"], &devices)?;
    output.line("")?;
    let is_idle = |model: &&ModelStatus| model.state == ModelState::Stored && model.requests == 0;
    let (idle, used): (Vec<_>, Vec<_>) = status.models.iter().partition(is_idle);
    models(output, used)?;
    if !idle.is_empty() {
        output.line(&format!("and {} more by name, not loaded: `shoal models` lists them", idle.len()))?;
    }
    Ok(())
}

fn mesh(output: &mut Output, census: &Census) -> Result<(), Stop> {
    let count = |state| census.heard.iter().filter(|heard| heard.member.state == state).count();
    output.line(&format!(
        "{} nodes: {} alive, {} suspect, {} down; as node {} sees it",
        census.heard.len(),
        count(MemberState::Alive),
        count(MemberState::Suspect),
        count(MemberState::Down),
        census.entry,
    ))?;
    for status in census.answers() {
        for warning in &status.warnings {
            output.line(&format!("warning: node {}: {warning}", status.node))?;
        }
    }
    output.line("")?;
    let rows: Vec<_> = census.heard.iter().flat_map(member_rows).collect();
    let header = ["NODE", "ADDRESS", "STATE", "UP", "DEVICE", "SPEED", "QUEUE", "RUNNING", "MODELS"];
    output.table(&header, &rows)?;
    // In a line of its own: it may be longer than all of the table.
    for Heard { member, status } in &census.heard {
        if let Err(why) = status {
            output.line(&format!("not heard: node {}: {why}", member.node))?;
        }
    }
    output.line("")?;
    let hot: Vec<_> = census
        .hot_models()
        .into_iter()
        .map(|(name, places)| {
            let sum = |of: fn(&ModelStatus) -> u64| places.iter().map(|(_, model)| of(model)).sum::<u64>();
            let at: Vec<_> = places.iter().map(|(node, _)| node.to_string()).collect();
            let (requests, tokens) = (sum(|model| model.requests), sum(|model| model.tokens));
            vec![name.to_owned(), requests.to_string(), tokens.to_string(), at.join(" ")]
        })
        .collect();
    output.table(&["HOT MODEL", "REQUESTS", "TOKENS", "AT"], &hot)
}

/// A line for each device; one for a member without.
fn member_rows(heard: &Heard) -> Vec<Vec<String>> {
    let Heard { member, status } = heard;
    let own = |up: String| vec![member.node.to_string(), member.address.clone(), state_of(heard), up];
    match status {
        Ok(status) if !status.devices.is_empty() => status
            .devices
            .iter()
            .map(|device| {
                let mut row = own(format!("{} s", status.uptime_us.0 / 1_000_000));
                row.push(device_name(device));
                row.extend(load_cells(device));
                row
            })
            .collect(),
        Ok(_) => vec![[own(String::new()), vec!["(restarting)".to_owned()]].concat()],
        Err(_) => vec![own(String::new())],
    }
}

/// What works is called by its name alone.
pub(in crate::cli) fn device_name(device: &DeviceStatus) -> String {
    if device.is_up { device.name.clone() } else { format!("{} (not running)", device.name) }
}

/// Speed, queue, batches running, memory of models.
fn load_cells(device: &DeviceStatus) -> [String; 4] {
    [
        format!("{} tokens/s", device.load.tokens_per_s),
        format!("{} tokens", device.load.queue_tokens),
        device.load.running.to_string(),
        format!(
            "{} of {}",
            megabytes(device.gauges.resident_bytes.0),
            megabytes(device.gauges.resident_bytes_max.0)
        ),
    ]
}

pub(super) fn models<'a>(
    output: &mut Output,
    models: impl IntoIterator<Item = &'a ModelStatus>,
) -> Result<(), Stop> {
    let rows: Vec<_> = models
        .into_iter()
        .map(|model| {
            vec![
                model.name.clone(),
                model_state_name(model.state).to_owned(),
                megabytes(model.bytes.0),
                model.requests.to_string(),
                model.tokens.to_string(),
                model.error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    output.table(&["MODEL", "STATE", "MEMORY", "REQUESTS", "TOKENS", "ERROR"], &rows)
}

/// How a member is: its own word where it gave one, what the entry node sees otherwise.
pub(in crate::cli) fn state_of(heard: &Heard) -> String {
    let Heard { member, status } = heard;
    let name = match (member.state, status) {
        (MemberState::Alive, Ok(status)) => state_of_node(status),
        (MemberState::Alive, Err(_)) if member.draining => "draining",
        (MemberState::Alive, Err(_)) => "unreachable",
        (state, _) => member_state_name(state),
    };
    name.to_owned()
}

fn state_of_node(status: &Status) -> &'static str {
    match (status.draining, status.ready) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "starting",
    }
}

pub(in crate::cli) fn model_state_name(state: ModelState) -> &'static str {
    match state {
        ModelState::Stored => "stored",
        ModelState::Loading => "loading",
        ModelState::Ready => "ready",
        ModelState::Failed => "failed",
    }
}

pub(super) fn member_state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Down => "down",
    }
}
