//! `shoal demo`: the whole path in one command. A model is fetched and measured on a node of this process; then three
//! processes are a mesh under load, of which one is killed, comes back, and another is drained.

mod load;
mod measure;
mod nodes;
mod report;
mod story;
mod texts;
mod timeline;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use shoal_mesh::{Client, ConnectOptions, NetThread};

use self::load::{LoadPlan, TEXTS_PER_REQUEST};
use self::measure::Measured;
use self::nodes::{Ground, NodePlan};
use self::report::{Alone, Report, neighbours};
use self::story::Story;
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
const TIME_MAX: Duration = Duration::from_secs(50);
/// Calls with one text.
const SINGLE_CALLS: usize = 200;
const SINGLE_TIME: Duration = Duration::from_secs(2);
const BULK_TIME: Duration = Duration::from_secs(3);
/// For the node to end; nothing is in flight then.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// What each of three nodes may have of the speed that was measured: they share a machine, so that without a cap one
/// that is killed would take no capacity with it.
const NODE_SHARE: f64 = 0.2;
/// Of the three nodes' speed, what is asked of them: 60 % of what two can do.
const LOAD_SHARE: f64 = 0.4;
/// Requests a second at most: on a fast machine the texts get no longer.
const REQUESTS_PER_S_MAX: f64 = 200.0;

pub(super) fn run(args: &DemoArgs) -> Result<Exit, Stop> {
    let report = run_interruptible(prepare_and_show(args))?;
    let mut output = Output::new();
    if args.json {
        output.json(&report.to_json())?;
    } else {
        report.print(&mut output)?;
    }
    output.flush()?;
    if report.failures() + report.duplicates() > 0 {
        tell("shoal: demo: a text failed or came twice");
        report.story.timeline.messages.iter().for_each(|message| tell(&format!("shoal: demo: {message}")));
        return Ok(Exit::DemoFailed);
    }
    Ok(Exit::Ok)
}

