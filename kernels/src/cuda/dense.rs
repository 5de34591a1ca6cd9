//! Small layers after the encoder, in f32: `kernels/cuda/dense.cu`.

use bytemuck::{Pod, Zeroable};

use super::kernel::{
    DeviceAddress, GRID_X_MAX, GRID_Y_MAX, Kernel, KernelError, KernelModule, Launch, VECTOR_ELEMENTS,
    head_suffix,
};
use crate::Dtype;

/// The twin of `DenseArgs` in `dense.cu`: `out = act(x W^T + bias)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct DenseArgs {
    /// `[rows, inner]`, rows `x_stride` apart.
    pub x: DeviceAddress,
    /// f32 `[columns, inner]`.
    pub weight: DeviceAddress,
    /// f32 `[columns]`; 0: nothing is added.
    pub bias: DeviceAddress,
    /// f32 `[rows, columns]`, rows `out_stride` apart.
    pub out: DeviceAddress,
    /// Sequences or tokens.
    pub rows: u32,
    /// Results of a row: any number.
    pub columns: u32,
    /// Elements that each is summed from.
    pub inner: u32,
    /// Elements from a row to the next.
    pub x_stride: u32,
    /// Elements from a row of the result to the next.
    pub out_stride: u32,
    /// [`activation_code`](super::activation_code).
    pub activation: u32,
}

const _: () = assert!(size_of::<DenseArgs>() == 56, "as the device lays it out");

const THREADS: u32 = 128;
const BLOCK_ROWS: u32 = 8;
const BLOCK_COLUMNS: u32 = 4;

/// The dense kernel for one format of its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenseKernel(Kernel);

impl DenseKernel {
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.0
    }

    /// The kernel for rows in `input`: f32 as pooling leaves them, or the encoder's 16-bit format.
    ///
    /// # Errors
    /// No kernel was built for this format.
    pub fn select(input: Dtype) -> Result<Self, KernelError> {
        Ok(Self(Kernel::new(KernelModule::Dense, format!("dense_{}", head_suffix(input)?), THREADS, 0)))
    }

    /// The launch over all rows.
    ///
    /// # Errors
    /// The operands contradict each other, or are more than a grid has.
    pub fn launch(&self, args: DenseArgs) -> Result<Launch<'_, DenseArgs>, KernelError> {
        let kernel = &self.0;
        kernel.require(args.rows > 0 && args.columns > 0 && args.inner > 0, "no elements")?;
        kernel.require(args.inner.is_multiple_of(VECTOR_ELEMENTS), "sums are over eights")?;
        kernel.require_aligned(&[args.x_stride])?;
        let down = kernel.blocks(u64::from(args.rows.div_ceil(BLOCK_ROWS)), GRID_X_MAX)?;
        let across = kernel.blocks(u64::from(args.columns.div_ceil(BLOCK_COLUMNS)), GRID_Y_MAX)?;
        Ok(Launch { kernel, grid: [down, across, 1], args })
    }
}
