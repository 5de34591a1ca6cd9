//! Late interaction: how well the token vectors of a document answer those of a query (ColBERT, Khattab and Zaharia 2020).

use std::ops::Range;

use super::element::load;
use super::error::{OpError, expect_cu_seqlens, expect_size};
use super::isa::CpuIsa;
use super::simd::{Kernel, Simd, dispatch};

/// Query rows whose products with one document row are summed side by side: as many as keep their sums in registers.
const QUERY_ROWS: usize = 4;

/// MaxSim of `query [rows, dims]` with each document: the sum, over the rows of the query, of the greatest dot product with
/// any row of the document. Document `i` is the rows `bounds[i]..bounds[i + 1]` of `documents [_, dims]`; one without rows
/// scores 0. `scores` has one element per document. Runs on the caller's thread; a score's bits depend on its document
/// and the query alone.
///
/// # Errors
/// Shapes that do not fit, or a set that the machine lacks.
pub fn max_sim(
    isa: CpuIsa,
    dims: usize,
    query: &[f32],
    documents: &[f32],
    bounds: &[u32],
    scores: &mut [f32],
) -> Result<(), OpError> {
    const OP: &str = "max_sim";
    let rows = |values: &[f32]| values.len() / dims.max(1);
    expect_size(OP, "query", query.len(), rows(query) * dims)?;
    expect_size(OP, "documents", documents.len(), rows(documents) * dims)?;
    expect_cu_seqlens(OP, "bounds", bounds, rows(documents))?;
    expect_size(OP, "scores", scores.len(), bounds.len() - 1)?;
    let isa = isa.verified()?;
    for (score, bounds) in scores.iter_mut().zip(bounds.windows(2)) {
        let rows = bounds[0] as usize * dims..bounds[1] as usize * dims;
        dispatch(isa, OneDocument { dims, query, document: &documents[rows], score });
    }
    Ok(())
}

struct OneDocument<'a> {
    dims: usize,
    query: &'a [f32],
    document: &'a [f32],
    score: &'a mut f32,
}

impl Kernel for OneDocument<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { dims, query, document, score } = self;
        *score = 0.0;
        if document.is_empty() {
            return;
        }
        let rows = query.len() / dims;
        for first in (0..rows).step_by(QUERY_ROWS) {
            let block = first..rows.min(first + QUERY_ROWS);
            // A block that is not full repeats its last row.
            let row = |index: usize| &query[(first + index).min(block.end - 1) * dims..][..dims];
            let block_rows: [&[f32]; QUERY_ROWS] = std::array::from_fn(row);
            let mut greatest = [f32::NEG_INFINITY; QUERY_ROWS];
            for document_row in document.chunks_exact(dims) {
                // SAFETY: the caller vouches for S; all rows are `dims` long.
                let products = unsafe { dots::<S>(&block_rows, document_row) };
                greatest.iter_mut().zip(products).for_each(|(max, product)| *max = max.max(product));
            }
            let Range { start, end } = block;
            *score += greatest[..end - start].iter().sum::<f32>();
        }
    }
}

/// The dot products of some rows with one more, each summed in the same order.
///
/// # Safety
/// The machine supports `S`; `others` are as long as `row`.
#[inline(always)]
unsafe fn dots<S: Simd>(others: &[&[f32]; QUERY_ROWS], row: &[f32]) -> [f32; QUERY_ROWS] {
    // SAFETY: the caller vouches for S, and `count` elements are left in every row.
    unsafe {
        let mut sums = [S::splat(0.0); QUERY_ROWS];
        for column in (0..row.len()).step_by(S::LANES) {
            let count = row.len() - column;
            let values = load::<S, f32>(row.as_ptr().add(column), count);
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum = S::fma(load::<S, f32>(other.as_ptr().add(column), count), values, *sum);
            }
        }
        sums.map(|sum| S::sum(sum))
    }
}
