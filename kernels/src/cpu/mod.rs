//! What a CPU computes: one lane's ops over packed weights and packed batches.
//!
//! [`CpuWorkers`] holds the threads and the scratch of a lane; [`CpuWorkers::ops`] binds them to an instruction set, and
//! [`CpuOps`] has one method per op. Sums are f32. A row's bits depend on that row (in attention: on that sequence) and
//! on nothing else: not on the batch around it, the number of threads or the split of the work.

mod aligned;
mod attention;
mod element;
mod embed;
mod error;
mod isa;
mod linear;
mod lstm;
mod max_sim;
mod norm;
mod operand;
mod ops;
mod pack;
mod peak;
mod pool;
mod rope;
mod shared;
mod simd;
mod spans;
mod team;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tile_f16;
mod weights;
mod word_weights;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use aligned::AlignedBuf;
pub use attention::{
    AttentionShape, HEAD_DIM_MAX, Mask, PositionBias, RelativeBuckets, RelativeTables, Rows,
};
pub use element::Element;
pub use embed::Embeddings;
pub use error::OpError;
pub use isa::{CpuIsa, ParseIsaError};
pub(crate) use lstm::LstmWorkspace;
pub use lstm::{Lstm, LstmDirection};
pub use max_sim::max_sim;
pub use ops::{CpuOps, CpuWorkers};
pub use peak::PeakLoop;
pub use pool::Pooling;
pub use rope::{HeadOps, RopeTable};
pub(crate) use spans::SpanOperands;
pub use team::{TEAM_THREADS_MAX, Team};
pub use weights::{EmbeddingTable, LayerNorm, PackedLinear};
pub use word_weights::{WordPooling, WordWeights};

/// What follows a linear layer element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `x Phi(x)` (Hendrycks and Gimpel, arXiv 1606.08415), exact; `gelu` in Hugging Face configurations.
    GeluErf,
    /// The same through a hyperbolic tangent; `gelu_new` and `gelu_pytorch_tanh`.
    GeluTanh,
    /// `x sigmoid(x)`; `silu` and `swish`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// The hyperbolic tangent, of poolers.
    Tanh,
}

/// What a linear layer does with its sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `out = activation(x W^T + b)`.
    Activate(Activation),
    /// `out += x W^T + b`: the residual, in place.
    Add,
    /// `out = activation(x G^T + c) * (x W^T + b)`, of weights that are packed with their gate.
    Gate(Activation),
}