async fn prepare_and_show(args: &DemoArgs) -> Result<Report, Stop> {
    let home = tempfile::tempdir().map_err(Stop::with(Exit::Unavailable))?;
    let ground = Ground::new(home.path(), device_flags(args)).map_err(Stop::with(Exit::Unavailable))?;
    let identity_dir = ground.node_identity("demo-node").map_err(Stop::with(Exit::Unavailable))?;
    let mut measured = Measured::new()?;
    let mut config = configure(args, &identity_dir)?;
    let model = name_of(&config, &args.model);
    let local = config.models.store.local.iter().find(|local| local.name == model);
    let dir = match local.map(|local| local.dir.clone()) {
        Some(dir) => dir,
        None => {
            let pulled = pull(config.models.store.clone(), &model).await?;
            measured.event("model", json!({ "name": pulled.model.name, "source": pulled.source }));
            pulled.model.dir
        }
    };
    config.models.preload = vec![model.clone()];
    let show = async {
        let alone = show_alone(config, &ground, &model, &mut measured).await?;
        let (models, note) = two_models(&ground, &model, &dir, &alone.dtype)?;
        let tokens_per_s_max = (measured.tokens_per_s * NODE_SHARE).max(100.0) as u64;
        let load = load_plan(&alone, models.clone(), tokens_per_s_max, args.time);
        let story = show_mesh(&ground, &models, tokens_per_s_max, &load).await?;
        story.tell(&mut measured);
        let (tokens_per_s_max, requests_per_s) = (tokens_per_s_max, load.requests_per_s);
        Ok(Report { measured, alone, story, models, note, tokens_per_s_max, requests_per_s })
    };
    tokio::time::timeout(TIME_MAX, show).await.unwrap_or_else(|_| {
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
        ..device_overrides(&args.device)
    };
    Ok(resolve(None, &flags, &Environment::of_process(), Machine::detect())?)
}

/// What the demo was told about the device, for its nodes; each has one thread.
fn device_flags(args: &DemoArgs) -> Vec<String> {
    let dtype = args.device.dtype.map(|dtype| ("--dtype", dtype.to_string()));
    let device = args.device.device.map(|device| ("--device", device.to_string()));
    let isa = args.device.cpu_isa.clone().map(|isa| ("--cpu-isa", isa));
    let memory = args.device.gpu_memory.map(|bytes| ("--gpu-memory", bytes.to_string()));
    let given = [dtype, device, isa, memory].into_iter().flatten();
    given.flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

/// One node in this process: what the model is, and how fast it is here.
async fn show_alone(
    config: NodeConfig,
    ground: &Ground,
    model: &str,
    measured: &mut Measured,
) -> Result<Alone, Stop> {
    let identity = ground.client().map_err(Stop::with(Exit::Unavailable))?;
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
    let dtype = status.models.iter().find(|known| known.name == model).map(|known| known.dtype.clone());
    let alone = Alone {
        model: model.to_owned(),
        dtype: dtype.unwrap_or_default(),
        device: device.map(|device| device.name.clone()).unwrap_or_default(),
        reason: device.map(|device| device.reason.clone()).unwrap_or_default(),
        neighbours: neighbours(&corpus.vectors, &queries.vectors),
        tokens_per_text: corpus.tokens as f64 / CORPUS.len() as f64,
        stages: status.histograms,
    };
    drop(client);
    node.shutdown(SHUTDOWN_GRACE).await;
    Ok(alone)
}

/// Two entries of a catalogue for the nodes, over the same files: the second in f32, and what there is to say about it.
fn two_models(ground: &Ground, model: &str, dir: &Path, dtype: &str) -> Result<(Vec<String>, String), Stop> {
    let failed = Stop::with::<std::io::Error>;
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    let first: String = model.chars().map(plain).collect();
    let first = first.trim_start_matches('-').to_owned();
    let second = format!("{first}-f32");
    let note = if dtype == "f32" {
        format!("{second} is the same checkpoint again, in f32 as well")
    } else {
        format!("{second} is the same checkpoint, in f32 instead of {dtype}")
    };
    let catalogue: PathBuf = ground.catalogue_dir();
    fs::create_dir_all(&catalogue).map_err(failed(Exit::Unavailable))?;
    let dir = dir.canonicalize().map_err(failed(Exit::Model))?;
    for (name, dtype) in [(&first, ""), (&second, "dtype = \"f32\"\n")] {
        let source = format!("[[sources]]\nkind = \"directory\"\npath = {dir:?}\n");
        let entry = format!("version = 1\nname = {name:?}\n{dtype}{source}");
        fs::write(catalogue.join(format!("{name}.toml")), entry).map_err(failed(Exit::Unavailable))?;
    }
    Ok((vec![first, second], note))
}

fn load_plan(alone: &Alone, models: Vec<String>, tokens_per_s_max: u64, time: Duration) -> LoadPlan {
    let tokens_per_request = alone.tokens_per_text * TEXTS_PER_REQUEST as f64;
    let tokens_per_s = tokens_per_s_max as f64 * nodes::NODES as f64 * LOAD_SHARE;
    let requests_per_s = (tokens_per_s / tokens_per_request.max(1.0)).clamp(1.0, REQUESTS_PER_S_MAX);
    LoadPlan { models, requests_per_s, time }
}

/// Three processes: each model is in memory at a node of its own at first, and both are at the third.
async fn show_mesh(
    ground: &Ground,
    models: &[String],
    tokens_per_s_max: u64,
    load: &LoadPlan,
) -> Result<Story, Stop> {
    let preload =
        |index: usize| models.get(index).map_or_else(|| models.to_vec(), |model| vec![model.clone()]);
    let plans = std::array::from_fn(|index| NodePlan { preload: preload(index), tokens_per_s_max });
    story::play(ground, plans, load).await
}
