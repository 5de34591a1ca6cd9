//! The vectors of a text's chunks to blocks of them.

use shoal_protocol::message::{Answers, ChunkBlock, ChunkPlace, MultivectorBlock};

use crate::tasks::frames::Gather;
use crate::tasks::rows::{Row, Rows};
use crate::tasks::tokenizer::{ItemFailure, TokenPlace};
use crate::tasks::vectors::VectorForm;

/// What a caller wants of each vector, and the chunks of one frame.
#[derive(Debug)]
pub(crate) struct ChunkGather {
    /// Values of the model's dense vectors.
    dims: u32,
    form: VectorForm,
    block: ChunkBlock,
    scratch: Vec<f32>,
}

impl ChunkGather {
    pub(super) fn new(dims: u32, form: VectorForm) -> Self {
        Self { dims, form, block: ChunkBlock::default(), scratch: Vec::new() }
    }
}

impl Gather for ChunkGather {
    fn row_bytes(&self, _rows: &Rows, row: Row) -> usize {
        let chunk_bytes = self.form.dtype.row_bytes(self.form.dims) + size_of::<ChunkPlace>();
        row.chunks as usize * chunk_bytes + size_of::<u32>()
    }

    fn push(&mut self, rows: &Rows, row: Row, _places: &[TokenPlace]) -> Result<(), ItemFailure> {
        let MultivectorBlock { ends, data, .. } = &mut self.block.vectors;
        for vector in rows.dense_of_chunks(row, self.dims) {
            self.form.append_row(vector, &mut self.scratch, data);
        }
        self.block.places.extend_from_slice(rows.chunk_places(row));
        ends.push(self.block.places.len() as u32);
        Ok(())
    }

    fn take(&mut self) -> Answers {
        let mut block = std::mem::take(&mut self.block);
        (block.vectors.dims, block.vectors.dtype) = (self.form.dims, self.form.dtype);
        Answers::Chunks(Box::new(block))
    }
}
