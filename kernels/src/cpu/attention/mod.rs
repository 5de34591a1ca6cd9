//! Scaled dot-product attention over packed sequences, softmax fused.
//!
//! One item is one sequence and one key head; `head` computes it.

mod bias;
mod disentangled;
mod head;
mod values;

use super::element::Element;
use super::error::{OpError, expect_cu_seqlens, expect_size};
use super::ops::CpuOps;
use super::shared::SharedMut;
use super::simd::dispatch;
use super::tile::{Finish, TileFormat, panel_columns, tiles};
use crate::Dtype;
use head::Head;
use std::ops::Range;

pub use bias::PositionBias;
pub use disentangled::{RelativeBuckets, RelativeTables};

const OP: &str = "attention";

/// The widest head.
pub const HEAD_DIM_MAX: usize = 256;

/// Which keys a query sees. The last query of a sequence stands at its last key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All keys of its sequence.
    Bidirectional,
    /// The one where it stands and those before.
    Causal,
    /// The one where it stands and some neighbours.
    Window {
        /// How many before it.
        left: usize,
        /// How many behind it.
        right: usize,
    },
}

impl Mask {
    /// The keys that one of `queries` queries sees, of `keys` keys: a range, which may be empty.
    pub(crate) fn keys(self, query: usize, queries: usize, keys: usize) -> Range<usize> {
        let (left, right) = match self {
            Self::Bidirectional => return 0..keys,
            Self::Causal => (usize::MAX, 0),
            Self::Window { left, right } => (left, right),
        };
        // Where the query stands, counted so that a query before the first key has a place, too.
        let place = query + keys;
        let start = place.saturating_sub(left).saturating_sub(queries).min(keys);
        let end = place.saturating_add(right).saturating_add(1).saturating_sub(queries).min(keys);
        start..end
    }
}

/// The shape of one attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` neighbouring query heads (arXiv 2305.13245).
    pub kv_heads: usize,
    /// Elements of one head: even, at most 256.
    pub head_dim: usize,
    /// What the scores are multiplied with, above 0; usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Which keys a query sees.
    pub mask: Mask,
}

/// Rows inside of a wider buffer: the queries, keys or values of a fused `[tokens, stride]` projection.
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    data: &'a [T],
    stride: usize,
    column: usize,
}

impl<'a, T> Rows<'a, T> {
    /// Rows that start at `column` of each row of `data [tokens, stride]`.
    pub fn new(data: &'a [T], stride: usize, column: usize) -> Self {
        Self { data, stride, column }
    }

    fn check(&self, what: &'static str, width: usize) -> Result<usize, OpError> {
        let tokens = self.data.len() / self.stride.max(1);
        expect_size(OP, what, self.data.len(), tokens * self.stride)?;
        if self.column.saturating_add(width) > self.stride {
            return Err(OpError::Shape {
                op: OP,
                what,
                found: self.stride,
                expected: self.column.saturating_add(width),
            });
        }
        Ok(tokens)
    }

    /// `len` elements of row `token`, from element `start` on.
    fn part(&self, token: usize, start: usize, len: usize) -> &'a [T] {
        &self.data[token * self.stride + self.column + start..][..len]
    }
}

