//! Layer, root-mean-square and L2 normalisation of rows.

use super::element::{Element, load, store};
use super::error::{OpError, expect_size};
use super::ops::CpuOps;
use super::shared::SharedMut;
use super::simd::{Kernel, Simd, dispatch};
use super::weights::LayerNorm;

/// Rows of one item when threads share them.
const SPLIT_ROWS: usize = 16;

impl CpuOps<'_> {
    /// Normalises every row of `x [rows, dims]` in place.
    ///
    /// # Errors
    /// When `x` is not whole rows.
    pub fn layer_norm<T: Element>(&mut self, norm: &LayerNorm, x: &mut [T]) -> Result<(), OpError> {
        let dims = norm.dims();
        let rows = x.len() / dims;
        expect_size("layer norm", "x", x.len(), rows * dims)?;
        let (isa, shared) = (self.isa, SharedMut::new(x));
        self.for_rows(rows, SPLIT_ROWS, &|_, rows| {
            // SAFETY: the items of one call cover different rows.
            let x = unsafe { shared.part(rows.start * dims, rows.len() * dims) };
            dispatch(isa, NormRows { norm, x });
        });
        Ok(())
    }

    /// `out = norm(x)`, or `out += norm(x)` where it `adds`, row by row; both `[rows, dims]`.
    ///
    /// # Errors
    /// When the two are not equally many whole rows.
    pub fn layer_norm_into<T: Element>(
        &mut self,
        norm: &LayerNorm,
        x: &[T],
        adds: bool,
        out: &mut [T],
    ) -> Result<(), OpError> {
        let dims = norm.dims();
        let rows = x.len() / dims;
        expect_size("layer norm", "x", x.len(), rows * dims)?;
        expect_size("layer norm", "out", out.len(), x.len())?;
        let (isa, shared) = (self.isa, SharedMut::new(out));
        self.for_rows(rows, SPLIT_ROWS, &|_, rows| {
            // SAFETY: the items of one call cover different rows.
            let out = unsafe { shared.part(rows.start * dims, rows.len() * dims) };
            let x = &x[rows.start * dims..rows.end * dims];
            dispatch(isa, NormRowsInto { norm, adds, x, out });
        });
        Ok(())
    }

    /// Divides every row of `x [rows, dims]` by its Euclidean length, which is taken as at least 1e-12 (so a row of zeros
    /// stays one), like `torch.nn.functional.normalize`.
    ///
    /// # Errors
    /// When `x` is not whole rows.
    pub fn l2_normalise(&mut self, dims: usize, x: &mut [f32]) -> Result<(), OpError> {
        let rows = x.len() / dims.max(1);
        expect_size("l2 normalise", "x", x.len(), rows * dims)?;
        dispatch(self.isa, UnitRows { dims, x });
        Ok(())
    }
}

struct NormRows<'a, T> {
    norm: &'a LayerNorm,
    x: &'a mut [T],
}

impl<T: Element> Kernel for NormRows<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.x.chunks_exact_mut(self.norm.dims()) {
            // SAFETY: the caller vouches for S; a row has as many elements as the norm has dimensions.
            unsafe { normalise_row::<S, T, T>(self.norm, row.as_ptr(), row.as_mut_ptr()) }
        }
    }
}

struct NormRowsInto<'a, T> {
    norm: &'a LayerNorm,
    adds: bool,
    x: &'a [T],
    out: &'a mut [T],
}

impl<T: Element> Kernel for NormRowsInto<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let dims = self.norm.dims();
        for (row, out) in self.x.chunks_exact(dims).zip(self.out.chunks_exact_mut(dims)) {
            let to = out.as_mut_ptr();
            // SAFETY: the caller vouches for S; both rows have as many elements as the norm has dimensions.
            unsafe {
                if self.adds {
                    normalise_row_to::<S, T>(self.norm, row.as_ptr(), |column, value, count| {
                        let at = to.add(column);
                        store::<S, T>(at, S::add(load::<S, T>(at, count), value), count);
                    });
                } else {
                    normalise_row::<S, T, T>(self.norm, row.as_ptr(), to);
                }
            }
        }
    }
}

