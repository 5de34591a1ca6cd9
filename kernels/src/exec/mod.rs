//! Plan + weights + packed batch -> vectors: the only forward pass.

mod block;
mod check;
mod cuda;
mod error;
mod head;
mod lane;
mod load;
mod model;
mod pass;
mod reader;
mod relative;
mod span_weights;
mod spans;
mod sparse;
mod workspace;

pub use cuda::{BATCHES_MAX, CudaFit, CudaLane, CudaModel};
pub use error::{ExecError, LoadError};
pub use lane::CpuLane;
pub use load::CpuOptions;
pub use model::CpuModel;

#[cfg(test)]
mod tests;
