//! Whole models: against golden vectors, under every instruction set and format that this machine has.

mod bad_input;
mod batches;
mod golden_bert;
mod golden_bge_m3;
mod golden_classifiers;
mod golden_cuda;
mod golden_families;
mod golden_minilm;
mod golden_multivector;
mod golden_sparse;
mod hostile;

use std::path::Path;

use shoal_kernels::{
    CpuIsa, CpuLane, CpuModel, CpuOptions, Dtype, DtypePolicy, ModelDescription, OutputSet, Outputs,
    PackedBatch,
};

/// Every pair of instruction set and format that this machine can run.
fn devices() -> impl Iterator<Item = (CpuIsa, Dtype)> {
    CpuIsa::available().flat_map(|isa| Dtype::ALL.into_iter().map(move |dtype| (isa, dtype))).filter(runs)
}

fn runs((isa, dtype): &(CpuIsa, Dtype)) -> bool {
    isa.supports(*dtype)
}

fn describe(dir: &Path) -> ModelDescription {
    ModelDescription::from_dir(dir).unwrap_or_else(|error| panic!("{error}"))
}

fn load(description: &ModelDescription, (isa, dtype): (CpuIsa, Dtype)) -> CpuModel {
    let options = CpuOptions { isa, dtype: DtypePolicy::Exact(dtype), threads: 2 };
    let mut told = (0, 0);
    let model = CpuModel::load(description, &options, &mut |done, total| told = (done, total));
    let model = model.unwrap_or_else(|error| panic!("{error}"));
    assert!(told.0 > 0 && told.0 == told.1, "all is told to be done in the end, not {told:?}");
    model
}

/// The vectors of `sequences` run as one batch.
fn run(lane: &mut CpuLane, model: &CpuModel, sequences: &[&[u32]], threads: usize) -> Vec<Vec<f32>> {
    let mut batch = PackedBatch::new();
    sequences.iter().for_each(|ids| batch.push(ids));
    let mut out = Outputs::new();
    lane.run(model, &batch, OutputSet::DENSE, threads, &mut out).unwrap_or_else(|error| panic!("{error}"));
    out.dense.chunks(model.dims()).map(<[f32]>::to_vec).collect()
}

/// The bits of a vector, so that -0 and 0 differ and NaN equals itself.
fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|value| value.to_bits()).collect()
}
