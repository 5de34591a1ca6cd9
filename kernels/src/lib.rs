//! Everything a device computes, synchronous: no runtime, no network, no clock.
//!
//! A model is described (`families`, `spec`), planned for one device (`plan`) and run over packed batches by the only
//! forward pass (`exec`). All `unsafe` of the project lives in this crate, and each use argues for itself.
#![expect(unsafe_code, reason = "the one crate that may: mapped files and vector instructions")]

mod batch;
pub mod cpu;
pub mod cuda;
mod describe;
mod dtype;
mod exec;
mod families;
mod files;
#[cfg(test)]
mod fixture;
mod outputs;
mod plan;
pub mod reference;
pub mod spec;
mod weights;

pub use batch::{PackedBatch, SpanRule};
pub use cpu::CpuIsa;
pub use describe::{
    CONFIG_FILES, DescribeError, Expansion, Matryoshka, ModelDescription, ModelTask, MultivectorText,
    MultivectorTexts, PairTemplate, Prompts, ScoreActivation, SpanTexts,
};
pub use dtype::{Dtype, DtypePolicy, ParseDtypeError};
pub use exec::{
    BATCHES_MAX, CpuLane, CpuModel, CpuOptions, CudaFit, CudaLane, CudaModel, ExecError, LoadError,
};
pub use families::FamilyError;
pub use outputs::{OutputSet, Outputs, ScoredSpan, SpanRows, SparseRows};
pub use plan::{Plan, PlanError};
pub use weights::{HeaderError, TensorError, WeightsError};
