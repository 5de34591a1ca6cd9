//! What a device cannot do for a model.

use crate::{cpu::CpuIsa, cuda::KernelError, dtype::Dtype, outputs::OutputSet};

/// The device has no kernels for the model as it was asked for. Nothing was loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The instruction set has no kernels for the format.
    #[error("cpu {isa} has no {dtype} kernels; it has {}", names(covered))]
    Dtype {
        /// The instruction set.
        isa: CpuIsa,
        /// What was asked for.
        dtype: Dtype,
        /// What there is.
        covered: Vec<Dtype>,
    },
    /// The attention kernels do not cover the width of a head.
    #[error("head_dim is {head_dim}; attention covers even widths up to {max}")]
    HeadDim {
        /// The model's.
        head_dim: usize,
        /// The widest.
        max: usize,
    },
    /// CUDA devices leave out some of what the model is for.
    #[error("CUDA devices do not compute its {missing} outputs; run the model on the CPU")]
    CudaOutputs {
        /// What they leave out.
        missing: OutputSet,
    },
    /// Attention on CUDA devices takes all tokens of a sequence.
    #[error("CUDA devices do not expand its queries by tokens that no other sees; run the model on the CPU")]
    CudaUnseen,
    /// CUDA devices have no kernel for it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

fn names(all: &[impl ToString]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
