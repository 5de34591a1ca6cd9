//! From the last hidden states to labelled spans of words.

use std::ops::Range;

use super::{ExecError, head::Hidden, span_weights::SpanWeights};
use crate::{
    batch::SpanRule,
    cpu::{
        Activation, AlignedBuf, CpuOps, Element, Epilogue, LstmWorkspace, PackedLinear, Pooling, SpanOperands,
    },
    outputs::{ScoredSpan, SpanRows},
    plan::SpanPlan,
};

/// Logits that are there at once, unless one word begins more of them: their buffer stays in the second-level cache.
const LOGITS_MAX: usize = 1 << 16;

/// What a block leaves between its steps, three rows of `inner` values a word at most. Grows to the largest block and
/// stays.
pub(super) struct SpanWorkspace {
    /// Words, then labels: their tokens among the block's rows, and the bounds of each sequence's.
    words: Stretches,
    labels: Stretches,
    from: AlignedBuf<f32>,
    to: AlignedBuf<f32>,
    inner: AlignedBuf<f32>,
    starts: AlignedBuf<f32>,
    ends: AlignedBuf<f32>,
    of_labels: AlignedBuf<f32>,
    label_biases: AlignedBuf<f32>,
    logits: AlignedBuf<f32>,
    lstm: LstmWorkspace,
}

struct Stretches {
    ranges: Vec<[u32; 2]>,
    /// From 0.
    bounds: Vec<u32>,
}

impl Stretches {
    const NONE: Self = Self { ranges: Vec::new(), bounds: Vec::new() };

    fn clear(&mut self) {
        self.ranges.clear();
        self.bounds.clear();
        self.bounds.push(0);
    }

    /// Those of one sequence, which begins at `first`.
    fn push(&mut self, first: u32, own: impl Iterator<Item = [u32; 2]>) {
        self.ranges.extend(own.map(|range| range.map(|token| first + token)));
        self.bounds.push(self.ranges.len() as u32);
    }

    fn of(&self, sequence: usize) -> Range<usize> {
        self.bounds[sequence] as usize..self.bounds[sequence + 1] as usize
    }
}

impl SpanWorkspace {
    pub(super) fn new() -> Self {
        let [from, to, inner, starts, ends, of_labels, label_biases, logits] =
            std::array::from_fn(|_| AlignedBuf::zeroed(0));
        let (words, labels, lstm) = (Stretches::NONE, Stretches::NONE, LstmWorkspace::new());
        Self { words, labels, from, to, inner, starts, ends, of_labels, label_biases, logits, lstm }
    }

    /// Appends what is found in each sequence of a block.
    pub(super) fn run<T: Element>(
        &mut self,
        ops: &mut CpuOps<'_>,
        (plan, weights): (&SpanPlan, &SpanWeights),
        hidden: Hidden<'_, T>,
        out: &mut SpanRows,
    ) -> Result<(), ExecError> {
        self.collect(hidden);
        if !self.words.ranges.is_empty() && !self.labels.ranges.is_empty() {
            self.words(ops, (plan, weights), hidden)?;
            self.labels(ops, (plan, weights), hidden)?;
        }
        for sequence in 0..hidden.sequences() {
            let (words, labels) = (self.words.of(sequence), self.labels.of(sequence));
            let before = out.spans.len();
            let mut found = 0;
            if let (Some(rule), false, false) =
                (hidden.span_rules.get(sequence), words.is_empty(), labels.is_empty())
            {
                let rows = |of: Range<usize>| of.start * plan.inner..of.end * plan.inner;
                let of = SpanOperands {
                    starts: &self.starts[rows(words.clone())],
                    ends: &self.ends[rows(words.clone())],
                    labels: &self.of_labels[rows(labels.clone())],
                    label_biases: &self.label_biases[labels],
                    inner: plan.inner,
                    words_max: plan.words_max,
                };
                let kept =
                    Kept { rule: *rule, end: before + SpanRows::ROW_MAX, spans: &mut out.spans, found: 0 };
                found = find(ops, of, words.len(), kept, &mut self.logits)?;
            }
            out.found.push(found);
            out.indptr.push(out.spans.len() as u32);
        }
        Ok(())
    }

