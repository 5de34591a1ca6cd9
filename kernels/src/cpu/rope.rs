//! Rotary positions (Su et al., arXiv 2104.09864), with the norms of queries and keys that stand before them.

use super::AlignedBuf;
use super::attention::AttentionShape;
use super::element::{Element, load, store};
use super::error::{OpError, expect_size};
use super::norm::normalise_row;
use super::ops::CpuOps;
use super::shared::SharedMut;
use super::simd::{Kernel, Simd, dispatch};
use super::weights::LayerNorm;
use std::sync::OnceLock;

const OP: &str = "rope";

/// Rows of one item when threads share them.
const SPLIT_ROWS: usize = 8;

/// How often an angle is computed anew.
const ANCHOR_POSITIONS: usize = 64;

/// Positions whose angles are made together.
const BLOCK_POSITIONS: usize = 16 * ANCHOR_POSITIONS;

/// The cosines and sines of positions, made once for a model, when the first text is as long: few texts are as long as the
/// 131,072 positions that some models have, whose table would take 64 MiB.
pub struct RopeTable {
    /// The angle from one position to the next, for each pair of elements that is turned.
    frequencies: Vec<f64>,
    positions: usize,
    /// `[BLOCK_POSITIONS, 2 half]` each: a position's cosines, then its sines.
    blocks: Vec<OnceLock<AlignedBuf<f32>>>,
}

impl RopeTable {
    /// For `positions` positions, the first of which is 0; a frequency is the angle from one position to the next.
    ///
    /// # Errors
    /// No frequency or no position.
    pub fn new(frequencies: &[f64], positions: usize) -> Result<Self, OpError> {
        if frequencies.is_empty() || positions == 0 {
            return Err(OpError::Shape { op: OP, what: "frequencies or positions", found: 0, expected: 1 });
        }
        let blocks = (0..positions.div_ceil(BLOCK_POSITIONS)).map(|_| OnceLock::new()).collect();
        Ok(Self { frequencies: frequencies.to_vec(), positions, blocks })
    }

    /// The cosines and the sines of each position, from 0.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&[f32], &[f32])> {
        (0..self.positions).map(|position| self.row(position))
    }

    /// The heap that it holds once every position was used: what must be there for it.
    pub fn bytes(&self) -> usize {
        let values = self.positions.next_multiple_of(BLOCK_POSITIONS) * 2 * self.half();
        values * size_of::<f32>() + self.frequencies.len() * size_of::<f64>()
    }

    /// Frequencies: half of the elements that are turned.
    fn half(&self) -> usize {
        self.frequencies.len()
    }

    /// The cosines and the sines of a position that there is.
    fn row(&self, position: usize) -> (&[f32], &[f32]) {
        let (block, half) = (position / BLOCK_POSITIONS, self.half());
        let values = self.blocks[block].get_or_init(|| self.block(block * BLOCK_POSITIONS));
        values[position % BLOCK_POSITIONS * 2 * half..][..2 * half].split_at(half)
    }

    fn block(&self, first: usize) -> AlignedBuf<f32> {
        let half = self.half();
        let mut values = AlignedBuf::zeroed(BLOCK_POSITIONS * 2 * half);
        let steps: Vec<_> = self.frequencies.iter().map(|frequency| frequency.sin_cos()).collect();
        let mut turned = steps.clone();
        for (position, row) in (first..).zip(values.chunks_exact_mut(2 * half)) {
            let (cosines, sines) = row.split_at_mut(half);
            for (index, (sine, cosine)) in turned.iter_mut().enumerate() {
                // Turning on costs a fraction of a sine; from one anchor to the next its error stays below 1e-14.
                (*sine, *cosine) = if position.is_multiple_of(ANCHOR_POSITIONS) {
                    (position as f64 * self.frequencies[index]).sin_cos()
                } else {
                    let (step_sine, step_cosine) = steps[index];
                    (*sine * step_cosine + *cosine * step_sine, *cosine * step_cosine - *sine * step_sine)
                };
                (cosines[index], sines[index]) = (*cosine as f32, *sine as f32);
            }
        }
        values
    }
}

/// What becomes of the queries and keys of a fused projection.
#[derive(Clone, Copy)]
pub struct HeadOps<'a> {
    /// Of each query head, over its elements.
    pub query_norm: Option<&'a LayerNorm>,
    /// Of each key head.
    pub key_norm: Option<&'a LayerNorm>,
    /// Turns the first elements of each head, after its norm.
    pub rope: Option<&'a RopeTable>,
}

