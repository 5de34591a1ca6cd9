//! Residual and norm: `kernels/cuda/norm.cu`.

use bytemuck::{Pod, Zeroable};

use super::kernel::{
    DeviceAddress, GRID_X_MAX, Kernel, KernelError, KernelModule, Launch, VECTOR_ELEMENTS, head_suffix,
    suffix,
};
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
/// Warps that hold a row and steps of eight elements a thread, smallest first: what `row_norm.cuh` is built for.
const VARIANTS: [(u32, u32); 5] = [(1, 2), (1, 4), (4, 2), (4, 4), (4, 8)];

/// A kernel that holds whole rows in registers: its name begins with `op`, `w` and `s` say how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowKernel {
    pub(super) kernel: Kernel,
    row_warps: u32,
    dims: u32,
}

impl RowKernel {
    pub(super) fn select(
        module: KernelModule,
        op: &str,
        suffix: &str,
        dims: usize,
    ) -> Result<Self, KernelError> {
        let holds = |&(warps, steps): &(u32, u32)| (warps * 32 * VECTOR_ELEMENTS * steps) as usize;
        let is_whole = dims > 0 && dims.is_multiple_of(VECTOR_ELEMENTS as usize);
        let variant = VARIANTS.iter().find(|variant| is_whole && holds(variant) >= dims);
        let Some(&(row_warps, steps)) = variant else {
            return Err(KernelError::RowDims {
                dims,
                dims_max: VARIANTS.iter().map(holds).max().unwrap_or(0),
            });
        };
        let name = format!("{op}_w{row_warps}s{steps}_{suffix}");
        // A slot for each warp in each of the two sums.
        let shared_bytes = if row_warps > 1 { 2 * row_warps * 4 } else { 0 };
        Ok(Self { kernel: Kernel::new(module, name, THREADS, shared_bytes), row_warps, dims: dims as u32 })
    }

    /// The grid over all rows.
    pub(super) fn grid(&self, rows: u32, dims: u32) -> Result<[u32; 3], KernelError> {
        self.kernel.require(dims == self.dims, "planned for another row length")?;
        self.kernel.require(rows > 0, "no rows")?;
        let block_rows = THREADS / 32 / self.row_warps;
        Ok([self.kernel.blocks(u64::from(rows.div_ceil(block_rows)), GRID_X_MAX)?, 1, 1])
    }
}

/// The norm kernel of one row length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddNormKernel(RowKernel);

impl AddNormKernel {
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.0.kernel
    }

    /// The kernel for rows of `dims`; LayerNorm also for f32, as pooling leaves vectors.
    ///
    /// # Errors
    /// No kernel was built for this format or row.
    pub fn select(norm: NormKind, dtype: Dtype, dims: usize) -> Result<Self, KernelError> {
        let (op, suffix) = match norm {
            NormKind::Layer => ("add_norm_layer", head_suffix(dtype)?),
            NormKind::Rms => ("add_norm_rms", suffix(dtype)?),
        };
        Ok(Self(RowKernel::select(KernelModule::Norm, op, suffix, dims)?))
    }

    /// The launch over all rows.
    ///
    /// # Errors
    /// The rows have another length, or are more than a grid has.
    pub fn launch(&self, args: AddNormArgs) -> Result<Launch<'_, AddNormArgs>, KernelError> {
        Ok(Launch { kernel: &self.0.kernel, grid: self.0.grid(args.rows, args.dims)?, args })
    }
}
