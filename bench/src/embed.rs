//! The whole in-process pipeline over a file of texts.

use crate::calibrate;
use crate::pipeline::{AnyError, BATCH_TOKENS, Pipeline, Work};
use crate::stats::{median, quantile};
use serde::Serialize;
use shoal_kernels::cpu::{CpuIsa, PeakLoop};
use shoal_kernels::spec::{EncoderSpec, LayerSpec, Mask};
use shoal_kernels::{CpuModel, CpuOptions, ModelDescription};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    work: Work,
    /// The instruction set; the fastest of this machine by default.
    #[arg(long)]
    cpu_isa: Option<CpuIsa>,
    /// Threads of the whole pipeline.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Independent streams that share the threads; as many as threads by default, one with `--latency-runs`.
    #[arg(long)]
    lanes: Option<usize>,
    /// Tokens of one batch.
    #[arg(long, default_value_t = BATCH_TOKENS)]
    batch_tokens: usize,
    /// Measured runs over all texts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Runs (with `--latency-runs`: queries) before the measured ones.
    #[arg(long, default_value_t = 1)]
    warmup: usize,
    /// Instead of throughput: this many single queries, one after another.
    #[arg(long)]
    latency_runs: Option<usize>,
    /// Where the vectors of the last run go: little-endian f32, `[texts, dims]`.
    #[arg(long)]
    vectors_out: Option<PathBuf>,
    /// Vectors of the same texts in the same form; the cosines with them are reported.
    #[arg(long)]
    expect: Option<PathBuf>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    dtype: String,
    device: String,
    threads: usize,
    lanes: usize,
    texts: usize,
    tokens: usize,
    dims: usize,
    load_ms: f64,
    #[serde(flatten)]
    figures: Figures,
    /// The register-only peak of the same threads, before and after.
    peak_gflops: Option<[f64; 2]>,
    /// The rate's share of what the peak allows for this model and these lengths.
    percent_of_roofline: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cosine: Option<Cosine>,
    vm_hwm_bytes: Option<u64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Figures {
    Throughput { runs_s: Vec<f64>, sentences_per_s: f64, tokens_per_s: f64, sentences_per_s_best: f64 },
    Latency { latency_us: Vec<f64>, p50_us: f64, p99_us: f64, mean_us: f64 },
}

#[derive(Serialize)]
struct Cosine {
    min: f64,
    mean: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let texts = read_texts(&arguments.work.texts)?;
    let start = Instant::now();
    let description = ModelDescription::from_dir(&arguments.work.model)?;
    let isa = arguments.cpu_isa.unwrap_or_else(CpuIsa::detect);
    let latency = arguments.latency_runs.is_some();
    let all = if latency { 1 } else { arguments.threads };
    let lanes = arguments.lanes.unwrap_or(all).max(1);
    let mut pipeline = load(arguments, &description, isa, lanes)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;

