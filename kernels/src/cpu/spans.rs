//! Spans of words against labels, without a vector of any span ever being stored.

use std::ops::Range;

use super::element::load;
use super::error::{OpError, expect_size};
use super::ops::CpuOps;
use super::shared::SharedMut;
use super::simd::{Kernel, Simd, dispatch};

/// Labels whose products with one span are summed side by side: as many as keep their sums in registers.
const LABELS: usize = 8;

/// What the logits of one text's spans are made of. A span's inner vector is `relu(starts[first] + ends[last])`; its logit
/// for a label is the product with that label, and what the label adds.
#[derive(Clone, Copy)]
pub(crate) struct SpanOperands<'a> {
    /// `[words, inner]`.
    pub(crate) starts: &'a [f32],
    /// `[words, inner]`.
    pub(crate) ends: &'a [f32],
    /// `[labels, inner]`.
    pub(crate) labels: &'a [f32],
    /// `[labels]`.
    pub(crate) label_biases: &'a [f32],
    pub(crate) inner: usize,
    /// Words of the longest span.
    pub(crate) words_max: usize,
}

impl CpuOps<'_> {
    /// The logits of the spans that begin at the words `firsts`, by length and label: `out [firsts, words_max, labels]`.
    /// What would go on behind the last word is negative infinity. A logit's bits depend on its words and its label alone.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(crate) fn span_logits(
        &mut self,
        of: SpanOperands<'_>,
        firsts: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), OpError> {
        const OP: &str = "span logits";
        let (words, labels) = (of.starts.len() / of.inner.max(1), of.label_biases.len());
        expect_size(OP, "starts", of.starts.len(), words * of.inner)?;
        expect_size(OP, "ends", of.ends.len(), words * of.inner)?;
        expect_size(OP, "labels", of.labels.len(), labels * of.inner)?;
        expect_size(OP, "the last word", firsts.end.max(words), words)?;
        let width = of.words_max * labels;
        expect_size(OP, "out", out.len(), firsts.len() * width)?;
        let (isa, shared) = (self.isa, SharedMut::new(out));
        self.for_rows(firsts.len(), 1, &|_, part| {
            // SAFETY: the items of one call cover different first words, and so different parts of the result.
            let out = unsafe { shared.part(part.start * width, part.len() * width) };
            let first = firsts.start + part.start;
            dispatch(isa, Spans { of, words, first, out });
        });
        Ok(())
    }
}

struct Spans<'a> {
    of: SpanOperands<'a>,
    words: usize,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Spans<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { of, words, first, out } = self;
        let labels = of.label_biases.len();
        let row = |rows: &'_ [f32], index: usize| rows[index * of.inner..][..of.inner].as_ptr();
        for (span, logits) in out.chunks_exact_mut(labels.max(1)).enumerate() {
            let (first, last) =
                (first + span / of.words_max, first + span / of.words_max + span % of.words_max);
            if last >= words {
                logits.fill(f32::NEG_INFINITY);
                continue;
            }
            let (start, end) = (row(of.starts, first), row(of.ends, last));
            for block in (0..labels).step_by(LABELS) {
                // A block that is not full repeats its last label.
                let label = |index: usize| row(of.labels, (block + index).min(labels - 1));
                // SAFETY: the caller vouches for S; all rows have `inner` elements.
                let products = unsafe { dots::<S>(start, end, &std::array::from_fn(label), of.inner) };
                let biases = &of.label_biases[block..];
                let sums = products.into_iter().zip(biases).map(|(product, bias)| product + bias);
                logits[block..].iter_mut().zip(sums).for_each(|(logit, sum)| *logit = sum);
            }
        }
    }
}

/// The products of `relu(start + end)` with some rows, each summed in the same order.
///
/// # Safety
/// The machine supports `S`; all rows have `len` elements.
#[inline(always)]
unsafe fn dots<S: Simd>(
    start: *const f32,
    end: *const f32,
    others: &[*const f32; LABELS],
    len: usize,
) -> [f32; LABELS] {
    // SAFETY: the caller vouches for S, and `count` elements are left in every row.
    unsafe {
        let mut sums = [S::splat(0.0); LABELS];
        for column in (0..len).step_by(S::LANES) {
            let count = len - column;
            let [start, end] = [start, end].map(|row| load::<S, f32>(row.add(column), count));
            let inner = S::max(S::splat(0.0), S::add(start, end));
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum = S::fma(load::<S, f32>(other.add(column), count), inner, *sum);
            }
        }
        sums.map(|sum| S::sum(sum))
    }
}
