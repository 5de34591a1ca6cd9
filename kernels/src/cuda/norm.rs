//! Residual and norm: `kernels/cuda/norm.cu`.

use bytemuck::{Pod, Zeroable};

use super::kernel::{DeviceAddress, GRID_X_MAX, Kernel, KernelError, Launch, VECTOR_ELEMENTS, suffix};
use crate::Dtype;

/// The twin of `AddNormArgs` in `norm.cu`: `out = norm(x + residual) * (weight + weight_plus) + shift`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct AddNormArgs {
    /// `[rows, dims]`.
    pub x: DeviceAddress,
    /// `[rows, dims]`; 0: nothing is added.
    pub residual: DeviceAddress,
    /// f32 `[dims]`.
    pub weight: DeviceAddress,
    /// f32 `[dims]`; 0: nothing is added.
    pub shift: DeviceAddress,
    /// `[rows, dims]`: where `x + residual` goes; 0: nowhere.
    pub sum: DeviceAddress,
    /// `[rows, dims]`.
    pub out: DeviceAddress,
    /// Tokens.
    pub rows: u32,
    /// Elements of a row.
    pub dims: u32,
    /// Added to the variance.
    pub eps: f32,
    /// 1 where the checkpoint stores its weights less one (Gemma).
    pub weight_plus: f32,
}

const _: () = assert!(size_of::<AddNormArgs>() == 64, "as the device lays it out");

/// Which statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Ba et al. 2016.
    Layer,
    /// Zhang and Sennrich 2019.
    Rms,
}

const THREADS: u32 = 128;
/// Warps that hold a row and steps of eight elements a thread, smallest first: what `norm.cu` was built for.
const VARIANTS: [(u32, u32); 5] = [(1, 2), (1, 4), (4, 2), (4, 4), (4, 8)];

/// The norm kernel of one row length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddNormKernel {
    kernel: Kernel,
    row_warps: u32,
    dims: u32,
}

impl AddNormKernel {
    /// The kernel for rows of `dims`.
    ///
    /// # Errors
    /// No kernel was built for this format or row.
    pub fn select(norm: NormKind, dtype: Dtype, dims: usize) -> Result<Self, KernelError> {
        let suffix = suffix(dtype)?;
        let holds = |&(warps, steps): &(u32, u32)| (warps * 32 * VECTOR_ELEMENTS * steps) as usize;
        let is_whole = dims > 0 && dims.is_multiple_of(VECTOR_ELEMENTS as usize);
        let variant = VARIANTS.iter().find(|variant| is_whole && holds(variant) >= dims);
        let Some(&(row_warps, steps)) = variant else {
            return Err(KernelError::RowDims {
                dims,
                dims_max: VARIANTS.iter().map(holds).max().unwrap_or(0),
            });
        };
        let norm = match norm {
            NormKind::Layer => "layer",
            NormKind::Rms => "rms",
        };
        let name = format!("add_norm_{norm}_w{row_warps}s{steps}_{suffix}");
        // A slot for each warp in each of the two sums.
        let shared_bytes = if row_warps > 1 { 2 * row_warps * 4 } else { 0 };
        Ok(Self { kernel: Kernel { name, threads: THREADS, shared_bytes }, row_warps, dims: dims as u32 })
    }

    /// The launch over all rows.
    ///
    /// # Errors
    /// The rows have another length, or are more than a grid has.
    pub fn launch(&self, args: AddNormArgs) -> Result<Launch<'_, AddNormArgs>, KernelError> {
        self.kernel.require(args.dims == self.dims, "planned for another row length")?;
        self.kernel.require(args.rows > 0, "no rows")?;
        let block_rows = THREADS / 32 / self.row_warps;
        let blocks = self.kernel.blocks(u64::from(args.rows.div_ceil(block_rows)), GRID_X_MAX)?;
        Ok(Launch { kernel: &self.kernel, grid: [blocks, 1, 1], args })
    }
}
