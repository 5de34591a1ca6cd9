//! Attention that compares contents with relative positions: `kernels/cuda/disentangled.cu`.

use bytemuck::{Pod, Zeroable};

use super::attention::AttentionArgs;
use super::kernel::{
    DeviceAddress, GRID_X_MAX, GRID_Y_MAX, Kernel, KernelError, KernelModule, Launch, suffix,
};
use crate::Dtype;

/// The twin of `DisentangledArgs` in `disentangled.cu`, where each field is described.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct DisentangledArgs {
    /// Without a bias or a window, with as many heads of keys as of queries.
    pub attention: AttentionArgs,
    /// What queries meet: `[heads, rows, head_dim]`; 0: nothing.
    pub keys: DeviceAddress,
    /// What keys meet, likewise.
    pub queries: DeviceAddress,
    /// u32 `[2 * reach + 1]`, rising by at most one: the row of `keys` by key minus query.
    pub key_rows: DeviceAddress,
    /// Likewise that of `queries` by query minus key.
    pub query_rows: DeviceAddress,
    /// Rows of a table.
    pub rows: u32,
    /// The largest distance that has a row of its own.
    pub reach: u32,
}

const _: () = assert!(size_of::<DisentangledArgs>() == 144, "as the device lays it out");

/// Queries and keys of a tile.
const TILE: usize = 64;
const THREADS: u32 = 128;
/// Distances of a tile of queries and one of keys.
const DISTANCES: usize = 2 * TILE;
/// Elements from a token's products to the next one's.
const BAND_STRIDE: usize = 16 + TILE + 5;

/// The kernel of one head size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisentangledKernel(Kernel);

impl DisentangledKernel {
    /// What an error says of it.
    pub(crate) const WITH: &str = " with relative positions that contents are compared with";
    /// Head sizes that there are kernels for, ascending.
    pub(crate) const HEAD_DIMS: &[usize] = &[32, 64];

    /// The kernel for heads of `head_dim`.
    ///
    /// # Errors
    /// None was built for this format or head.
    pub fn select(dtype: Dtype, head_dim: usize) -> Result<Self, KernelError> {
        let suffix = suffix(dtype)?;
        if !Self::HEAD_DIMS.contains(&head_dim) {
            let (with, covered) = (Self::WITH, Self::HEAD_DIMS);
            return Err(KernelError::HeadDim { head_dim, with, covered });
        }
        let tiles = (3 * TILE + DISTANCES) * (head_dim + 8) * dtype.bytes();
        let shared = tiles + TILE * BAND_STRIDE * size_of::<f32>() + 2 * DISTANCES * size_of::<u32>();
        let name = format!("attention_disentangled_d{head_dim}_{suffix}");
        Ok(Self(Kernel::new(KernelModule::Disentangled, name, THREADS, shared as u32)))
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        &self.0
    }

    /// The launch for sequences of at most `longest` tokens.
    ///
    /// # Errors
    /// The operands contradict each other, or the batch is more than a grid has.
    pub fn launch(
        &self,
        args: DisentangledArgs,
        longest: u32,
    ) -> Result<Launch<'_, DisentangledArgs>, KernelError> {
        let (kernel, attention) = (&self.0, &args.attention);
        let AttentionArgs { q_stride, k_stride, v_stride, out_stride, .. } = *attention;
        kernel.require(attention.heads > 0 && attention.kv_heads == attention.heads, "heads differ")?;
        kernel.require_aligned(&[q_stride, k_stride, v_stride, out_stride])?;
        kernel.require(attention.sequences > 0 && longest > 0, "no queries")?;
        kernel.require(args.rows > 0 && args.key_rows != 0 && args.query_rows != 0, "no positions")?;
        let tiles = kernel.blocks(u64::from(longest.div_ceil(TILE as u32)), GRID_Y_MAX)?;
        let items = u64::from(attention.sequences) * u64::from(attention.heads);
        Ok(Launch { kernel, grid: [kernel.blocks(items, GRID_X_MAX)?, tiles, 1], args })
    }
}
