//! One key head of one sequence.
//!
//! Keys and values are packed into the panels of the GEMM tiles once, then every tile of query rows goes through scores,
//! softmax and values while its scores are in the first-level cache.

use super::disentangled::QUERIES_MAX;
use super::{AttentionShape, ByDistance, PositionBias, Rows};
use crate::Dtype;
use crate::cpu::element::Element;
use crate::cpu::ops::{AttentionScratch, Scratch};
use crate::cpu::shared::SharedMut;
use crate::cpu::simd::{Kernel, LANES_MAX, Simd, math};
use crate::cpu::tile::{ROWS_MAX, Tile, TileArgs, ZEROS, balanced};
use half::bf16;
use std::ops::Range;

/// The query heads of one key head over one sequence.
pub(super) struct Head<'a, T> {
    pub(super) shape: &'a AttentionShape,
    pub(super) by_distance: ByDistance<'a>,
    pub(super) kv_head: usize,
    pub(super) q: Rows<'a, T>,
    pub(super) k: Rows<'a, T>,
    pub(super) v: Rows<'a, T>,
    pub(super) rows_q: Range<usize>,
    pub(super) rows_k: Range<usize>,
    pub(super) tiles: &'a [Tile],
    /// The same, which add to what is there; of f32 alone.
    pub(super) adding: &'a [Tile],
    /// Of one panel.
    pub(super) columns: usize,
    pub(super) scratch: &'a mut Scratch,
    pub(super) out: SharedMut<'a, T>,
}

impl<T: Element> Kernel for Head<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = *self.shape;
        let group = heads / kv_heads;
        let first_head = self.kv_head * group;
        if self.rows_k.is_empty() {
            for token in self.rows_q.clone() {
                // SAFETY: these heads of this sequence's rows belong to this item.
                let row = unsafe { self.out.part((token * heads + first_head) * head_dim, group * head_dim) };
                row.fill(T::zeroed());
            }
            return;
        }
        // SAFETY: the caller vouches for S.
        unsafe { self.pack_keys::<S>() };
        self.pack_values();
        self.reserve_scores();
        let stretches = self.stretches();
        for head in first_head..first_head + group {
            for stretch in balanced(self.rows_q.len(), stretches) {
                // SAFETY: the caller vouches for S; keys, values and scores were packed and reserved for this sequence.
                unsafe { self.stretch::<S>(head, &stretch) }
            }
        }
    }
}