    /// Which rows of the block are words and labels.
    fn collect<T>(&mut self, hidden: Hidden<'_, T>) {
        let Hidden { cu_seqlens, ranges, range_bounds, labels, label_bounds, .. } = hidden;
        [&mut self.words, &mut self.labels].into_iter().for_each(Stretches::clear);
        for (sequence, first) in cu_seqlens[..hidden.sequences()].iter().enumerate() {
            let own = |bounds: &[u32]| match bounds.get(sequence..sequence + 2) {
                Some(&[start, end]) => start as usize..end as usize,
                _ => 0..0,
            };
            // A sequence without labels may have ranges of another meaning.
            let labels = &labels[own(label_bounds)];
            let words = if labels.is_empty() { 0..0 } else { own(range_bounds) };
            self.words.push(*first, ranges[words].iter().copied());
            self.labels.push(*first, labels.iter().map(|&token| [token, token + 1]));
        }
    }

    /// Leaves the rows of first and of last words.
    fn words<T: Element>(
        &mut self,
        ops: &mut CpuOps<'_>,
        (plan, weights): (&SpanPlan, &SpanWeights),
        hidden: Hidden<'_, T>,
    ) -> Result<(), ExecError> {
        let Self { words, from, to, inner, starts, ends, lstm, .. } = self;
        let len = pooled(ops, (plan, weights), plan.pooling, hidden, &words.ranges, [&mut *from, &mut *to])?;
        if let Some(weights) = &weights.lstm {
            to.reserve(len);
            ops.lstm(weights, &from[..len], &words.bounds, lstm, &mut to[..len])?;
            std::mem::swap(from, to);
        }
        for (linears, out) in [(&weights.starts, starts), (&weights.ends, ends)] {
            let [first, second, third] = linears;
            linear(ops, first, &from[..len], Activation::Relu, inner)?;
            let rows = len / plan.width;
            linear(ops, second, &inner[..rows * plan.inner], Activation::Relu, to)?;
            linear(ops, third, &to[..len], Activation::Identity, out)?;
        }
        Ok(())
    }

    /// Leaves the rows of labels, and what each adds to its logits.
    fn labels<T: Element>(
        &mut self,
        ops: &mut CpuOps<'_>,
        (plan, weights): (&SpanPlan, &SpanWeights),
        hidden: Hidden<'_, T>,
    ) -> Result<(), ExecError> {
        let Self { labels, from, to, inner, of_labels, label_biases, .. } = self;
        let ranges = &labels.ranges;
        let len = pooled(ops, (plan, weights), Pooling::Cls, hidden, ranges, [&mut *from, &mut *to])?;
        let [first, second, third] = &weights.labels;
        linear(ops, first, &from[..len], Activation::Relu, inner)?;
        linear(ops, second, &inner[..ranges.len() * plan.inner], Activation::Identity, to)?;
        linear(ops, third, &to[..len], Activation::Identity, of_labels)?;
        linear(ops, &weights.label_bias, &to[..len], Activation::Identity, label_biases)
    }
}

/// Leaves a row of `width` for each range in the first of two buffers; returns their elements.
fn pooled<T: Element>(
    ops: &mut CpuOps<'_>,
    (plan, weights): (&SpanPlan, &SpanWeights),
    pooling: Pooling,
    hidden: Hidden<'_, T>,
    ranges: &[[u32; 2]],
    [from, to]: [&mut AlignedBuf<f32>; 2],
) -> Result<usize, ExecError> {
    let rows = ranges.len() * plan.inputs;
    from.reserve(rows);
    ops.pool_ranges(&[pooling], plan.inputs, hidden.rows, ranges, &mut from[..rows])?;
    if let Some(projection) = &weights.projection {
        linear(ops, projection, &from[..rows], Activation::Identity, to)?;
        std::mem::swap(from, to);
    }
    Ok(ranges.len() * plan.width)
}

