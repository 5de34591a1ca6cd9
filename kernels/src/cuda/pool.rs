//! From token rows to one vector per sequence: `kernels/cuda/pool.cu`.

use bytemuck::{Pod, Zeroable};

use super::kernel::{
    DeviceAddress, GRID_X_MAX, GRID_Y_MAX, Kernel, KernelError, KernelModule, Launch, VECTOR_ELEMENTS, suffix,
};
use crate::Dtype;
use crate::cpu::Pooling;

/// The twin of `PoolArgs` in `pool.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct PoolArgs {
    /// `[tokens, dims]`.
    pub x: DeviceAddress,
    /// u32 `[sequences + 1]`.
    pub cu_seqlens: DeviceAddress,
    /// f32 `[sequences, dims]`, rows `out_stride` apart, so that several poolings stand side by side.
    pub out: DeviceAddress,
    /// Sequences of the batch.
    pub sequences: u32,
    /// Elements of a row.
    pub dims: u32,
    /// Elements from a row of the result to the next.
    pub out_stride: u32,
    /// [`pooling_code`].
    pub pooling: u32,
}

const _: () = assert!(size_of::<PoolArgs>() == 40, "as the device lays it out");

/// As `Pooling` in `pool.cu` counts.
pub const fn pooling_code(pooling: Pooling) -> u32 {
    match pooling {
        Pooling::Cls => 0,
        Pooling::Last => 1,
        Pooling::Max => 2,
        Pooling::Mean => 3,
        Pooling::MeanSqrtLen => 4,
        Pooling::WeightedMean => 5,
    }
}

const THREADS: u32 = 128;
/// Threads that share out the tokens among them.
const PARTS: u32 = 8;
const BLOCK_DIMS: u32 = 128;

/// The pooling kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolKernel(Kernel);

impl PoolKernel {
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.0
    }

    /// The kernel for rows in `dtype`.
    ///
    /// # Errors
    /// No kernel was built for this format.
    pub fn select(dtype: Dtype) -> Result<Self, KernelError> {
        let name = format!("pool_{}", suffix(dtype)?);
        Ok(Self(Kernel::new(KernelModule::Pool, name, THREADS, PARTS * BLOCK_DIMS * 4)))
    }

    /// The launch over all sequences.
    ///
    /// # Errors
    /// The operands contradict each other, or are more than a grid has.
    pub fn launch(&self, args: PoolArgs) -> Result<Launch<'_, PoolArgs>, KernelError> {
        let kernel = &self.0;
        kernel.require(args.sequences > 0 && args.dims > 0, "no elements")?;
        kernel.require(args.dims.is_multiple_of(VECTOR_ELEMENTS), "dimensions come in eights")?;
        kernel.require(args.out_stride >= args.dims, "vectors overlap")?;
        let across = kernel.blocks(u64::from(args.sequences), GRID_X_MAX)?;
        let down = kernel.blocks(u64::from(args.dims.div_ceil(BLOCK_DIMS)), GRID_Y_MAX)?;
        Ok(Launch { kernel, grid: [across, down, 1], args })
    }
}
