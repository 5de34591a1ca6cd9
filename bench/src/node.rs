//! What the node adds to its kernels: one stream of texts through bare lanes with ready tokens, through the client in
//! process, and through the client over QUIC on loopback; and single queries on each path.

use crate::embed::read_texts;
use crate::pipeline::{AnyError, BATCH_TOKENS, Pipeline, Work};
use crate::stats::{median, quantile};
use serde::Serialize;
use shoal::config::{Environment, Machine, NodeConfig, Overrides, resolve};
use shoal::node::Node;
use shoal_kernels::{CpuIsa, CpuModel, CpuOptions, ModelDescription};
use shoal_mesh::{Authority, Client, ConnectOptions, Encode, ItemResult, NetThread};
use shoal_protocol::message::{Role, Timings, Truncate};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    work: Work,
    /// Compute threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Times that the file is repeated in one call.
    #[arg(long, default_value_t = 8)]
    repeat: usize,
    /// Measured calls on each path, interleaved.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Measured single queries on each path, one after another.
    #[arg(long, default_value_t = 200)]
    queries: usize,
    /// Worker threads of the async runtime.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Where the node's QUIC link runs: on a thread of its own, as in `shoal serve`, or on the runtime's workers.
    #[arg(long, value_enum, default_value_t = NetPlace::Own)]
    net: NetPlace,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum NetPlace {
    Own,
    Shared,
}

#[derive(Serialize)]
struct PathReport {
    path: &'static str,
    texts_per_s: f64,
    query_p50_us: f64,
    query_p99_us: f64,
}

#[derive(Serialize)]
struct Report {
    device: String,
    dtype: String,
    texts: usize,
    start_to_ready_ms: f64,
    paths: Vec<PathReport>,
    /// Of one query in process: the medians of its stages.
    stages: StageMedians,
}

/// Medians in microseconds.
#[derive(Serialize, Default)]
struct StageMedians {
    tokenize_wait_us: f64,
    tokenize_us: f64,
    queue_us: f64,
    compute_us: f64,
    post_us: f64,
    total_us: f64,
}

const NAME: &str = "bench";
/// Queries of one path before the next has its turn.
const TURN_QUERIES: usize = 20;
const SETTLE: Duration = Duration::from_secs(10);

pub(crate) fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let texts = read_texts(&arguments.work.texts)?;
    let runtime = Builder::new_multi_thread().worker_threads(arguments.workers).enable_all().build()?;
    let report = runtime.block_on(measure(arguments, &texts))?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        let Report { device, dtype, texts, start_to_ready_ms, paths, stages } = &report;
        println!("{dtype} on {device}, {texts} texts a call, ready in {start_to_ready_ms:.0} ms");
        for path in paths {
            println!(
                "{:<22} {:>8.1} texts/s ({:.3} of ready tokens), one query p50 {:>6.0} us, p99 {:>6.0} us",
                path.path,
                path.texts_per_s,
                path.texts_per_s / paths[0].texts_per_s,
                path.query_p50_us,
                path.query_p99_us
            );
        }
        println!("{}", serde_json::to_string(stages)?);
    }
    Ok(())
}

async fn measure(arguments: &Arguments, texts: &[String]) -> Result<Report, AnyError> {
    let scratch = tempfile::tempdir()?;
    let issuer = Authority::create()?.issuer()?;
    issuer.issue(Role::Node, "bench-node")?.save(&scratch.path().join("node"))?;
    let started_at = Instant::now();
    let net = NetThread::start()?;
    let config = config(arguments, scratch.path())?;
    let node = match arguments.net {
        NetPlace::Own => Node::start_with_net(config, net.net()).await?,
        NetPlace::Shared => Node::start(config).await?,
    };
    let start_to_ready_ms = started_at.elapsed().as_secs_f64() * 1e3;
    let address = node.quic_addr().ok_or("no QUIC address")?;
    let identity = issuer.issue(Role::Client, "bench-client")?;
    let quic = Outside::connect(ConnectOptions::new([address], identity))?;
    let mut ready = lanes(arguments, arguments.threads, 1)?;

    let long: Vec<String> = texts.iter().cycle().take(texts.len() * arguments.repeat).cloned().collect();
    let ids = long.iter().map(|text| ready.tokenize(text)).collect::<Result<Vec<_>, _>>()?;
    let mut seconds: [Vec<f64>; 3] = Default::default();
    for run in 0..=arguments.runs {
        let started_at = Instant::now();
        tokio::task::block_in_place(|| ready.encode_ids(&ids))?;
        let bare = started_at.elapsed().as_secs_f64();
        let memory = call(&node.client(), &long).await?;
        let over_quic = quic.run(call(&quic.client, &long))?;
        // The first round warms up.
        if run > 0 {
            for (all, one) in seconds.iter_mut().zip([bare, memory, over_quic]) {
                all.push(one);
            }
        }
    }
    let (micros, timings) = latencies(arguments, texts, &node, &quic).await?;
    let names = ["lanes, ready tokens", "client in process", "client over QUIC"];
    let paths = names.into_iter().zip(seconds).zip(micros).map(|((path, seconds), queries)| PathReport {
        path,
        texts_per_s: long.len() as f64 / median(&seconds),
        query_p50_us: median(&queries),
        query_p99_us: quantile(&queries, 0.99),
    });
    let report = Report {
        device: node.devices().remove(0).name,
        dtype: ready.model().dtype().to_string(),
        texts: long.len(),
        start_to_ready_ms,
        paths: paths.collect(),
        stages: medians(&timings),
    };
    tokio::task::block_in_place(|| drop(quic));
    node.shutdown(SETTLE).await;
    Ok(report)
}