    let lengths = texts.iter().map(|text| Ok(pipeline.tokenize(text)?.len()));
    let lengths = lengths.collect::<Result<Vec<usize>, AnyError>>()?;
    let before = peak_now(&mut pipeline, isa, lanes);
    let (figures, vectors) = match arguments.latency_runs {
        Some(queries) => (single(&mut pipeline, &texts, arguments.warmup, queries)?, None),
        None => throughput(&mut pipeline, &texts, arguments.warmup, arguments.runs)?,
    };
    let after = peak_now(&mut pipeline, isa, lanes);
    let peak_gflops = before.zip(after).map(<[f64; 2]>::from);
    if let (Some(path), Some(vectors)) = (&arguments.vectors_out, &vectors) {
        std::fs::write(path, vectors.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    let cosine = match (&arguments.expect, &vectors) {
        (Some(path), Some(vectors)) => Some(cosines(path, vectors, pipeline.model().dims())?),
        _ => None,
    };
    let report = Report {
        model: arguments.work.model.display().to_string(),
        dtype: pipeline.model().dtype().to_string(),
        device: pipeline.model().device_name().to_owned(),
        threads: arguments.threads,
        lanes,
        texts: texts.len(),
        tokens: lengths.iter().sum(),
        dims: pipeline.model().dims(),
        load_ms,
        percent_of_roofline: share_of_roofline(&figures, peak_gflops, &description.spec, &lengths),
        figures,
        peak_gflops,
        cosine,
        vm_hwm_bytes: vm_hwm_bytes(),
    };
    print(&report, arguments.json)
}

fn load(
    arguments: &Arguments,
    description: &ModelDescription,
    isa: CpuIsa,
    lanes: usize,
) -> Result<Pipeline, AnyError> {
    let options = CpuOptions { isa, dtype: arguments.work.dtype, ..CpuOptions::default() };
    let model = CpuModel::load(description, &options, &mut |_, _| ())?;
    let threads_per_lane = (arguments.threads / lanes).max(1);
    Pipeline::new(description, model, lanes, threads_per_lane, arguments.batch_tokens)
}

/// The register-only peak of the threads that run the lanes.
fn peak_now(pipeline: &mut Pipeline, isa: CpuIsa, lanes: usize) -> Option<f64> {
    let peak = PeakLoop::of(isa, pipeline.model().dtype())?;
    Some(calibrate::measure(pipeline.team(), lanes, peak, Duration::from_millis(20)))
}

fn throughput(
    pipeline: &mut Pipeline,
    texts: &[String],
    warmup: usize,
    runs: usize,
) -> Result<(Figures, Option<Vec<f32>>), AnyError> {
    for _ in 0..warmup {
        pipeline.encode(texts)?;
    }
    let mut runs_s = Vec::with_capacity(runs);
    let (mut vectors, mut tokens) = (None, 0);
    for _ in 0..runs {
        let start = Instant::now();
        let (of_run, tokens_of_run) = pipeline.encode(texts)?;
        runs_s.push(start.elapsed().as_secs_f64());
        (vectors, tokens) = (Some(of_run), tokens_of_run);
    }
    let seconds = median(&runs_s);
    let figures = Figures::Throughput {
        sentences_per_s: texts.len() as f64 / seconds,
        tokens_per_s: tokens as f64 / seconds,
        sentences_per_s_best: texts.len() as f64 / quantile(&runs_s, 0.0),
        runs_s,
    };
    Ok((figures, vectors))
}

fn single(
    pipeline: &mut Pipeline,
    texts: &[String],
    warmup: usize,
    queries: usize,
) -> Result<Figures, AnyError> {
    let mut latency_us = Vec::with_capacity(queries);
    for (query, text) in texts.iter().cycle().take(warmup + queries).enumerate() {
        let start = Instant::now();
        pipeline.encode_one(text)?;
        if query >= warmup {
            latency_us.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(Figures::Latency {
        p50_us: median(&latency_us),
        p99_us: quantile(&latency_us, 0.99),
        mean_us: latency_us.iter().sum::<f64>() / latency_us.len() as f64,
        latency_us,
    })
}

/// The texts of a file: one a line, a JSON string or an object with a field `text`.
pub(crate) fn read_texts(path: &Path) -> Result<Vec<String>, AnyError> {
    let lines = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut texts = Vec::new();
    for (index, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: serde_json::Value = serde_json::from_str(line)?;
        let text = value.as_str().or_else(|| value.get("text").and_then(|text| text.as_str()));
        let text =
            text.ok_or_else(|| format!("{}:{}: neither a string nor a `text`", path.display(), index + 1))?;
        texts.push(text.to_owned());
    }
    if texts.is_empty() { Err("the file has no texts".into()) } else { Ok(texts) }
}

/// Measured operations per second over the peak: what the linear layers and the scores cost, nothing else.
fn share_of_roofline(
    figures: &Figures,
    peak_gflops: Option<[f64; 2]>,
    spec: &EncoderSpec,
    lengths: &[usize],
) -> Option<f64> {
    let Figures::Throughput { runs_s, .. } = figures else {
        return None;
    };
    let flop_of_layer = |layer: &LayerSpec| -> usize {
        let LayerSpec { attention, ffn, .. } = layer;
        let heads = [attention.heads, attention.kv_heads];
        let [width_q, width_kv] = heads.map(|heads| heads * attention.head_dim);
        let matrices = if ffn.gate.is_some() { 3 } else { 2 };
        let weights = spec.hidden * (2 * width_q + 2 * width_kv + matrices * ffn.intermediate);
        let scores = |length: usize| match attention.mask {
            Mask::Bidirectional => length * length,
            Mask::Causal => length * (length + 1) / 2,
            Mask::Window { left, right } => length * length.min(left + 1 + right),
        };
        lengths.iter().map(|&length| 2 * length * weights + 4 * scores(length) * width_q).sum()
    };
    let flop = (0..spec.layer_count()).map(|index| flop_of_layer(spec.layer(index))).sum::<usize>() as f64;
    let peak = peak_gflops.map(|[before, after]| (before + after) / 2.0)?;
    Some(flop * 1e-9 / median(runs_s) / peak * 100.0)
}

fn cosines(path: &Path, vectors: &[f32], dims: usize) -> Result<Cosine, AnyError> {
    let bytes = std::fs::read(path)?;
    let (chunks, []) = bytes.as_chunks::<4>() else {
        return Err("the expected vectors are not f32".into());
    };
    let expected: Vec<f32> = chunks.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    if expected.len() != vectors.len() {
        return Err(format!("expected {} values, found {}", expected.len(), vectors.len()).into());
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let cosine = |(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let all: Vec<f64> = vectors.chunks_exact(dims).zip(expected.chunks_exact(dims)).map(cosine).collect();
    Ok(Cosine { min: quantile(&all, 0.0), mean: all.iter().sum::<f64>() / all.len() as f64 })
}

/// The greatest resident size of this process so far, where Linux tells.
fn vm_hwm_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn print(report: &Report, json: bool) -> Result<(), AnyError> {
    if json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    println!(
        "{} on {}, {} lanes of {} threads, {} texts, {} tokens, loaded in {:.0} ms",
        report.dtype,
        report.device,
        report.lanes,
        report.threads / report.lanes,
        report.texts,
        report.tokens,
        report.load_ms
    );
    match &report.figures {
        Figures::Throughput { sentences_per_s, tokens_per_s, sentences_per_s_best, runs_s } => println!(
            "{sentences_per_s:.1} sentences/s (best {sentences_per_s_best:.1}), {tokens_per_s:.0} tokens/s, median of {}",
            runs_s.len()
        ),
        Figures::Latency { latency_us, p50_us, p99_us, .. } => {
            println!("p50 {p50_us:.0} us, p99 {p99_us:.0} us over {} queries", latency_us.len());
        }
    }
    if let Some([before, after]) = report.peak_gflops {
        println!("peak {before:.0} GFLOP/s before, {after:.0} after");
    }
    if let Some(share) = report.percent_of_roofline {
        println!("{share:.1} % of the roofline");
    }
    if let Some(Cosine { min, mean }) = report.cosine {
        println!("cosine with the expected vectors: min {min:.6}, mean {mean:.6}");
    }
    Ok(())
}