impl<T: Element> Head<'_, T> {
    /// Elements of `T` in one unit of 32 bits.
    pub(super) const PER_UNIT: usize = 4 / size_of::<T>();

    /// Queries for which something is kept at once.
    fn stretches(&self) -> usize {
        match self.by_distance {
            ByDistance::Tables(tables) if tables.has_queries() => QUERIES_MAX,
            _ => self.rows_q.len().max(1),
        }
    }

    /// The result of the queries at `stretch` of the sequence.
    ///
    /// # Safety
    /// The machine supports `S`; keys and values are packed, scores are reserved.
    #[inline(always)]
    unsafe fn stretch<S: Simd>(&mut self, head: usize, stretch: &Range<usize>) {
        if let ByDistance::Tables(tables) = self.by_distance {
            // SAFETY: the caller vouches for S; `attention` checked the tables.
            unsafe { self.meet_queries::<S>(tables, head, stretch) }
        }
        for block in balanced(stretch.len(), self.tiles.len()) {
            let block = stretch.start + block.start..stretch.start + block.end;
            let rows = self.rows_q.start + block.start..self.rows_q.start + block.end;
            let span = self.span(&block);
            // SAFETY: the caller's contract; the span lies inside of the sequence.
            unsafe {
                self.scores::<S>(head, rows.clone(), &span);
                match self.by_distance {
                    ByDistance::Nothing => {}
                    ByDistance::Bias(bias) => self.add_bias::<S>(bias, head, block.clone(), &span),
                    ByDistance::Tables(tables) => {
                        self.add_relative::<S>(tables, head, block.clone(), stretch, &span);
                    }
                }
                let inverse_sums = self.softmax::<S>(block, &span);
                self.values::<S>(head, rows, &span, &inverse_sums);
            }
        }
    }

    fn keys_padded(&self) -> usize {
        self.rows_k.len().next_multiple_of(self.columns)
    }

    /// Units of the keys along `head_dim`.
    fn key_steps(&self) -> usize {
        self.shape.head_dim / Self::PER_UNIT
    }

    /// Units of the values along the key rows.
    pub(super) fn value_steps(&self) -> usize {
        self.rows_k.len().div_ceil(Self::PER_UNIT)
    }

    /// Keys as panels over the key rows, transposed block by block; columns beyond the last key are zeros or what was there:
    /// their scores are overwritten.
    ///
    /// # Safety
    /// The machine supports `S`.
    #[inline(always)]
    unsafe fn pack_keys<S: Simd>(&mut self) {
        let (steps, columns) = (self.key_steps(), self.columns);
        let keys = &mut self.scratch.attention.keys;
        keys.reserve(self.rows_k.len().next_multiple_of(columns) * steps);
        for first in (0..self.rows_k.len()).step_by(S::LANES) {
            let count = S::LANES.min(self.rows_k.len() - first);
            let row = |key: usize| {
                let token = self.rows_k.start + first + key;
                self.k.part(token, self.kv_head * self.shape.head_dim, self.shape.head_dim)
            };
            let packed = &mut keys[first / columns * columns * steps + first % columns..];
            let whole = steps - steps % S::LANES;
            for step in (0..whole).step_by(S::LANES) {
                // SAFETY: the caller vouches for S; a key has `steps` units, and each of LANES rows of the panel has LANES columns
                // left, because a panel is whole vectors wide.
                unsafe {
                    let mut block = [S::splat(0.0); LANES_MAX];
                    for (key, vector) in block.iter_mut().enumerate().take(count) {
                        *vector = S::load(row(key).as_ptr().cast::<f32>().add(step));
                    }
                    S::transpose(&mut block);
                    for (lane, &vector) in block.iter().enumerate().take(S::LANES) {
                        S::store(packed[(step + lane) * columns..][..S::LANES].as_mut_ptr().cast(), vector);
                    }
                }
            }
            for step in whole..steps {
                for key in 0..count {
                    packed[step * columns + key] =
                        unit_of(&row(key)[step * Self::PER_UNIT..][..Self::PER_UNIT]);
                }
            }
        }
    }

    /// Values as panels over `head_dim`; an odd last row is paired with zeros.
    fn pack_values(&mut self) {
        let (steps, columns, head_dim) = (self.value_steps(), self.columns, self.shape.head_dim);
        let values = &mut self.scratch.attention.values;
        let panels = head_dim.div_ceil(columns);
        values.reserve(panels * steps * columns);
        for panel in 0..panels {
            let dims = panel * columns..head_dim.min((panel + 1) * columns);
            let start = self.kv_head * head_dim + dims.start;
            let panel = &mut values[panel * steps * columns..][..steps * columns];
            for (step, units) in panel.chunks_exact_mut(columns).enumerate() {
                let token = self.rows_k.start + step * Self::PER_UNIT;
                let row = self.v.part(token, start, dims.len());
                if Self::PER_UNIT == 1 {
                    let units: &mut [T] = bytemuck::cast_slice_mut(units);
                    units[..row.len()].copy_from_slice(row);
                } else if token + 1 < self.rows_k.end {
                    let next = self.v.part(token + 1, start, dims.len());
                    units
                        .iter_mut()
                        .zip(row.iter().zip(next))
                        .for_each(|(unit, (&a, &b))| *unit = unit_of(&[a, b]));
                } else {
                    units.iter_mut().zip(row).for_each(|(unit, &a)| *unit = unit_of(&[a, T::zeroed()]));
                }
            }
        }
    }

    /// The keys that some query of the block sees, from the first of a panel on; at least one.
    fn span(&self, block: &Range<usize>) -> Span {
        let keys = self.rows_k.len();
        let seen = |query| self.shape.mask.keys(query, self.rows_q.len(), keys);
        // Ranges rise with their queries.
        let (first, last) = (seen(block.start), seen(block.end - 1));
        let start = first.start.min(keys - 1) / self.columns * self.columns;
        let end = last.end.max(start + 1);
        Span { keys: start..end, stride: (end - start).next_multiple_of(self.columns) }
    }

    fn reserve_scores(&mut self) {
        let scores = ROWS_MAX * self.keys_padded();
        let AttentionScratch { scores: buffer, weights, .. } = &mut self.scratch.attention;
        buffer.reserve(scores);
        if T::DTYPE == Dtype::Bf16 {
            weights.reserve(scores);
        }
    }

    /// Scores of some query rows with the keys of the span, not yet scaled.
    ///
    /// # Safety
    /// The machine supports `S`; the keys are packed and the scores reserved.
    #[inline(always)]
    unsafe fn scores<S: Simd>(&mut self, head: usize, rows: Range<usize>, span: &Span) {
        let (steps, columns, stride) = (self.key_steps(), self.columns, span.stride);
        let q = self.q.part(rows.start, head * self.shape.head_dim, self.shape.head_dim);
        let AttentionScratch { keys, scores, .. } = &mut self.scratch.attention;
        let panels = &keys[span.keys.start * steps..][..stride * steps];
        for (panel, units) in panels.chunks_exact(steps * columns).enumerate() {
            let args = TileArgs {
                steps,
                a: q.as_ptr().cast(),
                a_stride: self.q.stride / Self::PER_UNIT,
                b: units.as_ptr(),
                next: units.as_ptr_range().end.cast(),
                start: ZEROS.as_ptr(),
                out: scores[panel * columns..].as_mut_ptr().cast(),
                out_stride: stride,
            };
            // SAFETY: the query rows are inside of `q` by the checks of `attention`; a panel has `steps` rows of units; the
            // scores hold ROWS_MAX rows of `stride`.
            unsafe { self.tiles[rows.len() - 1](&args) }
        }
    }

    /// Adds the bias to the scores of the query rows at `queries` of the sequence, in the unit of scores that are not yet
    /// scaled.
    ///
    /// # Safety
    /// The machine supports `S`; the rows' scores are there.
    #[inline(always)]
    unsafe fn add_bias<S: Simd>(
        &mut self,
        bias: &PositionBias,
        head: usize,
        queries: Range<usize>,
        Span { keys, stride }: &Span,
    ) {
        // SAFETY: whole vectors inside of a row of scores; a row of the bias is readable for as many.
        unsafe {
            let unit = S::splat(1.0 / self.shape.scale);
            for (row, query) in queries.enumerate() {
                let scores = self.scratch.attention.scores[row * stride..][..*stride].as_mut_ptr();
                let bias = bias.of_query(head, query)[keys.start..].as_ptr();
                for column in (0..keys.len()).step_by(S::LANES) {
                    let at = scores.add(column);
                    S::store(at, S::fma(S::load(bias.add(column)), unit, S::load(at)));
                }
            }
        }
    }

    /// Turns scores into `e^(scale (score - maximum))`, or 0 where a query does not see the key, and returns one over each
    /// row's sum.
    ///
    /// # Safety
    /// The machine supports `S`; the queries' scores are there.
    #[inline(always)]
    unsafe fn softmax<S: Simd>(&mut self, queries: Range<usize>, span: &Span) -> [f32; ROWS_MAX] {
        let Span { keys, stride } = span;
        let mut inverse_sums = [0.0; ROWS_MAX];
        let AttentionScratch { scores, weights, .. } = &mut self.scratch.attention;
        for (row, query) in queries.enumerate() {
            let seen = self.shape.mask.keys(query, self.rows_q.len(), self.rows_k.len());
            let [start, end] = [seen.start, seen.end].map(|key| key.saturating_sub(keys.start));
            let vectors = start / S::LANES * S::LANES..end.next_multiple_of(S::LANES);
            let row_of = row * stride..(row + 1) * stride;
            let scores = &mut scores[row_of.clone()];
            let weights = if T::DTYPE == Dtype::Bf16 { &mut weights[row_of] } else { &mut [] };
            if start < end {
                scores[vectors.start..start].fill(f32::NEG_INFINITY);
                scores[end..vectors.end].fill(f32::NEG_INFINITY);
                // SAFETY: the caller vouches for S; the vectors lie inside of the row, a panel being whole vectors wide.
                inverse_sums[row] =
                    unsafe { exponentials::<S, T>(self.shape.scale, scores, weights, vectors) };
            }
            if T::DTYPE == Dtype::F32 {
                scores[..start].fill(0.0);
                scores[end..].fill(0.0);
            } else {
                weights[..start].fill(bf16::ZERO);
                weights[end..].fill(bf16::ZERO);
            }
        }
        inverse_sums
    }
}