/// A client as another process has it: on a runtime of the calling thread, which shares nothing with the node's.
struct Outside {
    runtime: Runtime,
    client: Client,
}

impl Outside {
    fn connect(options: ConnectOptions) -> Result<Self, AnyError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = tokio::task::block_in_place(|| runtime.block_on(Client::connect(options)))?;
        Ok(Self { runtime, client })
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::task::block_in_place(|| self.runtime.block_on(work))
    }
}

/// Microseconds of single queries by bare lane, in process and over QUIC, and the in-process ones' stages. In turns,
/// so that every path sees the same moods of the machine.
async fn latencies(
    arguments: &Arguments,
    texts: &[String],
    node: &Node,
    quic: &Outside,
) -> Result<([Vec<f64>; 3], Vec<Timings>), AnyError> {
    let mut one_lane = lanes(arguments, 1, arguments.threads)?;
    let mut micros: [Vec<f64>; 3] = Default::default();
    let mut timings = Vec::new();
    for turn in 0..arguments.queries.div_ceil(TURN_QUERIES) {
        let turn: Vec<&String> = texts.iter().cycle().skip(turn * TURN_QUERIES).take(TURN_QUERIES).collect();
        for text in &turn {
            let started_at = Instant::now();
            tokio::task::block_in_place(|| one_lane.encode_one(text))?;
            micros[0].push(started_at.elapsed().as_secs_f64() * 1e6);
        }
        timings.extend(queries(&node.client(), &turn, &mut micros[1]).await?);
        quic.run(queries(&quic.client, &turn, &mut micros[2]))?;
    }
    Ok((micros, timings))
}

fn config(arguments: &Arguments, scratch: &Path) -> Result<NodeConfig, AnyError> {
    let flags = Overrides {
        data_dir: Some(scratch.to_path_buf()),
        http: Some("off".to_owned()),
        quic: Some("127.0.0.1:0".to_owned()),
        identity_dir: Some(scratch.join("node")),
        preload: vec![arguments.work.model.display().to_string()],
        dtype: Some(arguments.work.dtype),
        threads: Some(arguments.threads),
        offline: true,
        ..Overrides::default()
    };
    let mut config = resolve(None, &flags, &Environment::of_process(), Machine::detect())?;
    for model in &mut config.models.store.local {
        model.aliases.push(NAME.to_owned());
    }
    Ok(config)
}

fn lanes(arguments: &Arguments, lanes: usize, threads_per_lane: usize) -> Result<Pipeline, AnyError> {
    let description = ModelDescription::from_dir(&arguments.work.model)?;
    let options = CpuOptions { isa: CpuIsa::detect(), dtype: arguments.work.dtype, ..CpuOptions::default() };
    let model = CpuModel::load(&description, &options, &mut |_, _| ())?;
    Pipeline::new(&description, model, lanes, threads_per_lane, BATCH_TOKENS)
}

/// Seconds of one call with all texts.
async fn call(client: &Client, texts: &[String]) -> Result<f64, AnyError> {
    let call = Encode::new(NAME, texts.to_vec()).truncate(Truncate::Right).no_deadline();
    let started_at = Instant::now();
    let encoded = client.encode(call).await?;
    let seconds = started_at.elapsed().as_secs_f64();
    let failed = |item: &&ItemResult| matches!(item, ItemResult::Failed { .. });
    match encoded.items.iter().find(failed) {
        Some(item) => Err(format!("{item:?}").into()),
        None => Ok(seconds),
    }
}

async fn queries(
    client: &Client,
    texts: &[&String],
    micros: &mut Vec<f64>,
) -> Result<Vec<Timings>, AnyError> {
    let mut timings = Vec::with_capacity(texts.len());
    for text in texts {
        let call = Encode::new(NAME, [text.as_str()]).truncate(Truncate::Right);
        let started_at = Instant::now();
        let encoded = client.encode(call).await?;
        micros.push(started_at.elapsed().as_secs_f64() * 1e6);
        timings.push(encoded.timings);
    }
    Ok(timings)
}

fn medians(timings: &[Timings]) -> StageMedians {
    let of = |stage: fn(&Timings) -> u64| {
        let values: Vec<f64> = timings.iter().map(|timings| stage(timings) as f64).collect();
        median(&values)
    };
    StageMedians {
        tokenize_wait_us: of(|timings| timings.tokenize_wait_us.0),
        tokenize_us: of(|timings| timings.tokenize_us.0),
        queue_us: of(|timings| timings.queue_us.0),
        compute_us: of(|timings| timings.compute_us.0),
        post_us: of(|timings| timings.post_us.0),
        total_us: of(|timings| timings.total_us.0),
    }
}
