//! Cuts a batch into blocks whose buffers stay in a core's cache.

use std::ops::Range;

use crate::batch::{PackedBatch, SpanRule};

/// About as many tokens go through the whole stack at once on each thread. A block's buffers (14 KB a token for a
/// hidden width of 384 in f32) then stay in the second-level cache from step to step, while the weights, read once per
/// block, still cost little beside its products. It bounds the lane's memory as well.
pub(super) const BLOCK_TOKENS: usize = 256;

/// Whole sequences of a batch.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) token_ids: &'a [u32],
    pub(super) positions: &'a [u32],
    pub(super) type_ids: &'a [u8],
    pub(super) skipped: &'a [bool],
    /// See [`PackedBatch::ranges`]: those of the whole batch.
    pub(super) ranges: &'a [[u32; 2]],
    /// Bounds of the sequences' ranges; or empty.
    pub(super) range_bounds: &'a [u32],
    /// See [`PackedBatch::labels`]: those of the whole batch.
    pub(super) labels: &'a [u32],
    /// Bounds of the sequences' labels; or empty.
    pub(super) label_bounds: &'a [u32],
    pub(super) span_rules: &'a [SpanRule],
    /// From 0.
    pub(super) cu_seqlens: &'a [u32],
    /// Bounds of the sequences' keys, of which only differences count.
    pub(super) cu_seqlens_k: &'a [u32],
}

impl<'a> Block<'a> {
    /// The given sequences of a checked batch; `cu_seqlens` keeps their lengths.
    pub(super) fn cut(batch: &'a PackedBatch, sequences: Range<usize>, cu_seqlens: &'a mut Vec<u32>) -> Self {
        let bounds = &batch.cu_seqlens_q[sequences.start..=sequences.end];
        let bounds_of = |all: &'a [u32]| all.get(sequences.start..=sequences.end).unwrap_or_default();
        let (range_bounds, label_bounds) = (bounds_of(&batch.range_bounds), bounds_of(&batch.label_bounds));
        let cu_seqlens_k = &batch.cu_seqlens_k[sequences.start..=sequences.end];
        let first = bounds[0];
        let tokens = first as usize..bounds[sequences.len()] as usize;
        cu_seqlens.clear();
        cu_seqlens.extend(bounds.iter().map(|bound| bound - first));
        let type_ids = batch.type_ids.get(tokens.clone()).unwrap_or_default();
        let skipped = batch.skipped.get(tokens.clone()).unwrap_or_default();
        Self {
            token_ids: &batch.token_ids[tokens.clone()],
            positions: &batch.positions[tokens],
            type_ids,
            skipped,
            ranges: &batch.ranges,
            range_bounds,
            labels: &batch.labels,
            label_bounds,
            span_rules: batch.span_rules.get(sequences).unwrap_or_default(),
            cu_seqlens,
            cu_seqlens_k,
        }
    }
}

impl Block<'_> {
    /// Sequences whose tokens are all keys as one range, every other one alone with its number of keys.
    pub(super) fn key_groups(&self) -> impl Iterator<Item = (Range<usize>, Option<usize>)> {
        let sequences = self.cu_seqlens.len().saturating_sub(1);
        let length = |bounds: &[u32], index: usize| bounds[index + 1] - bounds[index];
        let is_whole = move |index: usize| length(self.cu_seqlens, index) == length(self.cu_seqlens_k, index);
        let mut start = 0;
        std::iter::from_fn(move || {
            let first = start;
            if first == sequences {
                return None;
            }
            if !is_whole(first) {
                start += 1;
                return Some((first..start, Some(length(self.cu_seqlens_k, first) as usize)));
            }
            start = (first..sequences).find(|&index| !is_whole(index)).unwrap_or(sequences);
            Some((first..start, None))
        })
    }
}

/// Ranges of sequences that hold about equally many tokens, at most about `tokens_max`: each ends at the first sequence
/// that reaches its share, so that no block exceeds it by more than one sequence.
pub(super) fn blocks(cu_seqlens: &[u32], tokens_max: usize) -> impl Iterator<Item = Range<usize>> {
    let tokens = cu_seqlens.last().map_or(0, |&last| last as usize);
    let parts = tokens.div_ceil(tokens_max);
    let mut start = 0;
    (1..=parts).filter_map(move |part| {
        let share = tokens * part / parts;
        let end = cu_seqlens.partition_point(|&bound| (bound as usize) < share);
        let block = start..end;
        start = end;
        (!block.is_empty()).then_some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(lengths: &[u32], tokens_max: usize) -> Vec<Range<usize>> {
        let mut batch = PackedBatch::new();
        lengths.iter().for_each(|&length| batch.push(&vec![0; length as usize]));
        blocks(&batch.cu_seqlens_q, tokens_max).collect()
    }

    #[test]
    fn blocks_are_even() {
        assert_eq!(cut(&[10; 9], 30), [0..3, 3..6, 6..9]);
        assert_eq!(cut(&[10; 4], 30), [0..2, 2..4]);
        assert_eq!(cut(&[100, 1, 1], 30), [0..1, 1..3]);
        assert_eq!(cut(&[], 30), []);
    }

    #[test]
    fn a_block_has_its_own_lengths() {
        let mut batch = PackedBatch::new();
        [&[1, 2][..], &[3, 4, 5], &[6]].into_iter().for_each(|ids| batch.push(ids));
        batch.type_ids = vec![0, 0, 1, 1, 1, 0];
        let mut cu_seqlens = vec![9; 9];
        let block = Block::cut(&batch, 1..3, &mut cu_seqlens);
        assert_eq!((block.token_ids, block.positions), (&[3, 4, 5, 6][..], &[0, 1, 2, 0][..]));
        assert_eq!((block.type_ids, block.cu_seqlens), (&[1, 1, 1, 0][..], &[0, 3, 4][..]));
    }

    #[test]
    fn sequences_with_fewer_keys_stand_alone() {
        let mut batch = PackedBatch::new();
        [3, 3, 2, 3, 3].iter().for_each(|&keys| batch.push_expanded(&[0; 3], keys));
        let mut cu_seqlens = Vec::new();
        let block = Block::cut(&batch, 1..5, &mut cu_seqlens);
        assert_eq!(block.key_groups().collect::<Vec<_>>(), [(0..1, None), (1..2, Some(2)), (2..4, None)]);
    }

    proptest! {
        #[test]
        fn every_sequence_is_in_one_block(
            lengths in prop::collection::vec(1u32..300, 0..40),
            tokens_max in 1usize..500,
        ) {
            let blocks = cut(&lengths, tokens_max);
            let all = blocks.iter().cloned().flatten().collect::<Vec<_>>();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
            for block in blocks {
                let tokens = lengths[block].iter().sum::<u32>() as usize;
                prop_assert!(tokens < tokens_max + longest + 1, "{} tokens", tokens);
            }
        }
    }
}