impl CpuOps<'_> {
    /// Norms and turns queries and keys in place: `x [tokens, stride]` starts each row with `heads` query heads, which
    /// `kv_heads` key heads follow.
    ///
    /// # Errors
    /// Shapes that do not fit, or a position that the table does not have.
    pub fn norm_and_turn<T: Element>(
        &mut self,
        shape: &AttentionShape,
        head_ops: HeadOps<'_>,
        positions: &[u32],
        x: &mut [T],
    ) -> Result<(), OpError> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
        let (tokens, width) = (positions.len(), (heads + kv_heads) * head_dim);
        let stride = x.len() / tokens.max(1);
        expect_size(OP, "x", x.len(), tokens * stride)?;
        if tokens > 0 {
            expect_size(OP, "columns of queries and keys", stride.min(width), width)?;
        }
        for norm in [head_ops.query_norm, head_ops.key_norm].into_iter().flatten() {
            expect_size(OP, "norm", norm.dims(), head_dim)?;
        }
        if let Some(rope) = head_ops.rope {
            expect_size(OP, "turned elements of a head", (2 * rope.half()).min(head_dim), 2 * rope.half())?;
            let rows = rope.positions;
            if let Some(&id) = positions.iter().find(|&&position| position as usize >= rows) {
                return Err(OpError::IdOutOfRange { op: OP, what: "position", id, rows });
            }
        }
        let (isa, shared) = (self.isa, SharedMut::new(x));
        self.for_rows(tokens, SPLIT_ROWS, &|scratch, rows| {
            scratch.panel.reserve(head_dim);
            // SAFETY: the items of one call cover different rows.
            let x = unsafe { shared.part(rows.start * stride, rows.len() * stride) };
            let (positions, normed) = (&positions[rows], &mut scratch.panel[..head_dim]);
            dispatch(isa, HeadRows { shape, head_ops, positions, stride, normed, x });
        });
        Ok(())
    }
}

struct HeadRows<'a, T> {
    shape: &'a AttentionShape,
    head_ops: HeadOps<'a>,
    positions: &'a [u32],
    stride: usize,
    /// One head behind its norm.
    normed: &'a mut [f32],
    x: &'a mut [T],
}

impl<T: Element> Kernel for HeadRows<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = *self.shape;
        let HeadOps { query_norm, key_norm, rope } = self.head_ops;
        for (row, &position) in self.x.chunks_exact_mut(self.stride).zip(self.positions) {
            let angles = rope.map(|rope| rope.row(position as usize));
            for (index, head) in row.chunks_exact_mut(head_dim).take(heads + kv_heads).enumerate() {
                let norm = if index < heads { query_norm } else { key_norm };
                // SAFETY: the caller vouches for S; norms are as long as heads, and angles at most half as long.
                unsafe {
                    match (norm, angles) {
                        (Some(norm), Some(angles)) => {
                            normalise_row::<S, T, f32>(norm, head.as_ptr(), self.normed.as_mut_ptr());
                            turn::<S, f32, T>(angles, self.normed.as_ptr(), head.as_mut_ptr());
                            let rest = head.iter_mut().zip(&*self.normed).skip(2 * angles.0.len());
                            rest.for_each(|(to, &from)| *to = T::from_f32(from));
                        }
                        (Some(norm), None) => {
                            normalise_row::<S, T, T>(norm, head.as_ptr(), head.as_mut_ptr());
                        }
                        (None, Some(angles)) => turn::<S, T, T>(angles, head.as_ptr(), head.as_mut_ptr()),
                        (None, None) => {}
                    }
                }
            }
        }
    }
}

/// Turns each element of the first half with its partner in the second; `from` and `to` may be the same.
///
/// # Safety
/// The machine supports `S`; cosines and sines are equally many, and twice as many elements are readable at `from` and
/// writable at `to`.
#[inline(always)]
unsafe fn turn<S: Simd, A: Element, B: Element>(
    (cosines, sines): (&[f32], &[f32]),
    from: *const A,
    to: *mut B,
) {
    let half = cosines.len();
    for column in (0..half).step_by(S::LANES) {
        let count = half - column;
        // SAFETY: `count` elements are left in both halves of the row, in the cosines and in the sines.
        unsafe {
            let (first, second) =
                (load::<S, A>(from.add(column), count), load::<S, A>(from.add(half + column), count));
            let cosine = load::<S, f32>(cosines.as_ptr().add(column), count);
            let sine = load::<S, f32>(sines.as_ptr().add(column), count);
            let minus = S::sub(S::splat(0.0), S::mul(second, sine));
            store::<S, B>(to.add(column), S::fma(first, cosine, minus), count);
            store::<S, B>(to.add(half + column), S::fma(first, sine, S::mul(second, cosine)), count);
        }
    }
}
