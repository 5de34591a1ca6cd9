//! Everything a device computes, synchronous: no runtime, no network, no clock.
//!
//! A model is described (`families`, `spec`), planned for one device (`plan`) and run over packed batches by the only
//! forward pass (`exec`). All `unsafe` of the project lives in this crate, and each use argues for itself.

mod batch;
mod dtype;

pub use batch::PackedBatch;
pub use dtype::{Dtype, DtypePolicy, ParseDtypeError};
