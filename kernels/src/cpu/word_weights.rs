//! From a token's logits over a vocabulary to a sequence's weights of words (SPLADE, Formal et al. 2021).

use std::ops::Range;

use super::element::Element;
use super::error::{OpError, expect_cu_seqlens, expect_size};
use super::ops::CpuOps;
use super::pool::Pooling;
use super::shared::SharedMut;

/// How the logits of a word become its weight in a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordWeights {
    /// Over the tokens.
    pub pooling: WordPooling,
    /// How often `ln(1 + x)` is applied to `max(x, 0)`: once, or twice as in OpenSearch's encoders (Shen et al. 2025).
    pub logarithms: u8,
}

/// How the weights that the tokens give a word become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordPooling {
    /// The greatest (SPLADE v2).
    Max,
    /// Their sum (the first SPLADE).
    Sum,
}

impl WordWeights {
    fn of(self, logit: f32) -> f32 {
        // Most words have none, and logarithms are slow.
        if logit > 0.0 { (0..self.logarithms).fold(logit, |weight, _| weight.ln_1p()) } else { 0.0 }
    }
}

impl CpuOps<'_> {
    /// Pools the logits `x [tokens, words]` of each sequence to weights, `out [sequences, words]`, none below 0.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn word_weights<T: Element>(
        &mut self,
        weights: WordWeights,
        words: usize,
        x: &[T],
        cu_seqlens: &[u32],
        out: &mut [f32],
    ) -> Result<(), OpError> {
        match weights.pooling {
            // Logarithms keep the order of what they are applied to: the greatest logit has the greatest weight.
            WordPooling::Max => {
                self.pool(&[Pooling::Max], words, x, cu_seqlens, out)?;
                out.iter_mut().for_each(|logit| *logit = weights.of(*logit));
                Ok(())
            }
            WordPooling::Sum => self.sum_weights(weights, words, x, cu_seqlens, out),
        }
    }

    fn sum_weights<T: Element>(
        &mut self,
        weights: WordWeights,
        words: usize,
        x: &[T],
        cu_seqlens: &[u32],
        out: &mut [f32],
    ) -> Result<(), OpError> {
        const OP: &str = "word weights";
        let tokens = x.len() / words.max(1);
        expect_size(OP, "x", x.len(), tokens * words)?;
        expect_cu_seqlens(OP, "cu_seqlens", cu_seqlens, tokens)?;
        let sequences = cu_seqlens.len() - 1;
        expect_size(OP, "out", out.len(), sequences * words)?;
        let shared = SharedMut::new(out);
        self.for_rows(sequences, 1, &|_, sequences: Range<usize>| {
            for sequence in sequences {
                // SAFETY: the items of one call cover different sequences.
                let sums = unsafe { shared.part(sequence * words, words) };
                sums.fill(0.0);
                let [start, end] = [sequence, sequence + 1].map(|index| cu_seqlens[index] as usize);
                for row in x[start * words..end * words].chunks_exact(words) {
                    sums.iter_mut().zip(row).for_each(|(sum, logit)| *sum += weights.of(logit.to_f32()));
                }
            }
        });
        Ok(())
    }
}
