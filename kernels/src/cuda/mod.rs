//! Kernels for NVIDIA devices: which one does what, and how it is launched.
//!
//! The sources are in `kernels/cuda/`. Here stands what the host knows of them: the names, the argument of each (a struct
//! of the same layout), and the shape of a launch. Nothing here touches a driver, so that all of it runs in tests on any
//! machine: the launches go to the host emulation (`kernels/emu`) there.

mod attention;
mod kernel;
mod norm;
#[cfg(test)]
mod tests;

pub use attention::{AttentionArgs, AttentionKernels, Distance};
pub use kernel::{DeviceAddress, Kernel, KernelError, Launch};
pub use norm::{AddNormArgs, AddNormKernel, NormKind};
