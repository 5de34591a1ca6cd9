//! `shoal serve`

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shoal_mesh::{NetThread, TokioNet};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::ServeArgs;
use super::exit::{Exit, Stop};
use super::mesh;
use super::output::Output;
use super::parent::end_with_stdin;
use super::runtime::run_to_end;
use super::service_manager;
use super::target::device_overrides;
use crate::clock;
use crate::config::{Environment, Machine, NodeConfig, Overrides, resolve};
use crate::edge::{BindError, EdgeOptions, HttpEdge};
use crate::node::Node;
use crate::notices::{Notice, Watcher};

/// What answers may take to be written once the grace is over.
const EDGE_CLOSE_WAIT: Duration = Duration::from_secs(1);

pub(super) fn run(args: &ServeArgs) -> Result<Exit, Stop> {
    let environment = Environment::of_process();
    let config = resolve(args.config.as_deref(), &overrides(args)?, &environment, Machine::detect())?;
    if config.http.is_none() && config.quic.is_none() {
        let message = "nothing to serve on: both http.addr and quic.addr are off";
        return Err(Stop::new(Exit::Model, message));
    }
    if args.join.is_some() && config.quic.is_none() {
        let message = "--join: a member is reached over QUIC, and quic.addr is off";
        return Err(Stop::new(Exit::Usage, message));
    }
    if args.join.is_none() && (args.token.token.is_some() || args.token.token_file.is_some()) {
        return Err(Stop::new(Exit::Usage, "a token is for --join HOST:PORT, which is missing"));
    }
    if args.advertise.is_some() && config.quic.is_none() {
        let message = "--advertise: there is nothing to advertise: quic.addr is off";
        return Err(Stop::new(Exit::Usage, message));
    }
    if args.until_stdin_ends {
        end_with_stdin()?;
    }
    warn_of_readable_keys(&config, args.api_key_file.as_deref());
    run_to_end(serve(config, args))
}

fn overrides(args: &ServeArgs) -> Result<Overrides, Stop> {
    Ok(Overrides {
        data_dir: args.data.clone(),
        http: args.http.clone(),
        quic: args.quic.clone(),
        joins: args.join.is_some(),
        advertise: args.advertise.clone(),
        identity_dir: args.identity.clone(),
        api_key_file: args.api_key_file.clone(),
        preload: args.preload.clone(),
        require_gpu: args.require_gpu,
        ..device_overrides(&args.device)
    })
}

fn warn_of_readable_keys(config: &NodeConfig, file: Option<&Path>) {
    let keys = config.http.as_ref().and_then(|http| http.api_keys.as_ref());
    if keys.is_some_and(|keys| keys.readable_by_others()) {
        let file = file.map_or_else(|| "http.api_key_file".to_owned(), |file| file.display().to_string());
        tracing::warn!(file, "other users can read the API keys: chmod 600");
    }
}

/// What asks the process to leave.
struct Leave {
    interrupt: Signal,
    terminate: Signal,
}

impl Leave {
    fn listen() -> Result<Self, Stop> {
        let listen = |kind| signal(kind).map_err(Stop::with(Exit::Unavailable));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn asked(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

async fn serve(config: NodeConfig, args: &ServeArgs) -> Result<Exit, Stop> {
    let mut leave = Leave::listen()?;
    let net = NetThread::start().map_err(Stop::with(Exit::Unavailable))?;
    let grace = config.drain;
    let notices = config.notices.clone();
    let ready = async {
        if let (Some(issuer), Some(quic)) = (&args.join, &config.quic) {
            mesh::obtain(&quic.identity_dir, issuer, &args.token).await?;
        }
        start(config, net.net()).await
    };
    let (node, edge) = tokio::select! {
        started = ready => started?,
        _ = leave.asked() => return Ok(Exit::Ok),
    };
    announce(&node, edge.as_ref())?;
    service_manager::notify("READY=1");
    let notices = notices.as_ref().map(Watcher::start).transpose();
    let notices = notices.map_err(Stop::with(Exit::Unavailable))?;
    let (why, grace) = tokio::select! {
        signal = leave.asked() => (signal.to_owned(), grace),
        notice = last_notice(notices, &node) => (notice, grace),
        (by, within) = node.drain_asked() => (format!("asked by {by}"), within.map_or(grace, |within| within.min(grace))),
    };
    tracing::info!(why, grace_s = grace.as_secs(), "leaving: finishing what is in flight");
    service_manager::notify("STOPPING=1");
    tokio::select! {
        () = stop(node, edge, grace) => Ok(Exit::Ok),
        // Whoever asks twice does not want to wait.
        _ = leave.asked() => Err(Stop::silent(Exit::Interrupted)),
    }
}

/// Waits until the cloud takes the machine away; where it may, others load what only this node holds.
async fn last_notice(notices: Option<Watcher>, node: &Node) -> String {
    let Some(mut notices) = notices else {
        return std::future::pending().await;
    };
    loop {
        match notices.next().await {
            Notice::Leave(why) => return why,
            Notice::AtRisk(why) => {
                tracing::warn!(why, "this machine may be taken away: others load what only it holds");
                node.spread().await;
            }
        }
    }
}

async fn start(config: NodeConfig, net: TokioNet) -> Result<(Node, Option<HttpEdge>), Stop> {
    let options = config.http.as_ref().map(|http| EdgeOptions::from_config(http, &config.models));
    let node = Node::start_with_net(config, net).await?;
    let edge = match options {
        None => None,
        Some(options) => Some(HttpEdge::bind(options, node.client(), Arc::new(node.view())).await?),
    };
    Ok((node, edge))
}

impl From<BindError> for Stop {
    fn from(error: BindError) -> Self {
        Self::new(Exit::Unavailable, error.to_string())
    }
}

/// The one line on stdout. `quic` is where the node listens, `advertise` where others should dial.
fn announce(node: &Node, edge: Option<&HttpEdge>) -> Result<(), Stop> {
    let devices: Vec<_> = node
        .devices()
        .into_iter()
        .map(|device| json!({ "name": device.name, "reason": device.reason }))
        .collect();
    let mut output = Output::new();
    output.json(&json!({
        "ready": true,
        "software": concat!("shoal ", env!("CARGO_PKG_VERSION")),
        "node": node.id().to_string(),
        "http": edge.map(|edge| edge.local_addr().to_string()),
        "quic": node.quic_addr().map(|addr| addr.to_string()),
        "join": node.join_addr().map(|addr| addr.to_string()),
        "mesh": node.mesh_addr().map(|addr| addr.to_string()),
        "advertise": node.callers_addr().map(|addr| addr.to_string()),
        "devices": devices,
    }))?;
    output.flush()
}

/// The edge answers while the node drains (its probes say so), and then until what has begun is answered.
async fn stop(node: Node, edge: Option<HttpEdge>, grace: Duration) {
    let deadline = clock::now() + grace;
    node.drain(grace).await;
    if let Some(edge) = edge {
        let left = deadline.saturating_duration_since(clock::now());
        let ended = edge.shutdown(left.max(EDGE_CLOSE_WAIT)).await;
        if ended.cut > 0 {
            tracing::warn!(connections = ended.cut, "cut connections that were busy when the grace was over");
        }
    }
    node.close(deadline).await;
}
