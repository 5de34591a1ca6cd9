//! Rotary positions and the norm of heads before them, in place: `kernels/cuda/rope.cu`.

use bytemuck::{Pod, Zeroable};

use super::kernel::{DeviceAddress, GRID_X_MAX, Kernel, KernelError, KernelModule, Launch, suffix};
use crate::Dtype;

/// The twin of `RopeArgs` in `rope.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct RopeArgs {
    /// `[rows, heads + kv_heads, head_dim]`, rows `stride` apart.
    pub x: DeviceAddress,
    /// f32 `[positions, rope_dims / 2, 2]`: cosine and sine; 0: nothing is rotated.
    pub angles: DeviceAddress,
    /// u32 `[rows]`: within the table.
    pub positions: DeviceAddress,
    /// f32 `[head_dim]`: of the query heads' norm; 0: there is none.
    pub q_weight: DeviceAddress,
    /// f32 `[head_dim]`: of the key heads' norm; 0: there is none.
    pub k_weight: DeviceAddress,
    /// Tokens.
    pub rows: u32,
    /// Elements from a row to the next.
    pub stride: u32,
    /// Query heads.
    pub heads: u32,
    /// Key heads, behind them.
    pub kv_heads: u32,
    /// Elements of one head.
    pub head_dim: u32,
    /// The first of them, which are rotated.
    pub rope_dims: u32,
    /// Added to the mean square.
    pub eps: f32,
    /// 1 where the checkpoint stores its weights less one.
    pub weight_plus: f32,
}

const _: () = assert!(size_of::<RopeArgs>() == 72, "as the device lays it out");

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// `i` and `i + rope_dims / 2`.
    Halves,
    /// `2i` and `2i + 1`.
    Neighbours,
}

const THREADS: u32 = 128;
/// Elements of a head that a thread has.
const THREAD_ELEMENTS: usize = 16;
/// Threads a head that `rope.cu` is built for.
const LANES: [usize; 4] = [2, 4, 8, 16];

/// The rotation of one head size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RopeKernel {
    kernel: Kernel,
    lanes: u32,
    head_dim: u32,
    rope_dims: u32,
}

impl RopeKernel {
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The kernel that rotates the first `rope_dims` elements of heads of `head_dim`.
    ///
    /// # Errors
    /// No kernel was built for this format or head.
    pub fn select(
        pairs: RopePairs,
        dtype: Dtype,
        head_dim: usize,
        rope_dims: usize,
    ) -> Result<Self, KernelError> {
        let suffix = suffix(dtype)?;
        let in_sixteens = [head_dim, rope_dims].iter().all(|dims| dims.is_multiple_of(THREAD_ELEMENTS));
        let lanes = LANES.into_iter().find(|lanes| lanes * THREAD_ELEMENTS >= head_dim);
        let Some(lanes) = lanes.filter(|_| in_sixteens && head_dim > 0 && rope_dims <= head_dim) else {
            let head_dim_max = LANES[LANES.len() - 1] * THREAD_ELEMENTS;
            return Err(KernelError::Rope { head_dim, rope_dims, head_dim_max });
        };
        let pairs = match pairs {
            RopePairs::Halves => "halves",
            RopePairs::Neighbours => "neighbours",
        };
        let kernel = Kernel::new(KernelModule::Rope, format!("rope_{pairs}_l{lanes}_{suffix}"), THREADS, 0);
        Ok(Self { kernel, lanes: lanes as u32, head_dim: head_dim as u32, rope_dims: rope_dims as u32 })
    }

    /// The launch over all heads of all tokens.
    ///
    /// # Errors
    /// The operands contradict each other, or are more than a grid has.
    pub fn launch(&self, args: RopeArgs) -> Result<Launch<'_, RopeArgs>, KernelError> {
        let kernel = &self.kernel;
        let heads = u64::from(args.heads) + u64::from(args.kv_heads);
        let is_planned = args.head_dim == self.head_dim && args.rope_dims == self.rope_dims;
        kernel.require(is_planned, "planned for other heads")?;
        kernel.require(args.rows > 0 && heads > 0, "no heads")?;
        kernel.require(u64::from(args.stride) >= heads * u64::from(args.head_dim), "rows overlap")?;
        kernel.require(args.angles == 0 || args.positions != 0, "angles without positions")?;
        kernel.require_aligned(&[args.stride])?;
        let block_heads = u64::from(THREADS / self.lanes);
        let blocks = kernel.blocks((u64::from(args.rows) * heads).div_ceil(block_heads), GRID_X_MAX)?;
        Ok(Launch { kernel, grid: [blocks, 1, 1], args })
    }
}
