//! `shoal drain`

use std::time::Duration;

use shoal_mesh::{Client, ClientError, ConnectOptions, Identity};
use shoal_protocol::{ErrorCode, NodeId};
use tokio::time::{Instant, sleep};

use super::args::DrainArgs;
use super::exit::{Exit, Stop};
use super::output::Output;
use super::runtime::run_interruptible;
use crate::config::Environment;

/// The node of this machine.
const SELF: &str = "self";
/// Between two looks whether the node is still there.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// The longest that a node may be configured to take (`node.drain_s`), and what closing takes.
const WAIT_MAX: Duration = Duration::from_secs(630);

pub(super) fn run(args: &DrainArgs) -> Result<Exit, Stop> {
    let (node, took) = run_interruptible(drain(args))?;
    let mut output = Output::new();
    output.line(&match took {
        Some(took) => format!("node {node} left after {:.1} s", took.as_secs_f64()),
        None => format!("node {node} is draining"),
    })?;
    output.flush()?;
    Ok(Exit::Ok)
}

/// Who leaves, and how long that took if it was waited for.
async fn drain(args: &DrainArgs) -> Result<(NodeId, Option<Duration>), Stop> {
    let is_self = args.node == SELF;
    let home = Environment::of_process().data_dir();
    let default = if is_self { "identity" } else { "client" };
    let dir = args.identity.clone().unwrap_or_else(|| home.join(default));
    let identity = Identity::load(&dir).map_err(Stop::with(Exit::Model))?;
    let own = identity.node_id();
    let entries = match (args.mesh.as_slice(), is_self) {
        ([], false) => {
            let message =
                "--mesh HOST:PORT is missing: where is the mesh? (`self` is the node of this machine)";
            return Err(Stop::new(Exit::Usage, message));
        }
        ([], true) => vec![Identity::listening(&dir).map_err(Stop::with(Exit::Model))?.to_string()],
        (entries, _) => entries.to_vec(),
    };
    let mut options = ConnectOptions::new(&entries, identity);
    if !is_self {
        options = options.renewed_in(dir); // a node renews its own
    }
    let client = Client::connect(options).await?;
    let node = if is_self { own } else { find(&client, &args.node).await? };
    let started = Instant::now();
    let draining = client.drain(node, args.within).await?;
    if args.no_wait {
        return Ok((node, None));
    }
    loop {
        // Who is gone does not say so: the look itself may take as long as a dial.
        let looked_at = started.elapsed();
        if !is_there(&client, node, draining.generation).await {
            return Ok((node, Some(looked_at)));
        }
        if looked_at > WAIT_MAX {
            let message = format!("node {node} is draining and has not left after {} s", WAIT_MAX.as_secs());
            return Err(Stop::new(Exit::Unavailable, message));
        }
        sleep(LOOK_PERIOD).await;
    }
}

/// The one member whose id begins so.
async fn find(client: &Client, beginning: &str) -> Result<NodeId, Stop> {
    let entry = client.status(false).await?;
    let members = entry.members.iter().map(|member| member.node).chain([entry.node]);
    let mut found: Vec<NodeId> = members.filter(|node| node.to_string().starts_with(beginning)).collect();
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [node] => Ok(*node),
        [] => Err(Stop::new(
            Exit::Usage,
            format!("no member's id begins with {beginning:?}: see `shoal status`"),
        )),
        _ => Err(Stop::new(
            Exit::Usage,
            format!("the ids of {} members begin with {beginning:?}", found.len()),
        )),
    }
}

/// A node that says no is there; one that nobody reaches has left, and so has one that was started again.
async fn is_there(client: &Client, node: NodeId, generation: u64) -> bool {
    match client.status_of(node, false).await {
        Ok(status) => status.generation == generation,
        Err(ClientError::Refused { code, .. }) => code != ErrorCode::Unavailable,
        Err(_) => false,
    }
}
