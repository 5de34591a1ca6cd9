//! A node, or a mesh of them, that is asked for twice what it can: what it still does, what it holds, whom it refuses, and
//! how soon it is as before.
//!
//! Everything runs in this process, the callers too: what they cost the machine, and what memory their waiting calls take,
//! is in the figures. Nodes that are capped leave the machine room for them.

mod callers;
mod ground;
mod report;
mod watch;

use std::time::{Duration, Instant};

use self::callers::{Asked, Callers, Phase};
use self::ground::{Ground, Plan};
use self::report::{Parts, Report, Setup};
use self::watch::{Seen, watch};
use crate::embed::read_texts;
use crate::pipeline::{AnyError, Work};

/// Share of the peak that is asked for before and after the overload.
const CALM_SHARE: f64 = 0.5;
/// Requests kept under way at each node to find the peak: full batches, and no queue that a node would refuse.
const PEAK_IN_FLIGHT: u64 = 32;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    work: Work,
    /// Nodes of the mesh.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Compute threads of each node.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Ceiling of each node in tokens/s (`device.tokens_per_s_max`); without it as fast as it goes.
    #[arg(long)]
    cap: Option<u32>,
    /// Seconds of the overload.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Seconds of calm before and after it, and of the search for the peak.
    #[arg(long, default_value_t = 6.0)]
    calm_seconds: f64,
    /// What is asked for, as a multiple of the peak.
    #[arg(long, default_value_t = 2.0)]
    factor: f64,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let texts = read_texts(&arguments.work.texts)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let report = runtime.block_on(measure(arguments, texts))?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    let missed = report.missed();
    if missed.is_empty() { Ok(()) } else { Err(missed.join("; ").into()) }
}

async fn measure(arguments: &Arguments, texts: Vec<String>) -> Result<Report, AnyError> {
    let ground = Ground::start(&Plan {
        work: &arguments.work,
        nodes: arguments.nodes,
        threads: arguments.threads,
        tokens_per_s_max: arguments.cap,
    })
    .await?;
    let (calm, overload) = (
        Duration::try_from_secs_f64(arguments.calm_seconds)?,
        Duration::try_from_secs_f64(arguments.seconds)?,
    );
    let callers = Callers::new(ground.client.clone(), &ground.http(), texts)?;
    let tokens_mean = callers.tokens_mean().await?;
    let in_flight = PEAK_IN_FLIGHT * arguments.nodes as u64;
    let peak = callers.closed(in_flight, calm / 3, calm).await;
    let phase = |share: f64, length| Phase { rate: share * peak / tokens_mean, length };
    let phases = [phase(CALM_SHARE, calm), phase(arguments.factor, overload), phase(CALM_SHARE, calm)];
    let (began, mut seen) = (Instant::now(), Seen::default());
    let Asked { outcomes, calls_max } = tokio::select! {
        asked = callers.open(&phases, began) => asked,
        () = watch(&ground, began, &mut seen) => Asked::default(),
    };
    let parts = Parts { overload: calm, after: calm + overload, end: 2 * calm + overload };
    let rates = (peak, arguments.factor * peak);
    let setup = Setup { nodes: arguments.nodes, tokens_per_s_max: arguments.cap, batch: ground.batch };
    let mut report = Report::new(setup, rates, &outcomes, seen, parts);
    (report.calls_max, report.first_failure) = (calls_max, callers.take_failure());
    Ok(report)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use shoal_kernels::DtypePolicy;

    use super::*;

    /// Small and short: what a node must keep to whatever the machine does.
    #[test]
    fn a_node_in_overload_keeps_its_bounds_and_serves_what_it_can() {
        let golden = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/bert/mean"));
        let arguments = Arguments {
            work: Work { model: golden, texts: PathBuf::new(), dtype: DtypePolicy::Auto },
            nodes: 1,
            threads: 1,
            cap: Some(2000),
            seconds: 3.0,
            calm_seconds: 1.0,
            factor: 2.0,
            json: false,
        };
        let texts = (0..64).map(|number| format!("morning music {number} moon river")).collect();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let report = runtime.block_on(measure(&arguments, texts)).expect("it runs");
        assert!(report.keeps_its_bounds(), "{report:?}");
        assert!(report.goodput_share > 0.5, "{report:?}");
    }
}
