//! The packed batch: every sequence's tokens end to end, no padding anywhere.

use std::ops::Range;

/// Sequences packed into `[tokens]` arrays, with the cumulative lengths that tell them apart.
///
/// Sequence `i` owns the query rows `cu_seqlens_q[i]..cu_seqlens_q[i + 1]` and attends to the key rows
/// `cu_seqlens_k[i]..cu_seqlens_k[i + 1]` (the names of FlashAttention's varlen interface). For an encoder the
/// two are equal; they are separate so that shared prefixes and KV caches need no new contract.
///
/// The fields are public because producers differ; the forward pass checks all of them against its plan before it
/// computes anything, and answers with a typed error.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedBatch {
    /// `[tokens]`: ids into the model's vocabulary.
    pub token_ids: Vec<u32>,
    /// `[tokens]`: the position of each token in its own sequence, from 0.
    pub positions: Vec<u32>,
    /// `[tokens]`: segment ids, or empty when all are 0.
    pub type_ids: Vec<u8>,
    /// `[tokens]`: which get no vector of their own in a multi-vector answer, or empty when all get one.
    pub skipped: Vec<bool>,
    /// `[ranges]`: first token and the one after the last, counted in their own sequence, of what one dense vector is pooled
    /// from; or empty when each sequence has one, of all its tokens. Where spans are looked for, these are its words
    /// instead.
    pub ranges: Vec<[u32; 2]>,
    /// `[sequences + 1]`: sequence `i` owns `ranges[range_bounds[i]..range_bounds[i + 1]]`; empty when `ranges` says nothing.
    pub range_bounds: Vec<u32>,
    /// `[labels]`: the token that stands for each label, counted in its own sequence; empty unless spans are looked for.
    pub labels: Vec<u32>,
    /// `[sequences + 1]`: sequence `i` owns `labels[label_bounds[i]..label_bounds[i + 1]]`; empty where `labels` is.
    pub label_bounds: Vec<u32>,
    /// `[sequences]`: which spans are kept; empty where `labels` is.
    pub span_rules: Vec<SpanRule>,
    /// `[sequences + 1]`: starts with 0, ends with the number of tokens.
    pub cu_seqlens_q: Vec<u32>,
    /// `[sequences + 1]`: starts with 0, ends with the number of key rows. A sequence's keys are its first tokens: all of
    /// them, or fewer where the last ones are seen by none ([`push_expanded`](Self::push_expanded)).
    pub cu_seqlens_k: Vec<u32>,
}

/// Which spans of a sequence are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpanRule {
    /// Those that score more.
    pub threshold: f32,
    /// With every such label, and not with the best one alone.
    pub every_label: bool,
}

impl SpanRule {
    /// Where nothing is looked for.
    const NOTHING: Self = Self { threshold: 1.0, every_label: false };
}

