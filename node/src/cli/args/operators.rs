//! What operators ask: the state of a mesh, and the reasons of one request.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use shoal_protocol::RequestId;

use super::{DeviceArgs, MeshArgs};

/// Between two looks at a mesh: each asks every node.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_millis(500)..=Duration::from_secs(3600);
    if range.contains(&interval) { Ok(interval) } else { Err("must be from 500ms to 1h".to_owned()) }
}

/// `shoal status`
#[derive(Args, Debug)]
pub(in crate::cli) struct StatusArgs {
    #[command(flatten)]
    pub(in crate::cli) mesh: MeshArgs,
    #[command(flatten)]
    pub(in crate::cli) device: DeviceArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// `shoal top`
#[derive(Args, Debug)]
pub(in crate::cli) struct TopArgs {
    #[command(flatten)]
    pub(in crate::cli) mesh: MeshArgs,
    /// Time between two looks.
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = interval)]
    pub(in crate::cli) interval: Duration,
    /// Print one look, since the start of the nodes, and end; so does an output that is no terminal.
    #[arg(long)]
    pub(in crate::cli) once: bool,
}

/// `shoal drain`
#[derive(Args, Debug)]
pub(in crate::cli) struct DrainArgs {
    /// The node: its id or the beginning of it, as `shoal status` shows it; or `self`, the node of this machine.
    #[arg(value_name = "NODE|self")]
    pub(in crate::cli) node: String,
    /// A node of the mesh; not needed for `self`.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = super::address)]
    pub(in crate::cli) mesh: Vec<String>,
    /// An operator's identity; for `self` the node's own. Default: `client`, or `identity`, in SHOAL_HOME.
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) identity: Option<PathBuf>,
    /// Finish within this, where that is less than the node's own `node.drain_s`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(in crate::cli) within: Option<Duration>,
    /// Return as soon as the node takes nothing new, and not when it has left.
    #[arg(long)]
    pub(in crate::cli) no_wait: bool,
}

/// `shoal explain`
#[derive(Args, Debug)]
pub(in crate::cli) struct ExplainArgs {
    /// The request, as the summary of `shoal encode` or the header x-request-id told it.
    #[arg(value_name = "REQUEST_ID")]
    pub(in crate::cli) request_id: RequestId,
    #[command(flatten)]
    pub(in crate::cli) mesh: MeshArgs,
    /// Ask every member, not only the one that answered: attempts that failed elsewhere show too.
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
