//! Whole models through the stand-in for the driver: the same plan and the same forward pass as on a CPU, on the emulated
//! kernels, against what the reference implementations answer.

mod faults;
mod heads;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use shoal_standin::hurry;

use super::*;
use crate::{
    batch::PackedBatch,
    cuda::{CudaDevice, host_tests as host},
    describe::ModelDescription,
    dtype::{Dtype, DtypePolicy},
    exec::LoadError,
    outputs::{OutputSet, Outputs},
};

/// What `tests/golden/README.md` describes; ids and vectors alone.
#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    ids: Vec<u32>,
    #[serde(default)]
    vector: Vec<f64>,
    #[serde(default)]
    logits: Vec<f64>,
    #[serde(default)]
    type_ids: Vec<u8>,
    #[serde(default)]
    indices: Vec<u32>,
    #[serde(default)]
    values: Vec<f64>,
}

/// Longer sequences take the emulation seconds and the kernels nowhere new.
const CASE_TOKENS_MAX: usize = 65;

const BERTS: [&str; 6] =
    ["mean", "cls-bf16-prefixed", "bare-f16-gamma", "sharded-current", "dense-f16", "poolings-layernorm"];

fn dir(kind: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(kind).join(name)
}

fn golden(dir: &Path) -> Vec<Case> {
    let path = dir.with_extension("json");
    let json = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let golden: Golden = serde_json::from_slice(&json).expect("golden data has its form");
    let cases: Vec<_> =
        golden.cases.into_iter().filter(|case| case.ids.len() <= CASE_TOKENS_MAX).take(6).collect();
    assert!(!cases.is_empty(), "{}", path.display());
    cases
}

fn describe(dir: &Path) -> ModelDescription {
    ModelDescription::from_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

fn load(device: &Arc<CudaDevice>, dir: &Path, dtype: Dtype) -> Result<Arc<CudaModel>, LoadError> {
    let mut told = (0, 0);
    let mut tell = |done, total| told = (done, total);
    let policy = DtypePolicy::Exact(dtype);
    let model = CudaModel::load(&describe(dir), device, policy, &mut host::patient, &mut tell)?;
    assert!(told.0 > 0 && told.0 == told.1, "all is told to be done in the end, not {told:?}");
    let fit = CudaModel::fit(&describe(dir), policy, ROOM_BYTES);
    assert!(fit.is_err() || fit.is_ok_and(|fit| fit.weight_bytes == model.bytes()), "laid out as loaded");
    Ok(Arc::new(model))
}

/// Of the device's memory, for each batch on its way: enough for the cases.
const ROOM_BYTES: u64 = 4 << 20;

fn lane(device: &Arc<CudaDevice>) -> CudaLane {
    CudaLane::new(device, BATCHES_MAX, ROOM_BYTES).expect("a lane")
}

fn batch(cases: &[Case]) -> PackedBatch {
    let mut batch = PackedBatch::new();
    for case in cases {
        match case.type_ids.iter().position(|type_id| *type_id == 1) {
            Some(first) => batch.push_pair(&case.ids, first),
            None => batch.push(&case.ids),
        }
    }
    batch
}

fn cosine(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let found = || found.iter().map(|value| f64::from(*value));
    let dot: f64 = found().zip(expected).map(|(a, b)| a * b).sum();
    dot / (found().map(|a| a * a).sum::<f64>() * expected.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// Complains where an answer is not that of the reference.
fn check(name: &str, dtype: Dtype, found: &[f32], expected: &[f64], complaints: &mut Vec<String>) {
    let least = if dtype == Dtype::F16 { 0.9999 } else { 0.999 };
    let cosine = cosine(found, expected);
    if cosine.is_nan() || cosine < least {
        complaints.push(format!("{name} {dtype}: cosine {cosine:.6}, at least {least} is wanted"));
    }
}

/// Runs every case of a checkpoint as one batch, and the first alone: the same bits.
fn run(device: &Arc<CudaDevice>, dir: &Path, dtype: Dtype, complaints: &mut Vec<String>) {
    let name = dir.file_name().expect("a name").to_string_lossy();
    let model = match load(device, dir, dtype) {
        Ok(model) => model,
        Err(error) => return complaints.push(format!("{name} {dtype}: {error}")),
    };
    let (cases, mut lane, mut out) = (golden(dir), lane(device), Outputs::new());
    let wanted = OutputSet::DENSE;
    let run = lane.run(&model, &batch(&cases), wanted, &mut host::patient, &mut out);
    run.unwrap_or_else(|error| panic!("{name} {dtype}: {error}"));
    let dims = model.dims();
    for (case, vector) in cases.iter().zip(out.dense.chunks_exact(dims)) {
        check(&format!("{name}, {} tokens", case.ids.len()), dtype, vector, &case.vector, complaints);
    }
    let first = out.dense[..dims].to_vec();
    lane.run(&model, &batch(&cases[..1]), wanted, &mut host::patient, &mut out).expect("it runs");
    if first != out.dense {
        complaints.push(format!("{name} {dtype}: other bits in other company"));
    }
}

fn run_all(kind: &str, names: &[&str]) {
    let info = host::own_device();
    let device = host::open(&info);
    hurry(info.ordinal, 0x5eed);
    let mut complaints = Vec::new();
    for name in names {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            run(&device, &dir(kind, name), dtype, &mut complaints);
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let (budget_bytes, free_bytes) = device.memory_bytes();
    assert_eq!(free_bytes, budget_bytes, "models and lanes give their memory back");
}

#[test]
fn berts_answer_like_the_reference() {
    run_all("bert", &BERTS);
}

#[test]
fn other_encoders_answer_like_the_reference() {
    let norms_behind = ["roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "electra", "jina-bert"];
    let rotations =
        ["nomic-bert", "nomic-bert-current", "gte-new", "gte-current", "jina-v3", "jina-v3-adapted"];
    run_all("families", &norms_behind);
    run_all("families", &["deberta-v3", "deberta-v2", "deberta-v2-c2p"]);
    run_all("families", &rotations);
}

#[test]
fn models_with_norms_before_answer_like_the_reference() {
    run_all("families", &["modernbert", "modernbert-current", "eurobert"]);
    run_all("families", &["qwen2", "qwen2-bidirectional", "qwen3", "mistral", "llama", "gemma3"]);
}