impl PackedBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::with_capacity(0, 0)
    }

    /// An empty batch that takes `sequences` sequences of `tokens` tokens in all without allocating.
    pub fn with_capacity(tokens: usize, sequences: usize) -> Self {
        let mut batch = Self {
            token_ids: Vec::with_capacity(tokens),
            positions: Vec::with_capacity(tokens),
            type_ids: Vec::new(),
            skipped: Vec::new(),
            ranges: Vec::new(),
            range_bounds: Vec::new(),
            labels: Vec::new(),
            label_bounds: Vec::new(),
            span_rules: Vec::new(),
            cu_seqlens_q: Vec::with_capacity(sequences + 1),
            cu_seqlens_k: Vec::with_capacity(sequences + 1),
        };
        batch.clear();
        batch
    }

    /// Forgets every sequence and keeps the memory.
    pub fn clear(&mut self) {
        self.token_ids.clear();
        self.positions.clear();
        self.type_ids.clear();
        self.skipped.clear();
        self.ranges.clear();
        self.range_bounds.clear();
        self.labels.clear();
        self.label_bounds.clear();
        self.span_rules.clear();
        for cu_seqlens in [&mut self.cu_seqlens_q, &mut self.cu_seqlens_k] {
            cu_seqlens.clear();
            cu_seqlens.push(0);
        }
    }

    /// Appends one sequence, special tokens included, with positions from 0 and segment 0.
    pub fn push(&mut self, token_ids: &[u32]) {
        self.push_expanded(token_ids, token_ids.len());
    }

    /// Appends one sequence of which only the first `keys` tokens are seen, by all of them: the others expand a query of a
    /// multi-vector model.
    pub fn push_expanded(&mut self, token_ids: &[u32], keys: usize) {
        let start = self.token_ids.len();
        let end =
            u32::try_from(start + token_ids.len()).expect("token budgets keep a batch far below 2^32 tokens");
        self.token_ids.extend_from_slice(token_ids);
        self.positions.extend(0..end - start as u32);
        if !self.type_ids.is_empty() {
            self.type_ids.resize(end as usize, 0);
        }
        if !self.skipped.is_empty() {
            self.skipped.resize(end as usize, false);
        }
        if !self.range_bounds.is_empty() {
            self.ranges.push([0, end - start as u32]);
            self.range_bounds.push(self.ranges.len() as u32);
        }
        if !self.label_bounds.is_empty() {
            self.label_bounds.push(self.labels.len() as u32);
            self.span_rules.push(SpanRule::NOTHING);
        }
        let keys_before = self.cu_seqlens_k.last().copied().unwrap_or_default();
        self.cu_seqlens_q.push(end);
        self.cu_seqlens_k.push(keys_before + keys.min(token_ids.len()) as u32);
    }

    /// Has the tokens of the last sequence for whose ids `skips` holds get no vector of their own.
    pub fn skip(&mut self, skips: impl Fn(u32) -> bool) {
        self.skipped.resize(self.token_ids.len(), false);
        let start = self.cu_seqlens_q.iter().rev().nth(1).map_or(0, |&start| start as usize);
        let last = self.skipped[start..].iter_mut().zip(&self.token_ids[start..]);
        last.for_each(|(skipped, id)| *skipped = skips(*id));
    }

    /// Has the dense vectors of the last sequence, as many as there are ranges, pooled from these tokens of it.
    pub fn pool_from(&mut self, ranges: impl IntoIterator<Item = [u32; 2]>) {
        let sequences = self.sequences();
        if self.range_bounds.is_empty() {
            self.ranges.extend(self.cu_seqlens_q.windows(2).map(|bounds| [0, bounds[1] - bounds[0]]));
            self.range_bounds.extend(0..=sequences as u32);
        }
        if let Some(last) = sequences.checked_sub(1) {
            self.ranges.truncate(self.range_bounds[last] as usize);
            self.ranges.extend(ranges);
            self.range_bounds[sequences] = self.ranges.len() as u32;
        }
    }

    /// Has spans of these words of the last sequence held against the labels that stand at these tokens of it.
    pub fn find_spans(
        &mut self,
        words: impl IntoIterator<Item = [u32; 2]>,
        labels: impl IntoIterator<Item = u32>,
        rule: SpanRule,
    ) {
        self.pool_from(words);
        let sequences = self.sequences();
        self.label_bounds.resize(sequences + 1, 0);
        self.span_rules.resize(sequences, SpanRule::NOTHING);
        if let Some(last) = sequences.checked_sub(1) {
            self.labels.truncate(self.label_bounds[last] as usize);
            self.labels.extend(labels);
            self.label_bounds[sequences] = self.labels.len() as u32;
            self.span_rules[last] = rule;
        }
    }

    /// Appends one sequence of two segments, special tokens included: its first `first` tokens are of segment 0, the
    /// others of segment 1.
    pub fn push_pair(&mut self, token_ids: &[u32], first: usize) {
        let start = self.tokens();
        self.push(token_ids);
        if first < token_ids.len() {
            self.type_ids.resize(start + first, 0);
            self.type_ids.resize(start + token_ids.len(), 1);
        }
    }

    /// Some of its sequences as a batch of their own.
    ///
    /// # Panics
    /// The range is not one of sequences of the batch.
    #[must_use]
    pub fn sequences_of(&self, sequences: Range<usize>) -> Self {
        fn from_zero(bounds: &[u32], sequences: &Range<usize>) -> Vec<u32> {
            let own = bounds.get(sequences.start..=sequences.end).unwrap_or_default();
            own.iter().map(|bound| bound - own[0]).collect()
        }
        let part = |bounds: &[u32]| bounds[sequences.start] as usize..bounds[sequences.end] as usize;
        let tokens = part(&self.cu_seqlens_q);
        let part_of = |bounds: &[u32]| if bounds.is_empty() { 0..0 } else { part(bounds) };
        let (ranges, labels) = (part_of(&self.range_bounds), part_of(&self.label_bounds));
        Self {
            token_ids: self.token_ids[tokens.clone()].to_vec(),
            positions: self.positions[tokens.clone()].to_vec(),
            type_ids: self.type_ids.get(tokens.clone()).unwrap_or_default().to_vec(),
            skipped: self.skipped.get(tokens).unwrap_or_default().to_vec(),
            ranges: self.ranges[ranges].to_vec(),
            range_bounds: from_zero(&self.range_bounds, &sequences),
            labels: self.labels[labels].to_vec(),
            label_bounds: from_zero(&self.label_bounds, &sequences),
            span_rules: self.span_rules.get(sequences.clone()).unwrap_or_default().to_vec(),
            cu_seqlens_q: from_zero(&self.cu_seqlens_q, &sequences),
            cu_seqlens_k: from_zero(&self.cu_seqlens_k, &sequences),
        }
    }

    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens_q.len().saturating_sub(1)
    }

    /// The number of tokens of all sequences together.
    pub fn tokens(&self) -> usize {
        self.token_ids.len()
    }
}

