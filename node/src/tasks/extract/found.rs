//! Spans that a model scored one by one to those of the answer: no two of one text overlap, unless that is asked for.

use std::collections::BTreeSet;

use shoal_kernels::{ScoredSpan, SpanRows};
use shoal_protocol::ErrorCode;
use shoal_protocol::limits::SPANS_PER_ITEM_MAX;
use shoal_protocol::message::{Answers, ChunkPlace, Span, SpanBlock};

use crate::tasks::frames::{Gather, not_a_number};
use crate::tasks::rows::{Row, Rows};
use crate::tasks::tokenizer::{ItemFailure, TokenPlace};

/// Which spans may overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overlaps {
    /// One that lies inside of another.
    pub(super) nested: bool,
    /// The same one, with another label.
    pub(super) every_label: bool,
}

/// The spans of one frame.
#[derive(Debug)]
pub(crate) struct FoundGather {
    labels: Vec<String>,
    overlaps: Overlaps,
    block: SpanBlock,
}

impl FoundGather {
    pub(super) fn new(labels: Vec<String>, overlaps: Overlaps) -> Self {
        Self { labels, overlaps, block: SpanBlock::default() }
    }
}

impl Gather for FoundGather {
    fn row_bytes(&self, rows: &Rows, row: Row) -> usize {
        rows.spans(row).0.len().min(SPANS_PER_ITEM_MAX) * size_of::<Span>() + size_of::<u32>()
    }

    fn push(&mut self, rows: &Rows, row: Row, _: &[TokenPlace]) -> Result<(), ItemFailure> {
        let ((scored, found), places) = (rows.spans(row), rows.chunk_places(row));
        if found as usize > scored.len() {
            return Err(too_many(format!("{found} spans score over the threshold"), SpanRows::ROW_MAX));
        }
        if scored.iter().any(|span| span.score.is_nan()) {
            return Err(not_a_number());
        }
        let span = |of: &ScoredSpan| {
            let ChunkPlace { start, .. } = places[of.first as usize];
            Span { start, end: places[of.last as usize].end, label: of.label, score: of.score }
        };
        let kept = self.overlaps.keep(scored.iter().map(span).collect());
        if kept.len() > SPANS_PER_ITEM_MAX {
            return Err(too_many(format!("the text has {} spans", kept.len()), SPANS_PER_ITEM_MAX));
        }
        self.block.spans.extend(kept);
        self.block.ends.push(self.block.spans.len() as u32);
        Ok(())
    }

    fn take(&mut self) -> Answers {
        let SpanBlock { ends, spans, .. } = std::mem::take(&mut self.block);
        Answers::Spans(SpanBlock { labels: self.labels.clone(), ends, spans })
    }
}

fn too_many(what: String, limit: usize) -> ItemFailure {
    let message = format!("{what}, and at most {limit} are weighed: raise the threshold, or cut the text");
    ItemFailure { code: ErrorCode::InvalidRequest, message, tokens: 0, limit: limit as u32 }
}

impl Overlaps {
    /// The best span, then the best of those that may stand beside it, and so on: `greedy_search` of GLiNER's reference, in
    /// its order. What two windows saw has the better of its two scores.
    fn keep(self, mut spans: Vec<Span>) -> Vec<Span> {
        let place = |span: &Span| (span.start, span.end, span.label);
        spans.sort_unstable_by(|a, b| place(a).cmp(&place(b)).then(b.score.total_cmp(&a.score)));
        spans.dedup_by_key(|span| place(span));
        spans.sort_by(|a, b| b.score.total_cmp(&a.score));
        let longest = spans.iter().map(|span| span.end - span.start).max().unwrap_or(0);
        let mut taken = BTreeSet::new();
        spans.retain(|span| {
            let near = taken.range((span.start.saturating_sub(longest), 0)..(span.end, 0)).rev();
            let has_room = self.leave_room(near.copied(), span);
            if has_room {
                taken.insert((span.start, span.end));
            }
            has_room
        });
        spans.sort_by_key(|span| span.start);
        spans
    }

    /// Whether none of the taken places, the rightmost first, is in the way of a span. Places that may not nest lie side by
    /// side, so that the first one tells.
    fn leave_room(self, taken: impl Iterator<Item = (u32, u32)>, span: &Span) -> bool {
        let mut taken = taken.take(if self.nested { usize::MAX } else { 1 });
        taken.all(|(start, end)| {
            if (start, end) == (span.start, span.end) {
                return self.every_label;
            }
            let is_inside =
                (start <= span.start && end >= span.end) || (span.start <= start && span.end >= end);
            end <= span.start || start >= span.end || self.nested && is_inside
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span((start, end, label, score): (u32, u32, u32, f32)) -> Span {
        Span { start, end, label, score }
    }

    /// As the reference writes it: every candidate against every span that was taken.
    fn plain(overlaps: Overlaps, mut spans: Vec<Span>) -> Vec<Span> {
        spans.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut kept: Vec<Span> = Vec::new();
        for span in spans {
            let clashes = |other: &Span| {
                if (other.start, other.end) == (span.start, span.end) {
                    return !overlaps.every_label;
                }
                let is_inside = |a: &Span, b: &Span| a.start >= b.start && a.end <= b.end;
                let apart = other.end <= span.start || other.start >= span.end;
                !(apart || overlaps.nested && (is_inside(other, &span) || is_inside(&span, other)))
            };
            if !kept.iter().any(clashes) {
                kept.push(span);
            }
        }
        kept.sort_by_key(|span| span.start);
        kept
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_comparing_all_with_all_keeps(
            spans in prop::collection::btree_map((0u32..12, 1u32..6, 0u32..3), 0u8..20, 0..30),
            nested: bool,
            every_label: bool,
        ) {
            let spans: Vec<Span> = spans
                .into_iter()
                .map(|((start, len, label), score)| span((start, start + len, label, f32::from(score))))
                .collect();
            // In the order of their places, as windows give them.
            let mut sorted = spans.clone();
            sorted.sort_by_key(|span| (span.start, span.end, span.label));
            let overlaps = Overlaps { nested, every_label };
            prop_assert_eq!(overlaps.keep(spans), plain(overlaps, sorted));
        }
    }

    #[test]
    fn what_two_windows_saw_has_the_better_score() {
        let spans = [(0, 3, 0, 0.6), (4, 9, 1, 0.7), (4, 9, 1, 0.9), (8, 12, 0, 0.8)].map(span);
        let kept = Overlaps::default().keep(spans.to_vec());
        assert_eq!(kept, [(0, 3, 0, 0.6), (4, 9, 1, 0.9)].map(span));
    }
}