fn linear(
    ops: &mut CpuOps<'_>,
    weights: &PackedLinear,
    x: &[f32],
    activation: Activation,
    out: &mut AlignedBuf<f32>,
) -> Result<(), ExecError> {
    let len = x.len() / weights.inputs() * weights.outputs();
    out.reserve(len);
    Ok(ops.linear(weights, x, Epilogue::Activate(activation), &mut out[..len])?)
}

/// Scores the spans of one text, some first words at a time; returns how many pass.
fn find(
    ops: &mut CpuOps<'_>,
    of: SpanOperands<'_>,
    words: usize,
    mut kept: Kept<'_>,
    logits: &mut AlignedBuf<f32>,
) -> Result<u32, ExecError> {
    let labels = of.label_biases.len();
    let of_word = of.words_max * labels;
    let words_at_once = (LOGITS_MAX / of_word).max(1);
    for start in (0..words).step_by(words_at_once) {
        let firsts = start..words.min(start + words_at_once);
        let len = firsts.len() * of_word;
        logits.reserve(len);
        ops.span_logits(of, firsts.clone(), &mut logits[..len])?;
        for (first, of_word) in firsts.zip(logits[..len].chunks_exact(of_word)) {
            for (last, logits) in (first..words).zip(of_word.chunks_exact(labels)) {
                kept.add([first, last].map(|word| word as u32), logits);
            }
        }
    }
    Ok(kept.found)
}

/// The spans of one sequence that pass.
struct Kept<'a> {
    rule: SpanRule,
    /// No span is kept from here on.
    end: usize,
    spans: &'a mut Vec<ScoredSpan>,
    found: u32,
}

impl Kept<'_> {
    /// One span with its logits. Labels are told apart by scores and not by logits: of two that are both 1 as f32, the
    /// first is the better one.
    fn add(&mut self, [first, last]: [u32; 2], logits: &[f32]) {
        let mut best: Option<(u32, f32)> = None;
        for (label, &logit) in (0..).zip(logits) {
            let score = sigmoid(logit);
            // What is no number is kept, so that whoever reads it learns of it.
            if score <= self.rule.threshold {
                continue;
            }
            if self.rule.every_label {
                self.push(ScoredSpan { first, last, label, score });
            } else if best.is_none_or(|(_, top)| score > top || score.is_nan()) {
                best = Some((label, score));
            }
        }
        if let Some((label, score)) = best {
            self.push(ScoredSpan { first, last, label, score });
        }
    }

    fn push(&mut self, span: ScoredSpan) {
        self.found += 1;
        if self.spans.len() < self.end {
            self.spans.push(span);
        }
    }
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(rule: SpanRule, end: usize, logits: &[f32]) -> (Vec<(u32, f32)>, u32) {
        let mut spans = Vec::new();
        let mut kept = Kept { rule, end, spans: &mut spans, found: 0 };
        kept.add([3, 4], logits);
        let found = kept.found;
        assert!(spans.iter().all(|span| (span.first, span.last) == (3, 4)));
        (spans.iter().map(|span| (span.label, span.score)).collect(), found)
    }

    #[test]
    fn the_best_label_is_kept_or_every_one() {
        let best = SpanRule { threshold: 0.5, every_label: false };
        assert_eq!(kept(best, 9, &[-1.0, 0.0, f32::NEG_INFINITY]), (vec![], 0), "0.5 is not more than 0.5");
        assert_eq!(kept(best, 9, &[90.0, 120.0]), (vec![(0, 1.0)], 1), "the first of equal scores");
        let every = SpanRule { every_label: true, ..best };
        assert_eq!(kept(every, 9, &[90.0, -1.0, 120.0]), (vec![(0, 1.0), (2, 1.0)], 2));
        assert_eq!(kept(every, 1, &[90.0, 120.0, 90.0]), (vec![(0, 1.0)], 3), "the others are counted");
        assert!(kept(best, 9, &[1.0, f32::NAN]).0[0].1.is_nan());
    }
}
