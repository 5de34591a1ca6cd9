//! The peak of the machine at this moment.
//!
//! A virtual core may be a thread that shares its physical core with another for seconds to minutes, and clocks move:
//! a figure means something only as a share of the peak that was measured right before and after it.

use crate::pipeline::AnyError;
use clap::ValueEnum;
use serde::Serialize;
use shoal_kernels::Dtype;
use shoal_kernels::cpu::{CpuIsa, PeakLoop, Team};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long each loop runs.
    #[arg(long, default_value_t = 60)]
    millis: u64,
    /// Threads that run it at the same time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Only this loop.
    #[arg(long)]
    kind: Option<Kind>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    F32,
    Bf16,
    F16,
    Int8,
}

#[derive(Serialize)]
struct Report {
    isa: String,
    threads: usize,
    f32_gflops: Option<f64>,
    bf16_gflops: Option<f64>,
    f16_gflops: Option<f64>,
    int8_gops: Option<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let mut team = Team::new(arguments.threads);
    let duration = Duration::from_millis(arguments.millis);
    let mut rate = |kind: Kind, peak: PeakLoop| {
        let wanted = arguments.kind.is_none_or(|only| only == kind) && peak.is_available();
        wanted.then(|| measure(&mut team, arguments.threads, peak, duration))
    };
    let widest_f32 = PeakLoop::of(CpuIsa::available().last().unwrap_or(CpuIsa::Portable), Dtype::F32);
    let report = Report {
        isa: CpuIsa::detect().to_string(),
        threads: arguments.threads,
        f32_gflops: widest_f32.and_then(|peak| rate(Kind::F32, peak)),
        bf16_gflops: rate(Kind::Bf16, PeakLoop::Bf16Avx512),
        f16_gflops: rate(Kind::F16, PeakLoop::F16Avx512),
        int8_gops: rate(Kind::Int8, PeakLoop::Int8Avx512),
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    println!("{} threads, best set {}", report.threads, report.isa);
    let rows = [
        ("f32", report.f32_gflops),
        ("bf16", report.bf16_gflops),
        ("f16", report.f16_gflops),
        ("int8", report.int8_gops),
    ];
    for (name, rate) in rows {
        println!("{name:>5} {:>8}", rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1} GFLOP/s")));
    }
    Ok(())
}

/// Turns between two looks at the clock: some tens of microseconds.
const TURNS_PER_LOOK: u64 = 10_000;

/// Runs the loop on `threads` threads for about `duration`; the rate of all together in GFLOP/s (or GOP/s).
pub(crate) fn measure(team: &mut Team, threads: usize, peak: PeakLoop, duration: Duration) -> f64 {
    // A sleeping worker is awake before the clock starts.
    team.run(threads, &|_| peak.run(TURNS_PER_LOOK));
    let looks = std::sync::atomic::AtomicU64::new(0);
    let start = Instant::now();
    team.run(threads, &|_| {
        let mut own = 0;
        while start.elapsed() < duration {
            peak.run(TURNS_PER_LOOK);
            own += 1;
        }
        looks.fetch_add(own, std::sync::atomic::Ordering::Relaxed);
    });
    let operations = looks.into_inner() * TURNS_PER_LOOK * peak.ops_per_turn();
    operations as f64 / start.elapsed().as_secs_f64() * 1e-9
}
