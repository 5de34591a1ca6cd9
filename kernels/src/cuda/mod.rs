//! Kernels for NVIDIA devices: which one does what, and how it is launched.
//!
//! The sources are in `kernels/cuda/`. Here stands what the host knows of them: the names, the argument of each (a struct
//! of the same layout), and the shape of a launch. Nothing here touches a driver, so that all of it runs in tests on any
//! machine: the launches go to the host emulation (`kernels/emu`) there.

mod activation;
mod attention;
mod dense;
mod disentangled;
mod embed;
mod gemm;
mod host;
mod kernel;
mod norm;
mod pool;
mod rope;
mod splade;
#[cfg(test)]
mod tests;
mod vectors;

pub use activation::{ActivateArgs, ActivateKernel, activation_code};
pub use attention::{AttentionArgs, AttentionKernels, Distance};
pub use dense::{DenseArgs, DenseKernel};
pub use disentangled::{DisentangledArgs, DisentangledKernel};
pub use embed::{EmbedArgs, EmbedKernel};
pub use gemm::{GemmArgs, GemmKernels};
#[cfg(test)]
pub(crate) use host::tests as host_tests;
pub use host::{
    CudaDevice, CudaDeviceInfo, DeviceError, DeviceMemory, Driver, DriverError, Event, Pinned, Stream,
};
pub use kernel::{DeviceAddress, Kernel, KernelError, KernelModule, Launch};
pub use norm::{AddNormArgs, AddNormKernel, NormKind};
pub use pool::{PoolArgs, PoolKernel, pooling_code};
pub use rope::{RopeArgs, RopeKernel, RopePairs};
pub use splade::{MaxLogitsArgs, SparseArgs, SpladeKernels};
pub use vectors::{VectorForm, VectorsArgs, VectorsKernel};
