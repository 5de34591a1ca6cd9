//! Weights of words: a product with a whole vocabulary of which only what is above 0 is kept.

use super::{
    ExecError, LoadError,
    head::{Chain, Hidden},
    load::keep_first,
};
use crate::{
    cpu::{Activation, AlignedBuf, CpuIsa, CpuOps, Element, Epilogue, PackedLinear, WordWeights},
    describe::VocabularyWeights,
    dtype::Dtype,
    outputs::SparseRows,
    plan::{SparsePlan, WordsPlan},
    weights::MappedCheckpoint,
};

/// The weights of a sparse head.
pub(super) struct SparseWeights {
    pub(super) chain: Chain,
    words: Words,
}

enum Words {
    /// In the order of their words.
    Vocabulary(Vec<PackedLinear>, WordWeights),
    /// Without these tokens.
    Lexical(Vec<u32>),
}

impl SparseWeights {
    /// Packs the table of words in slices, where there is one.
    pub(super) fn load(
        plan: &SparsePlan,
        chain: Chain,
        device: (CpuIsa, Dtype),
        table: Option<&VocabularyWeights>,
    ) -> Result<Self, LoadError> {
        let words = match plan.words {
            WordsPlan::Lexical { ref skipped } => Words::Lexical(skipped.clone()),
            WordsPlan::Vocabulary { words, slice, weights } => {
                let table = table.expect("a described vocabulary has the names of its weights");
                let slices = load_slices([words, plan.chain.outputs], slice, device, table)?;
                Words::Vocabulary(slices, weights)
            }
        };
        Ok(Self { chain, words })
    }

    pub(super) fn bytes(&self) -> usize {
        let words = match &self.words {
            Words::Vocabulary(slices, _) => slices.iter().map(PackedLinear::bytes).sum(),
            Words::Lexical(_) => 0,
        };
        self.chain.bytes() + words
    }
}

fn load_slices(
    [words, inputs]: [usize; 2],
    slice: usize,
    (isa, dtype): (CpuIsa, Dtype),
    VocabularyWeights { dir, weight, bias }: &VocabularyWeights,
) -> Result<Vec<PackedLinear>, LoadError> {
    let checkpoint = MappedCheckpoint::open(dir)?;
    let tensor = checkpoint.tensor(bias, &[words])?;
    let bias = tensor.read_all()?;
    tensor.release();
    let tensor = checkpoint.tensor(weight, &[words, inputs])?;
    let mut failed = None;
    let slices = (0..words).step_by(slice).map(|start| {
        let bias = &bias[start..words.min(start + slice)];
        PackedLinear::pack(isa, dtype, bias.len(), inputs, Some(bias), |word, row| {
            keep_first(&mut failed, tensor.read((start + word) * inputs, row));
        })
    });
    let slices = slices.collect::<Result<_, _>>()?;
    tensor.release();
    failed.map_or(Ok(slices), |error| Err(error.into()))
}

/// What a block leaves between its slices. Grows to the largest block and stays.
pub(super) struct SparseWorkspace {
    /// The operand of every slice, and the logits of one: elements of the encoder's activations.
    operand: AlignedBuf<u32>,
    logits: AlignedBuf<u32>,
    /// `[sequences, words of a slice]`.
    pooled: AlignedBuf<f32>,
    /// By sequence: its words with their weights so far, ascending.
    rows: Vec<Vec<(u32, f32)>>,
}

impl SparseWorkspace {
    pub(super) fn new() -> Self {
        let [operand, logits] = [AlignedBuf::zeroed(0), AlignedBuf::zeroed(0)];
        Self { operand, logits, pooled: AlignedBuf::zeroed(0), rows: Vec::new() }
    }

    /// Appends one row for each sequence, from what the chain made of each token: `x [tokens, inputs]`.
    pub(super) fn run<T: Element>(
        &mut self,
        ops: &mut CpuOps<'_>,
        weights: &SparseWeights,
        hidden: Hidden<'_, T>,
        x: &[f32],
        out: &mut SparseRows,
    ) -> Result<(), ExecError> {
        let sequences = hidden.sequences();
        self.rows.iter_mut().for_each(Vec::clear);
        if self.rows.len() < sequences {
            self.rows.resize_with(sequences, Vec::new);
        }
        match &weights.words {
            Words::Vocabulary(slices, weights) => self.vocabulary(ops, slices, *weights, hidden, x)?,
            Words::Lexical(skipped) => self.lexical(skipped, hidden, x),
        }
        self.rows[..sequences].iter().for_each(|row| append(out, row));
        Ok(())
    }

    fn vocabulary<T: Element>(
        &mut self,
        ops: &mut CpuOps<'_>,
        slices: &[PackedLinear],
        weights: WordWeights,
        hidden: Hidden<'_, T>,
        x: &[f32],
    ) -> Result<(), ExecError> {
        let (tokens, sequences) = (hidden.tokens(), hidden.sequences());
        let operand = elements::<T>(&mut self.operand, x.len());
        operand.iter_mut().zip(x).for_each(|(narrow, value)| *narrow = T::from_f32(*value));
        let mut first_word = 0;
        for slice in slices {
            let words = slice.outputs();
            let logits = elements::<T>(&mut self.logits, tokens * words);
            ops.linear(slice, operand, Epilogue::Activate(Activation::Identity), logits)?;
            self.pooled.reserve(sequences * words);
            let pooled = &mut self.pooled[..sequences * words];
            ops.word_weights(weights, words, logits, hidden.cu_seqlens, pooled)?;
            for (row, pooled) in self.rows.iter_mut().zip(pooled.chunks_exact(words)) {
                row.extend((first_word..).zip(pooled.iter().copied()).filter(|(_, weight)| *weight > 0.0));
            }
            first_word += words as u32;
        }
        Ok(())
    }

    /// Each token speaks of itself: `x [tokens, 1]`.
    fn lexical<T>(&mut self, skipped: &[u32], hidden: Hidden<'_, T>, x: &[f32]) {
        for (row, bounds) in self.rows.iter_mut().zip(hidden.cu_seqlens.windows(2)) {
            let tokens = bounds[0] as usize..bounds[1] as usize;
            lexical_row(skipped, &hidden.token_ids[tokens.clone()], &x[tokens], row);
        }
    }
}

/// The words that one sequence's tokens are, ascending, with the greatest weight of each: `x [tokens]`.
pub(super) fn lexical_row(skipped: &[u32], token_ids: &[u32], x: &[f32], row: &mut Vec<(u32, f32)>) {
    let words = token_ids.iter().copied().zip(x.iter().copied());
    row.extend(words.filter(|(word, weight)| *weight > 0.0 && skipped.binary_search(word).is_err()));
    // The greatest of equal words first, which is the one that stays.
    row.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    row.dedup_by_key(|(word, _)| *word);
}

/// Appends a row.
pub(super) fn append(out: &mut SparseRows, row: &[(u32, f32)]) {
    out.indices.extend(row.iter().map(|(word, _)| word));
    out.values.extend(row.iter().map(|(_, weight)| weight));
    out.indptr.push(out.indices.len() as u32);
}

/// Room for `len` elements of the activations.
fn elements<T: Element>(buffer: &mut AlignedBuf<u32>, len: usize) -> &mut [T] {
    let units = (len * size_of::<T>()).div_ceil(size_of::<u32>());
    buffer.reserve(units);
    &mut bytemuck::cast_slice_mut(&mut buffer[..units])[..len]
}
