//! The encode primitive: which vectors a caller gets and in what form, and rows of a batch to blocks of them.

use shoal_kernels::OutputSet;
use shoal_kernels::spec::Pooling;
use shoal_protocol::message::{
    Answers, ChunkPooling, Chunking, DenseBlock, EncodeOptions, MultivectorBlock, SparseBlock, VectorSet,
};

use crate::tasks::ask::{Abilities, Answering, AskError};
use crate::tasks::chunks::ChunkGather;
use crate::tasks::frames::{Gather, not_a_number};
use crate::tasks::joining::Joining;
use crate::tasks::reading::{Reading, prompt_of};
use crate::tasks::rows::{Row, Rows};
use crate::tasks::tokenizer::{ItemFailure, TokenPlace};
use crate::tasks::vectors::VectorForm;

/// What a caller wants, and the vectors of one frame.
#[derive(Debug)]
pub(crate) struct VectorGather {
    set: VectorSet,
    /// Values of the model's dense vectors.
    dims: u32,
    form: VectorForm,
    dense: DenseBlock,
    sparse: SparseBlock,
    multivector: MultivectorBlock,
    scratch: Vec<f32>,
}

/// Which outputs of a pass a caller's vectors are made of: what was named, else the model's main one.
fn outputs_of(set: VectorSet, gives: OutputSet) -> Result<VectorSet, AskError> {
    let own = match gives {
        OutputSet { dense: true, .. } => VectorSet::DENSE,
        OutputSet { multivector: true, .. } => VectorSet::MULTIVECTOR,
        OutputSet { sparse: true, .. } => VectorSet::SPARSE,
        _ => return Err(AskError::NoHead { task: "encode", gives }),
    };
    let set = if set.is_empty() { own } else { set };
    let wanted = wanted(set);
    if !wanted.without(gives).is_empty() {
        return Err(AskError::Outputs { wanted, gives });
    }
    Ok(set)
}

fn wanted(set: VectorSet) -> OutputSet {
    OutputSet { dense: set.dense, sparse: set.sparse, multivector: set.multivector, ..OutputSet::NONE }
}

/// Holds a request against a model.
///
/// # Errors
/// See [`AskError`].
pub(super) fn ask(
    options: EncodeOptions,
    abilities: Abilities<'_>,
) -> Result<(OutputSet, Reading, VectorGather), AskError> {
    let Abilities { dims, matryoshka, normalizes, prompts, gives, .. } = abilities;
    let set = outputs_of(options.outputs, gives)?;
    let kept = options.dims.unwrap_or(dims);
    if kept != dims && !((1..dims).contains(&kept) && matryoshka.allows(kept)) {
        return Err(AskError::Dims { wanted: kept, dims, matryoshka: matryoshka.clone() });
    }
    let prompt = match (&options.prompt, &options.prompt_name) {
        (Some(own), _) => Some(own.as_str()),
        (None, Some(name)) => {
            let named = prompts.by_name.get(name).ok_or_else(|| AskError::Prompt {
                name: name.clone(),
                known: prompts.by_name.keys().cloned().collect(),
            })?;
            Some(named.as_str())
        }
        (None, None) => prompt_of(prompts, options.input_type),
    };
    let preparation = abilities.preparation(prompt, options.input_type, wanted(set));
    let reading = match options.chunking.as_deref().copied() {
        None => Reading::Alone(preparation),
        Some(chunking) => {
            check_chunks(set, chunking, abilities)?;
            Reading::Chunked { prompt: preparation.prompt, chunking }
        }
    };
    let form = VectorForm {
        dims: kept,
        normalize: options.normalize.unwrap_or(normalizes),
        dtype: options.output_dtype,
    };
    Ok((wanted(set), reading, VectorGather::new(set, dims, form)))
}