struct UnitRows<'a> {
    dims: usize,
    x: &'a mut [f32],
}

impl Kernel for UnitRows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.x.chunks_exact_mut(self.dims) {
            // SAFETY: the caller vouches for S; every access below is inside of the row.
            unsafe {
                let squares = sum_over::<S, f32>(row.as_ptr(), row.len(), |v| S::mul(v, v), |v| v * v);
                let inverse = 1.0 / squares.sqrt().max(1e-12);
                for column in (0..row.len()).step_by(S::LANES) {
                    let (at, count) = (row.as_mut_ptr().add(column), row.len() - column);
                    store::<S, f32>(at, S::mul(load::<S, f32>(at, count), S::splat(inverse)), count);
                }
            }
        }
    }
}

/// The sum of `map` over a row. Four sums side by side hide the latency of the additions; their order is fixed by `len`.
///
/// # Safety
/// The machine supports `S`; `len` elements are readable at `row`.
#[inline(always)]
unsafe fn sum_over<S: Simd, T: Element>(
    row: *const T,
    len: usize,
    map: impl Fn(S::V) -> S::V,
    map_one: impl Fn(f32) -> f32,
) -> f32 {
    // SAFETY: `whole` vectors and the elements behind them lie inside of the row.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        let whole = len / S::LANES;
        for vector in 0..whole {
            let value = map(load::<S, T>(row.add(vector * S::LANES), S::LANES));
            sums[vector % 4] = S::add(sums[vector % 4], value);
        }
        let mut sum = S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
        for index in whole * S::LANES..len {
            sum += map_one((*row.add(index)).to_f32());
        }
        sum
    }
}

/// Normalises one row; `from` and `to` may be the same.
///
/// # Safety
/// The machine supports `S`; `norm.dims()` elements are readable at `from` and writable at `to`.
#[inline(always)]
pub(crate) unsafe fn normalise_row<S: Simd, A: Element, B: Element>(
    norm: &LayerNorm,
    from: *const A,
    to: *mut B,
) {
    // SAFETY: the caller's contract is the same; `count` elements are left at `column`.
    unsafe {
        normalise_row_to::<S, A>(norm, from, |column, value, count| {
            store::<S, B>(to.add(column), value, count);
        });
    }
}

/// Normalises one row: `write(column, values, count)` is called for each vector, in order, `count` elements before the end
/// of the row.
///
/// # Safety
/// The machine supports `S`; `norm.dims()` elements are readable at `from`.
#[inline(always)]
unsafe fn normalise_row_to<S: Simd, A: Element>(
    norm: &LayerNorm,
    from: *const A,
    write: impl Fn(usize, S::V, usize),
) {
    let dims = norm.dims();
    // SAFETY: every access below is to one of the `dims` elements of a row or a parameter.
    unsafe {
        let mean = match norm.centres {
            true => sum_over::<S, A>(from, dims, |v| v, |v| v) / dims as f32,
            false => 0.0,
        };
        let means = S::splat(mean);
        let square = |v| {
            let centred = S::sub(v, means);
            S::mul(centred, centred)
        };
        let variance = sum_over::<S, A>(from, dims, square, |v| (v - mean) * (v - mean)) / dims as f32;
        let scale = S::splat(1.0 / (variance + norm.epsilon).sqrt());
        for column in (0..dims).step_by(S::LANES) {
            let count = dims - column;
            let centred = S::sub(load::<S, A>(from.add(column), count), means);
            let gamma = load::<S, f32>(norm.gamma.as_ptr().add(column), count);
            let beta = load::<S, f32>(norm.beta.as_ptr().add(column), count);
            write(column, S::fma(S::mul(centred, scale), gamma, beta), count);
        }
    }
}
