//! Activations of their own launch: `kernels/cuda/activation.cu`.

use bytemuck::{Pod, Zeroable};

use super::kernel::{DeviceAddress, GRID_X_MAX, Kernel, KernelError, KernelModule, Launch, suffix};
use crate::Dtype;
use crate::cpu::Activation;

/// The twin of `ActivateArgs` in `activation.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct ActivateArgs {
    /// `[rows, columns]`, rows `x_stride` apart.
    pub x: DeviceAddress,
    /// f32 `[columns]`; 0: nothing is added.
    pub bias: DeviceAddress,
    /// `[rows, columns]`, gated `[rows, columns / 2]`; may be `x` where nothing is gated.
    pub out: DeviceAddress,
    /// Tokens.
    pub rows: u32,
    /// Columns of `x`.
    pub columns: u32,
    /// Elements from a row to the next.
    pub x_stride: u32,
    /// Elements from a row of the result to the next.
    pub out_stride: u32,
    /// [`activation_code`].
    pub activation: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ActivateArgs>() == 48, "as the device lays it out");

/// As `Activation` in `activation.cuh` counts.
pub const fn activation_code(activation: Activation) -> u32 {
    match activation {
        Activation::Identity => 0,
        Activation::GeluErf => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
        Activation::Relu => 4,
        Activation::Tanh => 5,
    }
}

const THREADS: u32 = 256;

/// Columns that make one load of results: gate and up stand in pairs.
pub(super) const fn column_step(is_gated: bool) -> u32 {
    if is_gated { 16 } else { 8 }
}

/// The activation kernel, plain or gated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivateKernel {
    kernel: Kernel,
    is_gated: bool,
}

impl ActivateKernel {
    /// `act(x + bias)`; gated, columns 2j and 2j + 1 are gate and up of result j: `act(gate) * up`.
    ///
    /// # Errors
    /// No kernel was built for this format.
    pub fn select(is_gated: bool, dtype: Dtype) -> Result<Self, KernelError> {
        let name = format!("activate{}_{}", if is_gated { "_gated" } else { "" }, suffix(dtype)?);
        Ok(Self { kernel: Kernel::new(KernelModule::Activation, name, THREADS, 0), is_gated })
    }

    /// The launch over all rows.
    ///
    /// # Errors
    /// The operands contradict each other, or are more than a grid has.
    pub fn launch(&self, args: ActivateArgs) -> Result<Launch<'_, ActivateArgs>, KernelError> {
        let (kernel, step) = (&self.kernel, column_step(self.is_gated));
        kernel.require(args.rows > 0 && args.columns > 0, "no elements")?;
        kernel.require(args.columns.is_multiple_of(step), "columns come in eights, gated in sixteens")?;
        kernel.require_aligned(&[args.x_stride, args.out_stride])?;
        let vectors = u64::from(args.rows) * u64::from(args.columns / step);
        let blocks = kernel.blocks(vectors.div_ceil(u64::from(THREADS)), GRID_X_MAX)?;
        Ok(Launch { kernel, grid: [blocks, 1, 1], args })
    }
}