/// Chunks have dense vectors, and of one pass only where these are means of tokens.
fn check_chunks(set: VectorSet, chunking: Chunking, abilities: Abilities<'_>) -> Result<(), AskError> {
    if set != VectorSet::DENSE {
        return Err(AskError::Chunks { wanted: wanted(set) });
    }
    let pooling = abilities.pooling;
    if chunking.pooling == ChunkPooling::Late && pooling.0 != [Pooling::Mean] {
        return Err(AskError::LateChunks { pooling: pooling.clone() });
    }
    if chunking.pooling == ChunkPooling::Late && !abilities.pools_parts {
        return Err(AskError::LateChunksHere);
    }
    Ok(())
}

impl VectorGather {
    /// What makes the answer where texts are cut into chunks.
    pub(super) fn of_chunks(self, chunking: Chunking) -> Answering {
        let Self { dims, form, .. } = self;
        match chunking.pooling {
            ChunkPooling::Mean => {
                let joining = Joining::mean(dims, form.normalize);
                Answering::Joined(joining, Box::new(Answering::Vectors(self)))
            }
            ChunkPooling::Late => Answering::Chunks(ChunkGather::new(dims, form)),
        }
    }

    fn new(set: VectorSet, dims: u32, form: VectorForm) -> Self {
        let mut gather = Self {
            set,
            dims,
            form,
            dense: DenseBlock::default(),
            sparse: SparseBlock::default(),
            multivector: MultivectorBlock::default(),
            scratch: Vec::new(),
        };
        gather.take();
        gather
    }

    fn tokens_form(&self, width: usize) -> VectorForm {
        // The width of a model's vectors is far below 2^32.
        VectorForm { dims: width as u32, normalize: false, dtype: self.form.dtype }
    }
}

impl Gather for VectorGather {
    fn row_bytes(&self, rows: &Rows, row: Row) -> usize {
        let VectorSet { dense, sparse, multivector } = self.set;
        let row_bytes = |form: VectorForm| form.dtype.row_bytes(form.dims);
        let dense = if dense { row_bytes(self.form) } else { 0 };
        let sparse = if sparse { 8 * rows.sparse(row).0.len() + 4 } else { 0 };
        let multivector = match multivector.then(|| rows.multivector(row)) {
            Some((values, width)) => {
                values.len().checked_div(width).unwrap_or(0) * row_bytes(self.tokens_form(width)) + 4
            }
            None => 0,
        };
        dense + sparse + multivector
    }

    fn push(&mut self, rows: &Rows, row: Row, _places: &[TokenPlace]) -> Result<(), ItemFailure> {
        if self.set.sparse {
            let (indices, values) = rows.sparse(row);
            if !values.iter().all(|value| value.is_finite()) {
                return Err(not_a_number());
            }
            self.sparse.indices.extend_from_slice(indices);
            self.sparse.values.extend_from_slice(values);
            self.sparse.ends.push(self.sparse.indices.len() as u32);
        }
        if self.set.dense {
            self.dense.rows += 1;
            self.form.append_row(rows.dense(row, self.dims), &mut self.scratch, &mut self.dense.data);
        }
        if self.set.multivector {
            let (values, width) = rows.multivector(row);
            let form = self.tokens_form(width);
            self.multivector.dims = form.dims;
            let before = self.multivector.ends.last().copied().unwrap_or(0);
            let vectors = values.chunks_exact(width.max(1));
            self.multivector.ends.push(before + vectors.len() as u32);
            for vector in vectors {
                form.append_row(vector, &mut self.scratch, &mut self.multivector.data);
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Answers {
        let VectorForm { dims, dtype, .. } = self.form;
        let dense = DenseBlock { dtype, dims, rows: 0, data: Vec::new() };
        let multivector = MultivectorBlock { dtype, ..MultivectorBlock::default() };
        let dense = std::mem::replace(&mut self.dense, dense);
        let sparse = std::mem::take(&mut self.sparse);
        let multivector = std::mem::replace(&mut self.multivector, multivector);
        Answers::Vectors {
            dense: self.set.dense.then_some(dense),
            sparse: self.set.sparse.then(|| Box::new(sparse)),
            multivector: self.set.multivector.then(|| Box::new(multivector)),
        }
    }
}

#[cfg(test)]
mod tests;
