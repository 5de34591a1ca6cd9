//! Rows of a weight matrix on their way into the columns of a panel.

use super::simd::{Kernel, LANES_MAX, Simd};
use crate::Dtype;
use half::bf16;

/// What a row's length is rounded up to, so that whole vectors can be read: two of the widest.
pub(super) const ROW_MULTIPLE: usize = 2 * LANES_MAX;

/// Some rows, transposed into as many neighbouring columns: blocks of one vector of rows by one of units.
pub(super) struct PackRows<'a> {
    /// `[_, stride]`, zeros behind each row's end.
    pub(super) rows: &'a [f32],
    pub(super) stride: usize,
    /// Units of a row: f32, or pairs of bf16.
    pub(super) dtype: Dtype,
    pub(super) steps: usize,
    /// `[steps, columns]`, from the first row's column on.
    pub(super) panel: &'a mut [u32],
    pub(super) columns: usize,
}

impl Kernel for PackRows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { rows, stride, dtype, steps, panel, columns } = self;
        for (column, rows) in rows.chunks(S::LANES * stride).enumerate() {
            for step in (0..steps).step_by(S::LANES) {
                // SAFETY: the caller vouches for S.
                let mut block = [unsafe { S::splat(0.0) }; LANES_MAX];
                for (row, units) in rows.chunks_exact(stride).zip(&mut block) {
                    // SAFETY: the caller vouches for S; a row is whole pairs of vectors long.
                    *units = unsafe { units_of::<S>(dtype, row, step) };
                }
                // SAFETY: as above.
                unsafe { S::transpose(&mut block) };
                let lines = panel[step * columns..].chunks_mut(columns).take(S::LANES.min(steps - step));
                for (line, &vector) in lines.zip(&block) {
                    let line = &mut line[column * S::LANES..][..S::LANES];
                    // SAFETY: the slice holds LANES units.
                    unsafe { S::store(line.as_mut_ptr().cast(), vector) };
                }
            }
        }
    }
}

/// One vector of a row's units.
///
/// # Safety
/// The machine supports `S`.
#[inline(always)]
unsafe fn units_of<S: Simd>(dtype: Dtype, row: &[f32], step: usize) -> S::V {
    if dtype == Dtype::F32 {
        let row = &row[step..][..S::LANES];
        // SAFETY: the caller vouches for S, the slice holds LANES elements.
        return unsafe { S::load(row.as_ptr()) };
    }
    let row = &row[2 * step..][..2 * S::LANES];
    let mut pairs = [bf16::ZERO; 2 * LANES_MAX];
    // SAFETY: the caller vouches for S; row and pairs hold two vectors, of f32 and of bf16.
    unsafe {
        let (first, second) = (S::load(row.as_ptr()), S::load(row.as_ptr().add(S::LANES)));
        S::store_bf16_pair(pairs.as_mut_ptr(), first, second);
        S::load(pairs.as_ptr().cast())
    }
}
