//! A load generator for the HTTP edge, and for any other server of the same dialects: one text a request.
//!
//! The closed loop keeps every connection busy: it measures throughput, and hides queueing. The open loop sends at
//! fixed times whatever the server does, and counts latency from the time at which a request should have been sent.
//! Everything runs on one thread, so that the load takes little of the cores that the server shares.

mod connection;
mod load;
mod target;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

pub(crate) use self::connection::{Answer, Connection};
use self::load::{Measured, closed, open};
pub(crate) use self::target::Target;
use crate::embed::read_texts;
use crate::pipeline::AnyError;

/// Clock ticks a second in `/proc`: 100 on every Linux of today.
const TICKS_PER_S: f64 = 100.0;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to post, for example http://127.0.0.1:8080/v1/embeddings; a path that ends in /embed speaks TEI.
    #[arg(long)]
    url: String,
    /// The model to ask for.
    #[arg(long)]
    model: String,
    /// One text per line: a JSON string, or an object with a field `text`.
    #[arg(long)]
    texts: PathBuf,
    /// Connections kept busy; with `--rate` the most that are opened (then 256 by default).
    #[arg(long)]
    connections: Option<usize>,
    /// Measured seconds (of each rate).
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Seconds before them that are not measured.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Open loop: requests per second, several separated by commas or by repeating the flag.
    #[arg(long, value_delimiter = ',')]
    rate: Vec<f64>,
    /// `base64`, as OpenAI's client asks by default, or `float`.
    #[arg(long, default_value = "base64")]
    encoding: String,
    /// Sent as a bearer token.
    #[arg(long)]
    api_key: Option<String>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    mode: &'static str,
    url: String,
    model: String,
    texts: usize,
    encoding: String,
    connections: usize,
    seconds: f64,
    /// CPU time of this process over the whole run, to be subtracted from what the server had.
    load_cpu_s: Option<f64>,
    #[serde(flatten)]
    closed: Option<Point>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    points: Vec<Point>,
}

/// One measurement.
#[derive(Serialize)]
struct Point {
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    sent: u64,
    /// Answered with 200.
    requests: u64,
    /// Answered with 429 or 503.
    shed: u64,
    /// Everything else, unanswered requests included.
    errors: u64,
    first_error: Option<String>,
    requests_per_s: f64,
    achieved_per_s: f64,
    tokens_per_s: f64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
}

impl Point {
    fn new(rate: Option<f64>, measured: &Measured, seconds: f64) -> Self {
        let latency: &Histogram<u64> = &measured.latency_us;
        let per_s = measured.answered as f64 / seconds;
        Self {
            rate,
            sent: measured.sent,
            requests: measured.answered,
            shed: measured.shed,
            errors: measured.errors,
            first_error: measured.first_error.clone(),
            requests_per_s: per_s,
            achieved_per_s: per_s,
            tokens_per_s: measured.tokens as f64 / seconds,
            p50_us: latency.value_at_quantile(0.5),
            p90_us: latency.value_at_quantile(0.9),
            p99_us: latency.value_at_quantile(0.99),
            p999_us: latency.value_at_quantile(0.999),
            max_us: latency.max(),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let texts = read_texts(&arguments.texts)?;
    let key = arguments.api_key.as_deref();
    let target = Target::new(&arguments.url, &arguments.model, &texts, &arguments.encoding, key, None)?;
    let seconds = |value: f64| Duration::try_from_secs_f64(value);
    let (warmup, measure) = (seconds(arguments.warmup)?, seconds(arguments.seconds)?);
    let is_open = !arguments.rate.is_empty();
    let connections = arguments.connections.unwrap_or(if is_open { 256 } else { 32 });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cpu_before = cpu_s();
    let mut report = Report {
        mode: if is_open { "open" } else { "closed" },
        url: arguments.url.clone(),
        model: arguments.model.clone(),
        texts: texts.len(),
        encoding: arguments.encoding.clone(),
        connections,
        seconds: arguments.seconds,
        load_cpu_s: None,
        closed: None,
        points: Vec::new(),
    };
    if is_open {
        for rate in &arguments.rate {
            let measured = runtime.block_on(open(&target, connections, *rate, warmup, measure))?;
            report.points.push(Point::new(Some(*rate), &measured, arguments.seconds));
        }
    } else {
        let measured = runtime.block_on(closed(&target, connections, warmup, measure));
        report.closed = Some(Point::new(None, &measured, arguments.seconds));
    }
    report.load_cpu_s = cpu_s().zip(cpu_before).map(|(after, before)| after - before);
    print(&report, arguments.json)
}

/// CPU time of this process so far (`/proc/self/stat`, fields 14 and 15; the name in field 2 may hold spaces).
fn cpu_s() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks = |index: usize| fields.split(' ').nth(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_S)
}

fn print(report: &Report, json: bool) -> Result<(), AnyError> {
    if json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    println!(
        "{} loop, {} connections, {} s, {} texts, {}",
        report.mode, report.connections, report.seconds, report.texts, report.url
    );
    println!("    rate  answered/s   tokens/s   shed errors   p50 us   p90 us   p99 us  p999 us   max us");
    for point in report.closed.iter().chain(&report.points) {
        let rate = point.rate.map_or("-".to_owned(), |rate| rate.to_string());
        println!(
            "{rate:>8} {:>11.1} {:>10.0} {:>6} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8}",
            point.requests_per_s,
            point.tokens_per_s,
            point.shed,
            point.errors,
            point.p50_us,
            point.p90_us,
            point.p99_us,
            point.p999_us,
            point.max_us
        );
        if let Some(error) = &point.first_error {
            println!("         first error: {error}");
        }
    }
    Ok(())
}
