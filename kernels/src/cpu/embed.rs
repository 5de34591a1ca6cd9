//! Embedding look-up with its norm.

use super::element::{Element, load, store};
use super::error::{OpError, expect_size};
use super::norm::normalise_row;
use super::ops::CpuOps;
use super::shared::SharedMut;
use super::simd::{Kernel, LANES_MAX, Simd, dispatch};
use super::weights::{EmbeddingTable, LayerNorm, TableValues};
use half::{bf16, f16};
use std::ops::Range;

const OP: &str = "embed";

/// Rows of one item when threads share them.
const SPLIT_ROWS: usize = 16;

/// The tables whose rows are added up for each token.
#[derive(Clone, Copy)]
pub struct Embeddings<'a> {
    /// By token id.
    pub token: &'a EmbeddingTable,
    /// What its rows are multiplied with.
    pub scale: Option<f32>,
    /// By position, where positions are learned.
    pub position: Option<&'a EmbeddingTable>,
    /// By segment.
    pub token_type: Option<&'a EmbeddingTable>,
}

impl CpuOps<'_> {
    /// `out[t] = norm(scale token[token_ids[t]] + position[positions[t]] + token_type[type_ids[t]])`, `out [tokens, dims]`.
    /// Empty `type_ids` mean 0 everywhere. Without a norm the sum is stored.
    ///
    /// # Errors
    /// Shapes that do not fit, or an id outside of its table.
    pub fn embed_norm<T: Element>(
        &mut self,
        tables: &Embeddings<'_>,
        norm: Option<&LayerNorm>,
        token_ids: &[u32],
        positions: &[u32],
        type_ids: &[u8],
        out: &mut [T],
    ) -> Result<(), OpError> {
        let tokens = token_ids.len();
        let dims = tables.token.dims();
        expect_size(OP, "positions", positions.len(), tokens)?;
        expect_size(OP, "out", out.len(), tokens * dims)?;
        if !type_ids.is_empty() {
            expect_size(OP, "type_ids", type_ids.len(), tokens)?;
        }
        for (what, table) in [("position table", tables.position), ("type table", tables.token_type)] {
            expect_size(OP, what, table.map_or(dims, EmbeddingTable::dims), dims)?;
        }
        expect_size(OP, "norm", norm.map_or(dims, LayerNorm::dims), dims)?;
        expect_ids("token id", token_ids.iter().copied(), Some(tables.token))?;
        expect_ids("position", positions.iter().copied(), tables.position)?;
        expect_ids("type id", type_ids.iter().map(|&id| u32::from(id)), tables.token_type)?;
        let (isa, shared) = (self.isa, SharedMut::new(out));
        self.for_rows(tokens, SPLIT_ROWS, &|scratch, tokens| {
            scratch.panel.reserve(dims);
            // SAFETY: the items of one call cover different tokens.
            let out = unsafe { shared.part(tokens.start * dims, tokens.len() * dims) };
            let sum = &mut scratch.panel[..dims];
            dispatch(isa, EmbedRows { tables, norm, token_ids, positions, type_ids, tokens, sum, out });
        });
        Ok(())
    }
}

fn expect_ids(
    what: &'static str,
    mut ids: impl Iterator<Item = u32>,
    table: Option<&EmbeddingTable>,
) -> Result<(), OpError> {
    let Some(rows) = table.map(EmbeddingTable::rows) else {
        return Ok(());
    };
    match ids.find(|&id| id as usize >= rows) {
        Some(id) => Err(OpError::IdOutOfRange { op: OP, what, id, rows }),
        None => Ok(()),
    }
}

struct EmbedRows<'a, T> {
    tables: &'a Embeddings<'a>,
    norm: Option<&'a LayerNorm>,
    token_ids: &'a [u32],
    positions: &'a [u32],
    type_ids: &'a [u8],
    tokens: Range<usize>,
    /// One row.
    sum: &'a mut [f32],
    out: &'a mut [T],
}

impl<T: Element> Kernel for EmbedRows<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let dims = self.sum.len();
        for (token, out) in self.tokens.zip(self.out.chunks_exact_mut(dims)) {
            // SAFETY: the caller vouches for S; `embed_norm` checked every id against its table and every width.
            unsafe {
                add_row::<S>(self.tables.token, self.token_ids[token] as usize, self.sum, false);
                if let Some(scale) = self.tables.scale {
                    self.sum.iter_mut().for_each(|value| *value *= scale);
                }
                if let Some(table) = self.tables.position {
                    add_row::<S>(table, self.positions[token] as usize, self.sum, true);
                }
                if let Some(table) = self.tables.token_type {
                    let id = self.type_ids.get(token).copied().unwrap_or(0);
                    add_row::<S>(table, usize::from(id), self.sum, true);
                }
                match self.norm {
                    Some(norm) => normalise_row::<S, f32, T>(norm, self.sum.as_ptr(), out.as_mut_ptr()),
                    None => out.iter_mut().zip(&*self.sum).for_each(|(to, &from)| *to = T::from_f32(from)),
                }
            }
        }
    }
}

/// Adds row `id` of the table to `sum`, or stores it there.
///
/// # Safety
/// The machine supports `S`; `id` is in the table, whose rows are as long as `sum`.
#[inline(always)]
unsafe fn add_row<S: Simd>(table: &EmbeddingTable, id: usize, sum: &mut [f32], add: bool) {
    // SAFETY: the caller's contract is the same.
    unsafe {
        let range = id * sum.len()..(id + 1) * sum.len();
        match &table.values {
            TableValues::F32(values) => {
                add_values::<S, _>(&values[range], sum, add, |at, count| load::<S, f32>(at, count))
            }
            TableValues::Bf16(values) => {
                add_values::<S, _>(&values[range], sum, add, |at, count| load::<S, bf16>(at, count));
            }
            TableValues::F16(values) => {
                add_values::<S, _>(&values[range], sum, add, |at, count| load_f16::<S>(at, count))
            }
        }
    }
}

/// Reads a vector of f16, or the first `count` of its lanes.
///
/// # Safety
/// The machine supports `S`; `min(count, S::LANES)` elements are readable at `from`.
#[inline(always)]
unsafe fn load_f16<S: Simd>(from: *const f16, count: usize) -> S::V {
    // SAFETY: the caller's contract; the buffer holds LANES_MAX >= LANES elements.
    unsafe {
        if count >= S::LANES {
            return S::load_f16(from);
        }
        let mut lanes = [f16::ZERO; LANES_MAX];
        std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
        S::load_f16(lanes.as_ptr())
    }
}

/// # Safety
/// The machine supports `S`; both slices are equally long, and `widen` reads `min(count, S::LANES)` elements.
#[inline(always)]
unsafe fn add_values<S: Simd, A>(
    row: &[A],
    sum: &mut [f32],
    add: bool,
    widen: impl Fn(*const A, usize) -> S::V,
) {
    for column in (0..sum.len()).step_by(S::LANES) {
        let count = sum.len() - column;
        // SAFETY: `count` elements are left in both.
        unsafe {
            let value = widen(row.as_ptr().add(column), count);
            let at = sum.as_mut_ptr().add(column);
            let value = if add { S::add(load::<S, f32>(at, count), value) } else { value };
            store::<S, f32>(at, value, count);
        }
    }
}