impl Default for PackedBatch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_lie_end_to_end() {
        let mut batch = PackedBatch::new();
        batch.push(&[7, 8, 9]);
        batch.push(&[5]);
        assert_eq!((batch.sequences(), batch.tokens()), (2, 4));
        assert_eq!(batch.token_ids, [7, 8, 9, 5]);
        assert_eq!(batch.positions, [0, 1, 2, 0]);
        assert_eq!(batch.cu_seqlens_q, [0, 3, 4]);
        assert_eq!(batch.cu_seqlens_k, batch.cu_seqlens_q);
        assert!(batch.type_ids.is_empty());
    }

    #[test]
    fn a_part_is_as_if_it_had_been_packed_alone() {
        let (mut all, mut part) = (PackedBatch::new(), PackedBatch::new());
        all.push(&[1, 2]);
        for batch in [&mut all, &mut part] {
            batch.push_pair(&[3, 4, 5], 1);
            batch.skip(|id| id == 4);
            batch.push_expanded(&[6, 7], 1);
        }
        all.push(&[8]);
        assert_eq!(all.sequences_of(1..3), part);
        all.pool_from([[0, 1]]);
        assert_eq!(all.sequences_of(3..4).ranges, [[0, 1]]);
        assert_eq!(all.sequences_of(0..4), all);
        assert_eq!(all.sequences_of(2..2), PackedBatch { range_bounds: vec![0], ..PackedBatch::new() });
    }

    #[test]
    fn segments_are_told_apart_from_the_first_pair_on() {
        let mut batch = PackedBatch::new();
        batch.push_pair(&[1, 2], 2);
        assert!(batch.type_ids.is_empty(), "one segment");
        batch.push_pair(&[3, 4, 5], 1);
        batch.push(&[6]);
        batch.push_pair(&[7, 8], 1);
        assert_eq!(batch.type_ids, [0, 0, 0, 1, 1, 0, 0, 1]);
        assert_eq!(batch.token_ids, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn tokens_of_the_last_sequence_are_skipped() {
        let mut batch = PackedBatch::new();
        batch.skip(|_| true);
        batch.push(&[7, 8]);
        batch.push(&[8, 9]);
        batch.skip(|id| id == 8);
        batch.push(&[8]);
        assert_eq!(batch.skipped, [false, false, true, false, false]);
    }

    #[test]
    fn dense_vectors_are_pooled_from_ranges_from_the_first_that_has_some_on() {
        let mut batch = PackedBatch::new();
        batch.push(&[7, 8]);
        assert!(batch.range_bounds.is_empty(), "one vector of all tokens");
        batch.push(&[8, 9, 7]);
        batch.pool_from([[0, 2], [1, 3]]);
        batch.push(&[5]);
        batch.push(&[6, 6]);
        batch.pool_from([]);
        assert_eq!(batch.ranges, [[0, 2], [0, 2], [1, 3], [0, 1]]);
        assert_eq!(batch.range_bounds, [0, 1, 3, 4, 4]);
    }

    #[test]
    fn spans_are_looked_for_in_the_last_sequence() {
        let mut batch = PackedBatch::new();
        batch.push(&[7]);
        batch.push(&[8, 9, 7, 5]);
        let rule = SpanRule { threshold: 0.5, every_label: true };
        batch.find_spans([[2, 3], [3, 4]], [0, 1], rule);
        batch.push(&[5]);
        assert_eq!(
            (batch.labels.as_slice(), batch.label_bounds.as_slice()),
            (&[0, 1][..], &[0, 0, 2, 2][..])
        );
        assert_eq!(batch.range_bounds, [0, 1, 3, 4]);
        assert_eq!(batch.span_rules, [SpanRule::NOTHING, rule, SpanRule::NOTHING]);
        let mut alone = PackedBatch::new();
        alone.push(&[8, 9, 7, 5]);
        alone.find_spans([[2, 3], [3, 4]], [0, 1], rule);
        assert_eq!(batch.sequences_of(1..2), alone);
        batch.clear();
        assert_eq!(batch, PackedBatch::new());
    }

    #[test]
    fn an_expanded_sequence_has_fewer_keys() {
        let mut batch = PackedBatch::new();
        batch.push_expanded(&[7, 8, 0, 0], 2);
        batch.push(&[5]);
        assert_eq!(
            (batch.cu_seqlens_q.as_slice(), batch.cu_seqlens_k.as_slice()),
            (&[0, 4, 5][..], &[0, 2, 3][..])
        );
    }

    #[test]
    fn clearing_keeps_the_memory() {
        let mut batch = PackedBatch::with_capacity(4, 2);
        batch.push(&[1, 2, 3, 4]);
        let capacity = (batch.token_ids.capacity(), batch.cu_seqlens_q.capacity());
        batch.clear();
        assert_eq!((batch.sequences(), batch.tokens()), (0, 0));
        assert_eq!((batch.token_ids.capacity(), batch.cu_seqlens_q.capacity()), capacity);
        assert_eq!(batch, PackedBatch::new());
    }
}
