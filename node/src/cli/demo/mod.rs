//! `shoal demo`: the whole path in one command. A model is fetched, a node starts with a throw-away authority, and text
//! goes through the client library and QUIC to the device and back.

mod measure;
mod report;
mod texts;

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use shoal_mesh::{Authority, Client, ConnectOptions, Identity, IdentityError, NetThread};
use shoal_protocol::message::Role;

use self::measure::Measured;
use self::report::{Report, neighbours};
use self::texts::{CORPUS, QUERIES};
use super::args::DemoArgs;
use super::exit::{Exit, Stop};
use super::output::{Output, tell};
use super::pull::pull;
use super::runtime::run_interruptible;
use super::target::{device_overrides, name_of};
use crate::config::{Environment, Machine, NodeConfig, Overrides, resolve};
use crate::node::Node;

/// Bound of everything after the model is there.
const TIME_MAX: Duration = Duration::from_secs(40);
/// Calls with one text.
const SINGLE_CALLS: usize = 200;
const SINGLE_TIME: Duration = Duration::from_secs(4);
const BULK_TIME: Duration = Duration::from_secs(5);
/// For the node to end; nothing is in flight then.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

pub(super) fn run(args: &DemoArgs) -> Result<Exit, Stop> {
    let report = run_interruptible(prepare_and_show(args))?;
    let mut output = Output::new();
    if args.json {
        output.json(&report.to_json())?;
    } else {
        report.print(&mut output)?;
    }
    output.flush()?;
    if report.measured.failures + report.measured.duplicates > 0 {
        tell("shoal: demo: a text failed or came twice");
        return Ok(Exit::DemoFailed);
    }
    Ok(Exit::Ok)
}

async fn prepare_and_show(args: &DemoArgs) -> Result<Report, Stop> {
    let home = tempfile::tempdir().map_err(Stop::with(Exit::Unavailable))?;
    let identity_dir = home.path().join("node");
    let mut measured = Measured::new()?;
    let mut config = configure(args, &identity_dir)?;
    let model = name_of(&config, &args.model);
    let is_directory = config.models.store.local.iter().any(|local| local.name == model);
    if !is_directory {
        let pulled = pull(config.models.store.clone(), &model).await?;
        measured.event("model", json!({ "name": pulled.model.name, "source": pulled.source }));
    }
    config.models.preload = vec![model.clone()];
    let client_identity = throw_away_mesh(&identity_dir).map_err(Stop::with(Exit::Unavailable))?;
    let shown = show(config, client_identity, &model, measured);
    tokio::time::timeout(TIME_MAX, shown).await.unwrap_or_else(|_| {
        let message = format!("not done after {} s", TIME_MAX.as_secs());
        Err(Stop::new(Exit::DemoFailed, message))
    })
}

fn configure(args: &DemoArgs, identity_dir: &Path) -> Result<NodeConfig, Stop> {
    let flags = Overrides {
        http: Some("off".to_owned()),
        quic: Some("127.0.0.1:0".to_owned()),
        identity_dir: Some(identity_dir.to_owned()),
        model: Some(args.model.clone()),
        offline: args.offline,
        ..device_overrides(&args.device)?
    };
    Ok(resolve(None, &flags, &Environment::of_process(), Machine::detect())?)
}

/// An authority that only this process knows: the node's identity on disk, the client's in memory.
fn throw_away_mesh(identity_dir: &Path) -> Result<Identity, IdentityError> {
    let issuer = Authority::create()?.issuer()?;
    issuer.issue(Role::Node, "demo-node")?.save(identity_dir)?;
    issuer.issue(Role::Client, "demo-client")
}

async fn show(
    config: NodeConfig,
    identity: Identity,
    model: &str,
    mut measured: Measured,
) -> Result<Report, Stop> {
    let net = NetThread::start().map_err(Stop::with(Exit::Unavailable))?;
    let node = Node::start_with_net(config, net.net()).await?;
    let addr = node.quic_addr().ok_or_else(|| Stop::new(Exit::DemoFailed, "the node has no QUIC address"))?;
    measured.event("node", json!({ "id": node.id().to_string(), "quic": addr.to_string() }));
    let client = Client::connect(ConnectOptions::new([addr], identity)).await?;
    let corpus = measured.encode(&client, model, &CORPUS).await?;
    let queries = measured.encode(&client, model, &QUERIES).await?;
    measured.event(
        "neighbours",
        json!({ "texts": CORPUS.len() + QUERIES.len(), "tokens": corpus.tokens + queries.tokens }),
    );
    measured.one_by_one(&client, model, &CORPUS, SINGLE_CALLS, SINGLE_TIME).await?;
    measured.event("single", json!({ "requests": measured.latencies_us.len() }));
    measured.in_bulk(&client, model, BULK_TIME).await?;
    measured.event("bulk", json!({ "tokens_per_s": measured.tokens_per_s.round() }));
    let status = client.status(true).await?;
    let device = measured
        .served_by
        .as_ref()
        .and_then(|served_by| status.devices.iter().find(|device| device.device == served_by.device));
    let report = Report {
        model: model.to_owned(),
        device: device.map(|device| device.name.clone()).unwrap_or_default(),
        reason: device.map(|device| device.reason.clone()).unwrap_or_default(),
        neighbours: neighbours(&corpus.vectors, &queries.vectors),
        stages: status.histograms,
        measured,
    };
    drop(client);
    node.shutdown(SHUTDOWN_GRACE).await;
    Ok(report)
}
