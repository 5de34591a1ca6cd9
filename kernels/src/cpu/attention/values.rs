//! What queries take of values.

use super::AttentionShape;
use super::head::{Head, Span};
use crate::Dtype;
use crate::cpu::element::{self, Element};
use crate::cpu::ops::Scratch;
use crate::cpu::simd::Simd;
use crate::cpu::tile::{ROWS_MAX, TileArgs, ZEROS};
use std::ops::Range;

/// Keys whose weighted values are summed one by one; such sums are then added up. In one long sum the error grows with the
/// number of keys, in blocks hardly.
const KEYS_PER_SUM: usize = 256;

impl<T: Element> Head<'_, T> {
    /// The weighted values of some query rows, into the output.
    ///
    /// # Safety
    /// The machine supports `S`; the values are packed and the rows' weights computed.
    #[inline(always)]
    pub(super) unsafe fn values<S: Simd>(
        &mut self,
        head: usize,
        rows: Range<usize>,
        Span { keys, stride }: &Span,
        inverse_sums: &[f32; ROWS_MAX],
    ) {
        let AttentionShape { heads, head_dim, .. } = *self.shape;
        let (all_steps, columns) = (self.value_steps(), self.columns);
        let (skipped, steps) = (keys.start / Self::PER_UNIT, keys.len().div_ceil(Self::PER_UNIT));
        let Scratch { tile, attention, .. } = &mut *self.scratch;
        let a: *const u32 = if T::DTYPE == Dtype::F32 {
            attention.scores.as_ptr().cast()
        } else {
            attention.weights.as_ptr().cast()
        };
        let steps_per_sum = if T::DTYPE == Dtype::F32 { KEYS_PER_SUM } else { steps };
        for first in (0..head_dim).step_by(columns) {
            let units = &attention.values[first * all_steps + skipped * columns..][..steps * columns];
            for (block, units) in units.chunks(steps_per_sum * columns).enumerate() {
                let tiles = if block == 0 { self.tiles } else { self.adding };
                // SAFETY: weights and values have `steps` units per row, of which the block's are some; the tile buffer holds
                // ROWS_MAX rows of a panel, initialised by the first block.
                unsafe {
                    tiles[rows.len() - 1](&TileArgs {
                        steps: units.len() / columns,
                        a: a.add(block * steps_per_sum),
                        a_stride: stride / Self::PER_UNIT,
                        b: units.as_ptr(),
                        next: units.as_ptr_range().end.cast(),
                        start: ZEROS.as_ptr(),
                        out: tile.as_mut_ptr().cast(),
                        out_stride: columns,
                    });
                }
            }
            // SAFETY: these heads of these rows belong to this item; the tile buffer holds their sums.
            unsafe {
                for (row, token) in rows.clone().enumerate() {
                    let inverse_sum = S::splat(inverse_sums[row]);
                    let out = self.out.at((token * heads + head) * head_dim + first);
                    let used = columns.min(head_dim - first);
                    for column in (0..used).step_by(S::LANES) {
                        let sum = S::load(tile.as_ptr().add(row * columns + column));
                        element::store::<S, T>(out.add(column), S::mul(sum, inverse_sum), used - column);
                    }
                }
            }
        }
    }
}
