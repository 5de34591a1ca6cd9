//! Attention over packed sequences: `kernels/cuda/attention.cu`.

use bytemuck::{Pod, Zeroable};

use super::kernel::{
    DeviceAddress, GRID_X_MAX, GRID_Y_MAX, Kernel, KernelError, KernelModule, Launch, SHARED_BYTES_MAX,
    suffix,
};
use crate::Dtype;

/// The twin of `AttentionArgs` in `attention.cu`, where each field is described.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct AttentionArgs {
    /// `[queries, heads, head_dim]`, rows `q_stride` apart.
    pub q: DeviceAddress,
    /// `[keys, kv_heads, head_dim]`.
    pub k: DeviceAddress,
    /// As `k`.
    pub v: DeviceAddress,
    /// As `q`.
    pub out: DeviceAddress,
    /// u32 `[sequences + 1]`.
    pub cu_seqlens_q: DeviceAddress,
    /// u32 `[sequences + 1]`.
    pub cu_seqlens_k: DeviceAddress,
    /// f32, times log2(e): slopes `[heads]`, or `[heads, 2 * bias_reach + 1]` by distance; 0 without a bias.
    pub bias: DeviceAddress,
    /// Elements from a query to the next.
    pub q_stride: u32,
    /// Elements from a key to the next.
    pub k_stride: u32,
    /// Elements from a value to the next.
    pub v_stride: u32,
    /// Elements from a row of the result to the next.
    pub out_stride: u32,
    /// Sequences of the batch.
    pub sequences: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// The largest distance that the table of a relative bias has an entry for.
    pub bias_reach: u32,
    /// Keys seen before the own position; negative: all.
    pub window_left: i32,
    /// Keys seen after the own position; negative: all.
    pub window_right: i32,
    /// `log2(e) / sqrt(head_dim)`, or what the model has in place of the root.
    pub scale: f32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<AttentionArgs>() == 104, "as the device lays it out");

/// What is added to a score by the distance between query and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// Nothing.
    None,
    /// Minus a slope of the head times the distance (Press et al. 2021).
    Alibi,
    /// A table of the head (Raffel et al. 2020; MPNet).
    Relative,
}

impl Distance {
    /// Head sizes that there are kernels for, ascending.
    pub(crate) const fn head_dims(self) -> &'static [usize] {
        self.traits().2
    }

    /// What an error says of it.
    pub(crate) const fn with(self) -> &'static str {
        self.traits().1
    }

    /// What the kernels' names say, what an error says, and the head sizes that `attention.cu` was built for.
    const fn traits(self) -> (&'static str, &'static str, &'static [usize], &'static [usize]) {
        match self {
            Self::None => ("", "", &[32, 64, 96, 128, 256], &[32, 64, 96, 128]),
            Self::Alibi => ("_alibi", " with ALiBi", &[32, 64], &[64]),
            Self::Relative => ("_relative", " with relative positions", &[32, 64], &[64]),
        }
    }
}

const QUERIES: usize = 64;
const THREADS: u32 = 128;
/// The longest sequence of the short variant.
const SHORT_MAX: u32 = 32;

/// Elements from one row of a tile to the next, as `TILE_STRIDE` of the source.
const fn tile_stride(head_dim: usize) -> usize {
    head_dim + 8
}

/// The attention kernels of one head size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionKernels {
    long: Kernel,
    /// For batches of short sequences only; a text gets the same bits from both.
    short: Option<Kernel>,
}

impl AttentionKernels {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Kernel> {
        std::iter::once(&self.long).chain(&self.short)
    }

    /// The kernels for heads of `head_dim`.
    ///
    /// # Errors
    /// No kernel was built for this format or head.
    pub fn select(distance: Distance, dtype: Dtype, head_dim: usize) -> Result<Self, KernelError> {
        let suffix = suffix(dtype)?;
        let (variant, with, covered, covered_short) = distance.traits();
        if !covered.contains(&head_dim) {
            return Err(KernelError::HeadDim { head_dim, with, covered });
        }
        let keys = if head_dim > 128 { 32 } else { 64 };
        let bytes = |rows: usize| rows * tile_stride(head_dim) * dtype.bytes();
        let kernel = |name: String, threads: u32, shared: usize| {
            debug_assert!(shared <= SHARED_BYTES_MAX, "{name} fits no block: {shared}");
            Kernel::new(KernelModule::Attention, name, threads, shared as u32)
        };
        let long =
            kernel(format!("attention{variant}_d{head_dim}_{suffix}"), THREADS, bytes(QUERIES + 2 * keys));
        let short = covered_short.contains(&head_dim).then(|| {
            let warps = if head_dim > 64 { 2 } else { 4 };
            let tiles = bytes(warps * 3 * SHORT_MAX as usize);
            kernel(format!("attention_short{variant}_d{head_dim}_{suffix}"), warps as u32 * 32, tiles)
        });
        Ok(Self { long, short })
    }

    /// The launch for sequences of at most `longest` queries and keys.
    ///
    /// # Errors
    /// The operands contradict each other, or the batch is more than a grid has.
    pub fn launch(
        &self,
        args: AttentionArgs,
        longest: (u32, u32),
    ) -> Result<Launch<'_, AttentionArgs>, KernelError> {
        let (queries, keys) = longest;
        match &self.short {
            Some(short) if queries <= SHORT_MAX && keys <= SHORT_MAX => {
                check(short, &args, queries)?;
                let blocks = items(&args).div_ceil(u64::from(short.threads / 32));
                Ok(Launch { kernel: short, grid: [short.blocks(blocks, GRID_X_MAX)?, 1, 1], args })
            }
            _ => self.launch_long(args, queries),
        }
    }

    /// The launch that takes sequences of any length.
    pub(super) fn launch_long(
        &self,
        args: AttentionArgs,
        queries: u32,
    ) -> Result<Launch<'_, AttentionArgs>, KernelError> {
        let kernel = &self.long;
        check(kernel, &args, queries)?;
        let tiles = kernel.blocks(u64::from(queries.div_ceil(QUERIES as u32)), GRID_Y_MAX)?;
        Ok(Launch { kernel, grid: [kernel.blocks(items(&args), GRID_X_MAX)?, tiles, 1], args })
    }
}

fn items(args: &AttentionArgs) -> u64 {
    u64::from(args.sequences) * u64::from(args.heads)
}

fn check(kernel: &Kernel, args: &AttentionArgs, queries: u32) -> Result<(), KernelError> {
    kernel.require(args.kv_heads > 0 && args.heads > 0, "no heads")?;
    kernel.require(args.heads.is_multiple_of(args.kv_heads), "kv_heads must divide heads")?;
    kernel.require_aligned(&[args.q_stride, args.k_stride, args.v_stride, args.out_stride])?;
    kernel.require(args.sequences > 0 && queries > 0, "no queries")
}
