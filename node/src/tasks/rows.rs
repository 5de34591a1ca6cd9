//! What a batch left for the texts of one request.

use std::sync::Arc;

use shoal_kernels::{Outputs, ScoredSpan};
use shoal_protocol::message::ChunkPlace;

use crate::tasks::tokenizer::{Part, TokenPlace};

/// The sequences of one request in one finished batch.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Of the whole batch.
    pub(crate) outputs: Arc<Outputs>,
    /// The request's own.
    pub(crate) rows: Vec<Row>,
    /// Where the tokens of these rows stand in their texts, row after row; empty unless that was asked for.
    pub(crate) places: Vec<TokenPlace>,
    /// Where the chunks of these rows stand in their texts, row after row.
    pub(crate) chunks: Vec<ChunkPlace>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The text's position in the request.
    pub(crate) index: u32,
    /// Its row in the batch.
    pub(crate) row: u32,
    /// Its tokens.
    pub(crate) tokens: u32,
    /// Where they begin among the batch's.
    pub(crate) first_token: u32,
    /// Whether it was cut.
    pub(crate) truncated: bool,
    /// What it is of its text.
    pub(crate) part: Part,
    /// Its chunks.
    pub(crate) chunks: u32,
    /// Where they begin among those of the rows.
    pub(crate) first_chunk: u32,
}

impl Row {
    /// Its part of `[rows, width]`.
    fn of(self, values: &[f32], width: usize) -> &[f32] {
        &values[self.row as usize * width..][..width]
    }

    fn between(self, bounds: &[u32]) -> std::ops::Range<usize> {
        bounds[self.row as usize] as usize..bounds[self.row as usize + 1] as usize
    }
}

impl Rows {
    /// A row's dense vector.
    pub(crate) fn dense(&self, row: Row, dims: u32) -> &[f32] {
        let first = self.outputs.dense_bounds[row.row as usize] as usize;
        &self.outputs.dense[first * dims as usize..][..dims as usize]
    }

    /// The dense vectors of a row's chunks.
    pub(crate) fn dense_of_chunks(&self, row: Row, dims: u32) -> impl Iterator<Item = &[f32]> {
        let (range, dims) = (row.between(&self.outputs.dense_bounds), dims as usize);
        self.outputs.dense[range.start * dims..range.end * dims].chunks_exact(dims.max(1))
    }

    /// Where a row's chunks stand in its text.
    pub(crate) fn chunk_places(&self, row: Row) -> &[ChunkPlace] {
        &self.chunks[row.first_chunk as usize..][..row.chunks as usize]
    }

    /// A row's sparse vector: ids, ascending, and weights.
    pub(crate) fn sparse(&self, row: Row) -> (&[u32], &[f32]) {
        let range = row.between(&self.outputs.sparse.indptr);
        (&self.outputs.sparse.indices[range.clone()], &self.outputs.sparse.values[range])
    }

    /// A row's vectors of tokens, `[kept tokens, width]`, and their width.
    pub(crate) fn multivector(&self, row: Row) -> (&[f32], usize) {
        let Outputs { multivector, multivector_bounds, .. } = &*self.outputs;
        let vectors = multivector_bounds.last().map_or(0, |last| *last as usize);
        let width = multivector.len().checked_div(vectors).unwrap_or(0);
        let range = row.between(multivector_bounds);
        (&multivector[range.start * width..range.end * width], width)
    }

    /// What was found in a row, and how much of it there was.
    pub(crate) fn spans(&self, row: Row) -> (&[ScoredSpan], u32) {
        let spans = &self.outputs.spans;
        (&spans.spans[row.between(&spans.indptr)], spans.found[row.row as usize])
    }

    /// A row's logits of labels.
    pub(crate) fn classes(&self, row: Row, labels: usize) -> &[f32] {
        row.of(&self.outputs.classes, labels)
    }

    /// A row's logits of labels for each of its tokens, `[tokens, labels]`.
    pub(crate) fn token_classes(&self, row: Row, labels: usize) -> &[f32] {
        let first = row.first_token as usize;
        &self.outputs.token_classes[first * labels..(first + row.tokens as usize) * labels]
    }

    /// Each row with the places of its tokens; none where they were not asked for.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (Row, &[TokenPlace])> {
        let mut rest = self.places.as_slice();
        self.rows.iter().map(move |row| {
            let (own, others) = rest.split_at_checked(row.tokens as usize).unwrap_or_default();
            rest = others;
            (*row, own)
        })
    }
}