/// Keys that a tile of queries is multiplied with, counted in their sequence, and the elements of a row of its scores.
pub(super) struct Span {
    pub(super) keys: Range<usize>,
    pub(super) stride: usize,
}

/// Turns the scores of one row in `vectors` into `e^(scale (score - maximum))`, into `weights` where these are bf16, and
/// returns one over their sum.
///
/// # Safety
/// The machine supports `S`; `vectors` are whole ones inside of the row, at least one.
#[inline(always)]
unsafe fn exponentials<S: Simd, T: Element>(
    scale: f32,
    scores: &mut [f32],
    weights: &mut [bf16],
    vectors: Range<usize>,
) -> f32 {
    // SAFETY: the caller's contract; weights of bf16 are as many as scores.
    unsafe {
        let scale = S::splat(scale * std::f32::consts::LOG2_E);
        let mut maxima = S::splat(f32::NEG_INFINITY);
        for column in vectors.clone().step_by(S::LANES) {
            maxima = S::max(maxima, S::load(scores.as_ptr().add(column)));
        }
        let minus_maximum = S::mul(S::splat(-S::max_lane(maxima)), scale);
        let mut sum = S::splat(0.0);
        for column in vectors.step_by(S::LANES) {
            let at = scores.as_mut_ptr().add(column);
            let exponent = S::fma(S::load(at), scale, minus_maximum);
            let weight;
            if T::DTYPE == Dtype::F32 {
                weight = math::exp2_of_negative::<S, _>(exponent, math::EXP2);
                S::store(at, weight);
            } else {
                weight = math::exp2_of_negative::<S, _>(exponent, math::EXP2_BF16);
                S::store_bf16(weights.as_mut_ptr().add(column), weight);
            }
            sum = S::add(sum, weight);
        }
        1.0 / S::sum(sum)
    }
}

/// One f32, or a pair of bf16 with the first in the lower half.
#[inline(always)]
fn unit_of<T: Element>(elements: &[T]) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(bytemuck::cast_slice(elements));
    u32::from_le_bytes(bytes)
}
