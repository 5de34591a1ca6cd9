//! From token rows to one vector per sequence.

use super::element::{Element, load, store};
use super::error::{OpError, expect_cu_seqlens, expect_size};
use super::ops::CpuOps;
use super::shared::SharedMut;
use super::simd::{Kernel, Simd, dispatch};
use std::ops::Range;

/// How a sequence's rows become one vector, as in sentence-transformers' `Pooling` module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The first row.
    Cls,
    /// The greatest value of each dimension.
    Max,
    /// The mean.
    Mean,
    /// The sum divided by the square root of the number of rows.
    MeanSqrtLen,
    /// The mean with weights 1, 2, 3, ...
    WeightedMean,
    /// The last row.
    Last,
}

impl CpuOps<'_> {
    /// Pools each sequence of `x [tokens, dims]` in every way of `poolings`, side by side:
    /// `out [sequences, dims * poolings.len()]`. An empty sequence gives zeros.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn pool<T: Element>(
        &mut self,
        poolings: &[Pooling],
        dims: usize,
        x: &[T],
        cu_seqlens: &[u32],
        out: &mut [f32],
    ) -> Result<(), OpError> {
        expect_cu_seqlens("pool", "cu_seqlens", cu_seqlens, x.len() / dims.max(1))?;
        let bounds = |sequence: usize| [cu_seqlens[sequence], cu_seqlens[sequence + 1]];
        self.pool_each(poolings, dims, x, (cu_seqlens.len() - 1, &bounds), out)
    }

    /// The same for ranges of tokens, `[first, one after the last]`, which may overlap: `out [ranges, dims * poolings.len()]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or a range that is not of these tokens.
    pub fn pool_ranges<T: Element>(
        &mut self,
        poolings: &[Pooling],
        dims: usize,
        x: &[T],
        ranges: &[[u32; 2]],
        out: &mut [f32],
    ) -> Result<(), OpError> {
        let tokens = x.len() / dims.max(1);
        let outside = |[start, end]: &[u32; 2]| start > end || *end as usize > tokens;
        if ranges.iter().any(outside) {
            return Err(OpError::CuSeqlens { op: "pool", what: "a range", tokens });
        }
        self.pool_each(poolings, dims, x, (ranges.len(), &|range| ranges[range]), out)
    }

    /// Pools each of so many ranges, all of which are of the tokens of `x`.
    fn pool_each<T: Element>(
        &mut self,
        poolings: &[Pooling],
        dims: usize,
        x: &[T],
        (count, bounds): (usize, &(dyn Fn(usize) -> [u32; 2] + Sync)),
        out: &mut [f32],
    ) -> Result<(), OpError> {
        expect_size("pool", "x", x.len(), x.len() / dims.max(1) * dims)?;
        let width = dims * poolings.len();
        expect_size("pool", "out", out.len(), count * width)?;
        let (isa, shared) = (self.isa, SharedMut::new(out));
        self.for_rows(count, 1, &|_, ranges| {
            // SAFETY: the items of one call cover different ranges, and so different parts of the result.
            let out = unsafe { shared.part(ranges.start * width, ranges.len() * width) };
            dispatch(isa, PoolRanges { poolings, dims, x, bounds, ranges, out });
        });
        Ok(())
    }
}

struct PoolRanges<'a, T> {
    poolings: &'a [Pooling],
    dims: usize,
    x: &'a [T],
    bounds: &'a (dyn Fn(usize) -> [u32; 2] + Sync),
    ranges: Range<usize>,
    out: &'a mut [f32],
}

impl<T: Element> Kernel for PoolRanges<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let vectors = self.out.chunks_exact_mut(self.dims.max(1));
        let ways = self.ranges.flat_map(|range| self.poolings.iter().map(move |&pooling| (range, pooling)));
        for ((range, pooling), out) in ways.zip(vectors) {
            let [start, end] = (self.bounds)(range).map(|token| token as usize);
            let rows = &self.x[start * self.dims..end * self.dims];
            // SAFETY: the caller vouches for S; `rows` is whole rows as wide as `out`.
            unsafe { pool_rows::<S, T>(pooling, rows, out) }
        }
    }
}

