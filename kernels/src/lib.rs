//! Everything a device computes, synchronous: no runtime, no network, no clock.
//!
//! A model is described (`families`, `spec`), planned for one device (`plan`) and run over packed batches by the only
//! forward pass (`exec`). All `unsafe` of the project lives in this crate, and each use argues for itself.
#![expect(
    unsafe_code,
    reason = "kernels is the one crate that may: mapped files and vector instructions"
)]

mod batch;
pub mod cpu;
mod describe;
mod dtype;
mod families;
mod files;
pub mod reference;
pub mod spec;
mod weights;

pub use batch::PackedBatch;
pub use describe::{DescribeError, ModelDescription, Prompts};
pub use dtype::{Dtype, DtypePolicy, ParseDtypeError};
pub use families::FamilyError;
pub use weights::{HeaderError, TensorError, WeightsError};
