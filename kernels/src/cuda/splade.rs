//! Sparse vectors over the vocabulary: `kernels/cuda/splade.cu`.

use bytemuck::{Pod, Zeroable};

use super::gemm::Tile;
use super::kernel::{
    DeviceAddress, GRID_X_MAX, Kernel, KernelError, KernelModule, Launch, VECTOR_ELEMENTS, suffix,
};
use crate::Dtype;

/// The twin of `MaxLogitsArgs` in `splade.cu`: the largest positive logit of each sequence and column.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct MaxLogitsArgs {
    /// `[tokens, inner]`, rows `x_stride` apart.
    pub x: DeviceAddress,
    /// `[columns, inner]`.
    pub weight: DeviceAddress,
    /// f32 `[columns]`; 0: nothing is added.
    pub bias: DeviceAddress,
    /// u32 `[tokens]`: the sequence of each, ascending.
    pub sequence_of: DeviceAddress,
    /// u32 `[sequences, columns]`: f32 by its bits, zeros before the launch.
    pub maxima: DeviceAddress,
    /// Tokens of the batch.
    pub tokens: u32,
    /// The vocabulary: any number.
    pub columns: u32,
    /// Elements that each logit is summed from.
    pub inner: u32,
    /// Elements from a row of `x` to the next.
    pub x_stride: u32,
}

const _: () = assert!(size_of::<MaxLogitsArgs>() == 56, "as the device lays it out");

/// The twin of `SparseArgs` in `splade.cu`: what of the maxima is not zero, in rows of compressed columns.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct SparseArgs {
    /// u32 `[sequences, columns]`: f32 by its bits.
    pub maxima: DeviceAddress,
    /// u32 `[sequences]`: entries of each.
    pub counts: DeviceAddress,
    /// u32 `[sequences + 1]`.
    pub indptr: DeviceAddress,
    /// u32 `[entries_max]`: columns, ascending in each sequence.
    pub indices: DeviceAddress,
    /// f32 `[entries_max]`.
    pub values: DeviceAddress,
    /// Sequences of the batch.
    pub sequences: u32,
    /// The vocabulary.
    pub columns: u32,
    /// Entries past it are not written; the last of `indptr` counts all, so that the host sees what was left out.
    pub entries_max: u32,
    /// How often `log(1 + x)` is taken of a maximum.
    pub logs: u32,
}

const _: () = assert!(size_of::<SparseArgs>() == 56, "as the device lays it out");

const SPARSE_THREADS: u32 = 256;
/// `log(1 + x)` once (Formal et al. 2021) or twice (some later models), or not at all.
const LOGS_MAX: u32 = 2;

/// The kernels of a sparse head, in the order of their launches: maxima, count, write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpladeKernels {
    max_logits: Kernel,
    count: Kernel,
    write: Kernel,
}

impl SpladeKernels {
    /// The kernels for hidden states in `dtype`.
    ///
    /// # Errors
    /// No kernel was built for this format.
    pub fn select(dtype: Dtype) -> Result<Self, KernelError> {
        let tile = Tile::LARGEST;
        let max_logits = Kernel::new(
            KernelModule::Splade,
            format!("max_logits_{}", suffix(dtype)?),
            tile.threads,
            tile.shared_bytes(),
        );
        // A number for each warp: one sum, and two for entries that take turns.
        let sparse = |name: &str, sums: u32| {
            Kernel::new(KernelModule::Splade, name.to_owned(), SPARSE_THREADS, sums * SPARSE_THREADS / 32 * 4)
        };
        Ok(Self { max_logits, count: sparse("sparse_count", 1), write: sparse("sparse_write", 3) })
    }

    /// The launch over all tokens and the vocabulary.
    ///
    /// # Errors
    /// The operands contradict each other, or are more than a grid has.
    pub fn max_logits(&self, args: MaxLogitsArgs) -> Result<Launch<'_, MaxLogitsArgs>, KernelError> {
        let kernel = &self.max_logits;
        kernel.require(args.tokens > 0 && args.columns > 0 && args.inner > 0, "no elements")?;
        kernel.require(args.inner.is_multiple_of(VECTOR_ELEMENTS), "sums are over eights")?;
        kernel.require_aligned(&[args.x_stride])?;
        Ok(Launch { kernel, grid: Tile::LARGEST.grid(kernel, args.tokens, args.columns)?, args })
    }

    /// The two launches that count and write the entries, one after the other.
    ///
    /// # Errors
    /// The operands contradict each other, or are more than a grid has.
    pub fn compact(&self, args: SparseArgs) -> Result<[Launch<'_, SparseArgs>; 2], KernelError> {
        self.count.require(args.sequences > 0 && args.columns > 0, "no elements")?;
        self.count.require(args.logs <= LOGS_MAX, "no model takes as many logarithms")?;
        let blocks = self.count.blocks(u64::from(args.sequences), GRID_X_MAX)?;
        Ok([&self.count, &self.write].map(|kernel| Launch { kernel, grid: [blocks, 1, 1], args }))
    }
}