/// # Safety
/// The machine supports `S`; `rows` is whole rows, each as long as `out`.
#[inline(always)]
unsafe fn pool_rows<S: Simd, T: Element>(pooling: Pooling, rows: &[T], out: &mut [f32]) {
    let count = rows.len() / out.len();
    // SAFETY: the caller's contract is the same for each reduction.
    unsafe {
        match pooling {
            Pooling::Cls => reduce::<S, T>(&rows[..out.len().min(rows.len())], out, 1.0, |_, _, row| row),
            Pooling::Last => {
                reduce::<S, T>(&rows[rows.len().saturating_sub(out.len())..], out, 1.0, |_, _, row| row)
            }
            Pooling::Max => reduce::<S, T>(
                rows,
                out,
                1.0,
                |index, sum, row| if index == 0 { row } else { S::max(sum, row) },
            ),
            Pooling::Mean => sum::<S, T>(rows, out, 1.0 / count as f32, |_| 1.0),
            Pooling::MeanSqrtLen => sum::<S, T>(rows, out, 1.0 / (count as f32).sqrt(), |_| 1.0),
            Pooling::WeightedMean => {
                let total = count as f64 * (count as f64 + 1.0) / 2.0;
                sum::<S, T>(rows, out, (1.0 / total) as f32, |index| index as f32 + 1.0);
            }
        }
    }
}

/// Rows that are summed on their own: one long sum of thousands would round as often as it is long.
const SUM_ROWS: usize = 64;

/// `out = scale * sum(weight(index) * row)`, in one order for every length; zeros for no rows.
///
/// # Safety
/// As for `reduce`.
#[inline(always)]
unsafe fn sum<S: Simd, T: Element>(rows: &[T], out: &mut [f32], scale: f32, weight: impl Fn(usize) -> f32) {
    let dims = out.len();
    if rows.is_empty() {
        return out.fill(0.0);
    }
    for column in (0..dims).step_by(S::LANES) {
        let count = dims - column;
        // SAFETY: `count` elements are left in each row and in `out`.
        unsafe {
            let mut total = S::splat(0.0);
            for (block, rows) in rows.chunks(SUM_ROWS * dims).enumerate() {
                let mut part = S::splat(0.0);
                for (index, row) in rows.chunks_exact(dims).enumerate() {
                    let row = load::<S, T>(row.as_ptr().add(column), count);
                    part = S::fma(S::splat(weight(block * SUM_ROWS + index)), row, part);
                }
                total = S::add(total, part);
            }
            store::<S, f32>(out.as_mut_ptr().add(column), S::mul(total, S::splat(scale)), count);
        }
    }
}

/// `out = scale * fold(rows)`, dimension by dimension, in the order of the rows; zeros for no rows.
///
/// # Safety
/// The machine supports `S`; `rows` is whole rows, each as long as `out`.
#[inline(always)]
unsafe fn reduce<S: Simd, T: Element>(
    rows: &[T],
    out: &mut [f32],
    scale: f32,
    fold: impl Fn(usize, S::V, S::V) -> S::V,
) {
    let dims = out.len();
    if rows.is_empty() {
        return out.fill(0.0);
    }
    for column in (0..dims).step_by(S::LANES) {
        let count = dims - column;
        // SAFETY: `count` elements are left in each row and in `out`.
        unsafe {
            let mut sum = S::splat(0.0);
            for (index, row) in rows.chunks_exact(dims).enumerate() {
                sum = fold(index, sum, load::<S, T>(row.as_ptr().add(column), count));
            }
            store::<S, f32>(out.as_mut_ptr().add(column), S::mul(sum, S::splat(scale)), count);
        }
    }
}
