//! Plan + weights + packed batch -> vectors: the only forward pass.

mod block;
mod check;
mod error;
mod head;
mod lane;
mod load;
mod model;
mod sparse;
mod workspace;

pub use error::{ExecError, LoadError};
pub use lane::CpuLane;
pub use load::CpuOptions;
pub use model::CpuModel;

#[cfg(test)]
mod tests;