/// What the distance of a query and a key has to do with their score.
#[derive(Clone, Copy)]
enum ByDistance<'a> {
    Nothing,
    Bias(&'a PositionBias),
    Tables(&'a RelativeTables),
}

impl CpuOps<'_> {
    /// `out[i] = softmax(scale q_i k^T + bias_i) v` for each query row and head, within its sequence: `q` has `heads` heads
    /// side by side, `k` and `v` have `kv_heads`, `out [tokens_q, heads * head_dim]`. A query that sees no key gives zeros.
    /// A bias asks for queries and keys of the same tokens.
    ///
    /// # Errors
    /// Shapes that do not fit.
    #[expect(
        clippy::too_many_arguments,
        reason = "the operands of varlen attention, named as in FlashAttention"
    )]
    pub fn attention<T: Element>(
        &mut self,
        shape: &AttentionShape,
        bias: Option<&PositionBias>,
        q: Rows<'_, T>,
        k: Rows<'_, T>,
        v: Rows<'_, T>,
        cu_seqlens_q: &[u32],
        cu_seqlens_k: &[u32],
        out: &mut [T],
    ) -> Result<(), OpError> {
        let by_distance = bias.map_or(ByDistance::Nothing, ByDistance::Bias);
        self.attend(shape, by_distance, [q, k, v], [cu_seqlens_q, cu_seqlens_k], out)
    }

    /// The same of tokens that see all of their sequence, and whose scores also have, before they are scaled, the query's
    /// product with the tables' key for their distance and the key's with their query (He et al., arXiv 2006.03654). Keys
    /// have as many heads as queries.
    ///
    /// # Errors
    /// Shapes that do not fit; sequences longer than the tables reach.
    pub fn disentangled_attention<T: Element>(
        &mut self,
        shape: &AttentionShape,
        tables: &RelativeTables,
        qkv: [Rows<'_, T>; 3],
        cu_seqlens: &[u32],
        out: &mut [T],
    ) -> Result<(), OpError> {
        let shape = AttentionShape { mask: Mask::Bidirectional, ..*shape };
        self.attend(&shape, ByDistance::Tables(tables), qkv, [cu_seqlens; 2], out)
    }

    fn attend<T: Element>(
        &mut self,
        shape: &AttentionShape,
        by_distance: ByDistance<'_>,
        [q, k, v]: [Rows<'_, T>; 3],
        [cu_seqlens_q, cu_seqlens_k]: [&[u32]; 2],
        out: &mut [T],
    ) -> Result<(), OpError> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
        check_shape(shape)?;
        let tokens_q = q.check("q", heads * head_dim)?;
        if T::DTYPE == Dtype::Bf16 {
            expect_size(OP, "stride of q", q.stride, q.stride.next_multiple_of(2))?;
        }
        let tokens_k = k.check("k", kv_heads * head_dim)?;
        expect_size(OP, "rows of v", v.check("v", kv_heads * head_dim)?, tokens_k)?;
        expect_cu_seqlens(OP, "cu_seqlens_q", cu_seqlens_q, tokens_q)?;
        expect_cu_seqlens(OP, "cu_seqlens_k", cu_seqlens_k, tokens_k)?;
        expect_size(OP, "cu_seqlens_k", cu_seqlens_k.len(), cu_seqlens_q.len())?;
        expect_size(OP, "out", out.len(), tokens_q * heads * head_dim)?;
        match by_distance {
            ByDistance::Nothing => {}
            ByDistance::Bias(bias) => bias.check(heads, cu_seqlens_q, cu_seqlens_k)?,
            ByDistance::Tables(tables) => tables.check(self.isa(), shape, &k, cu_seqlens_k)?,
        }
        let (isa, out) = (self.isa, SharedMut::new(out));
        let range = |cu_seqlens: &[u32], sequence: usize| {
            cu_seqlens[sequence] as usize..cu_seqlens[sequence + 1] as usize
        };
        let format = if T::DTYPE == Dtype::F32 { TileFormat::F32 } else { TileFormat::Bf16 };
        let [tiles, adding] = [Finish::Sums, Finish::Add].map(|finish| tiles(isa.get(), format, finish));
        let columns = panel_columns(isa.get());
        self.for_each((cu_seqlens_q.len() - 1) * kv_heads, &|scratch, item| {
            let (sequence, kv_head) = (item / kv_heads, item % kv_heads);
            let rows_q = range(cu_seqlens_q, sequence);
            let rows_k = range(cu_seqlens_k, sequence);
            dispatch(
                isa,
                Head {
                    shape,
                    by_distance,
                    kv_head,
                    q,
                    k,
                    v,
                    rows_q,
                    rows_k,
                    tiles,
                    adding,
                    columns,
                    scratch,
                    out,
                },
            );
        });
        Ok(())
    }
}

fn check_shape(shape: &AttentionShape) -> Result<(), OpError> {
    let AttentionShape { heads, kv_heads, head_dim, scale, .. } = *shape;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(OpError::Shape { op: OP, what: "kv_heads", found: kv_heads, expected: heads });
    }
    if head_dim == 0 || head_dim > HEAD_DIM_MAX || head_dim % 2 != 0 {
        let expected = head_dim.next_multiple_of(2).clamp(2, HEAD_DIM_MAX);
        return Err(OpError::Shape { op: OP, what: "head_dim", found: head_dim, expected });
    }
    if !(scale > 0.0 && scale.is_finite()) {
        return Err(OpError::Scale { op: OP, bits: scale.to_bits() });
    }
    Ok(())
}
