//! Texts that became several sequences: what each of them gave, put together to what the text gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_kernels::{Outputs, ScoredSpan, SpanRows};
use shoal_protocol::message::ChunkPlace;

use crate::tasks::rows::{Row, Rows};
use crate::tasks::tokenizer::Part;
use crate::tasks::vectors::normalize_l2;

/// Holds the parts of a request's texts until all of one are there: at most one value row a sequence, or
/// [`SpanRows::ROW_MAX`] spans a text with the places of its words.
#[derive(Debug)]
pub(crate) struct Joining {
    joint: Joint,
    /// By the text's position, so that nothing depends on when its parts come.
    held: BTreeMap<u32, Held>,
}

/// What parts become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joint {
    /// The mean of dense vectors by the parts' weights, each scaled to length 1 before.
    Mean { dims: u32, normalize: bool },
    /// One logit a label, of that label's hypothesis.
    Entailment(Entailment),
    /// The spans of all windows, whose words follow each other.
    Spans,
}

/// What is kept of a part.
#[derive(Debug)]
enum Given {
    Values(Vec<f32>),
    Spans { found: u32, spans: Vec<ScoredSpan>, words: Vec<ChunkPlace> },
}

impl Given {
    fn into_values(self) -> Vec<f32> {
        match self {
            Self::Values(values) => values,
            Self::Spans { .. } => Vec::new(),
        }
    }
}

/// Which of a classifier's logits say whether a text entails a hypothesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entailment {
    /// Labels of the classifier.
    pub(crate) classes: usize,
    /// The one that says that it does.
    pub(crate) holds: usize,
    /// The one whose logit is taken off, where each hypothesis is weighed alone.
    pub(crate) less: Option<usize>,
}

#[derive(Debug)]
struct Held {
    /// By part.
    given: Vec<Option<Given>>,
    /// Spans of all parts. Over what is weighed of one text, none is kept.
    found: u32,
    weights: Vec<u32>,
    left: u32,
    tokens: u32,
    truncated: bool,
}

impl Joining {
    /// Windows of texts: their dense vectors become one.
    pub(crate) fn mean(dims: u32, normalize: bool) -> Self {
        Self { joint: Joint::Mean { dims, normalize }, held: BTreeMap::new() }
    }

    /// Hypotheses about texts: their logits become those of labels.
    pub(crate) fn entailment(of: Entailment) -> Self {
        Self { joint: Joint::Entailment(of), held: BTreeMap::new() }
    }

    /// Windows of texts: what was found in them.
    pub(crate) fn spans() -> Self {
        Self { joint: Joint::Spans, held: BTreeMap::new() }
    }

    /// The rows of the texts of which all parts are there now.
    pub(crate) fn handle_rows(&mut self, rows: &Rows) -> Rows {
        let (mut outputs, mut whole, mut places) = (Outputs::new(), Vec::new(), Vec::new());
        for &row in &rows.rows {
            let held = self.held.entry(row.index).or_insert_with(|| Held::new(row.part.of));
            held.add(row, self.joint.given(rows, row));
            if held.left > 0 {
                continue;
            }
            if let Some(held) = self.held.remove(&row.index) {
                let (tokens, truncated) = (held.tokens, held.truncated);
                let (part, at, first_chunk) = (Part::WHOLE, whole.len() as u32, places.len() as u32);
                self.joint.join(held, &mut outputs, &mut places);
                let chunks = places.len() as u32 - first_chunk;
                whole.push(Row { row: at, tokens, truncated, part, chunks, first_chunk, ..row });
            }
        }
        Rows { outputs: Arc::new(outputs), rows: whole, places: Vec::new(), chunks: places }
    }
}

impl Held {
    fn new(parts: u32) -> Self {
        let parts = parts as usize;
        Self {
            given: (0..parts).map(|_| None).collect(),
            found: 0,
            weights: vec![0; parts],
            left: parts as u32,
            tokens: 0,
            truncated: false,
        }
    }

    fn add(&mut self, row: Row, mut given: Given) {
        let at = row.part.index as usize;
        if self.given[at].is_none() {
            if let Given::Spans { found, spans, .. } = &mut given {
                self.found = self.found.saturating_add(*found);
                if self.found as usize > SpanRows::ROW_MAX {
                    spans.clear();
                }
            }
            self.given[at] = Some(given);
            self.left -= 1;
            self.tokens += row.tokens;
            self.truncated |= row.truncated;
            self.weights[at] = row.part.weight;
        }
    }
}

impl Joint {
    /// What is kept of a part.
    fn given(self, rows: &Rows, row: Row) -> Given {
        match self {
            Self::Mean { dims, .. } => Given::Values(rows.dense(row, dims).to_vec()),
            Self::Entailment(Entailment { classes, holds, less }) => {
                let logits = rows.classes(row, classes);
                Given::Values(vec![logits[holds] - less.map_or(0.0, |less| logits[less])])
            }
            Self::Spans => {
                let ((spans, found), words) = (rows.spans(row), rows.chunk_places(row));
                Given::Spans { found, spans: spans.to_vec(), words: words.to_vec() }
            }
        }
    }

    /// Appends what a text's parts give together, in the order of the parts.
    fn join(self, held: Held, outputs: &mut Outputs, places: &mut Vec<ChunkPlace>) {
        let found = held.found;
        let parts = held.given.into_iter().flatten();
        let (dims, normalize) = match self {
            Self::Spans => return join_spans(found, parts, &mut outputs.spans, places),
            Self::Entailment(_) => return outputs.classes.extend(parts.flat_map(Given::into_values)),
            Self::Mean { dims, normalize } => (dims, normalize),
        };
        let parts = parts.map(Given::into_values);
        if held.weights.len() == 1 {
            outputs.dense.extend(parts.flatten());
        } else {
            outputs.dense.extend(weighted_mean(dims, normalize, parts.zip(held.weights)));
        }
        outputs.dense_bounds.push(outputs.dense.len() as u32 / dims.max(1));
    }
}

/// The words of all windows end to end, some of them twice, and what was found among them.
fn join_spans(
    found: u32,
    parts: impl Iterator<Item = Given>,
    out: &mut SpanRows,
    places: &mut Vec<ChunkPlace>,
) {
    let first = places.len();
    for part in parts {
        if let Given::Spans { spans, words, .. } = part {
            let before = (places.len() - first) as u32;
            let moved = |span: ScoredSpan| ScoredSpan {
                first: span.first + before,
                last: span.last + before,
                ..span
            };
            out.spans.extend(spans.into_iter().map(moved));
            places.extend(words);
        }
    }
    out.found.push(found);
    out.indptr.push(out.spans.len() as u32);
}

/// In f64, so that the order of many windows does not show.
fn weighted_mean(
    dims: u32,
    normalize: bool,
    parts: impl Iterator<Item = (Vec<f32>, u32)>,
) -> impl Iterator<Item = f32> {
    let (mut sums, mut total) = (vec![0.0f64; dims as usize], 0.0);
    for (mut vector, weight) in parts {
        if normalize {
            normalize_l2(&mut vector);
        }
        let weight = f64::from(weight);
        sums.iter_mut().zip(vector).for_each(|(sum, value)| *sum += weight * f64::from(value));
        total += weight;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a vector's values are f32 by definition")]
    sums.into_iter().map(move |sum| (sum / total) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::ask::testing::rows_of;

    /// Rows of a batch, each with its text, its part and a vector.
    fn batch(parts: &[(u32, Part, [f32; 2])]) -> Rows {
        let mut outputs = Outputs::new();
        outputs.dense = parts.iter().flat_map(|(_, _, vector)| *vector).collect();
        outputs.dense_bounds = (0..=parts.len() as u32).collect();
        let mut rows = rows_of(outputs, parts.len(), 3);
        rows.rows.iter_mut().zip(parts).for_each(|(row, (index, part, _))| {
            (row.index, row.part) = (*index, *part);
        });
        rows
    }

    #[test]
    fn a_text_is_whole_when_its_last_part_has_come_whatever_the_order() {
        let part = |index, weight| Part { index, of: 2, weight };
        let (long, short) = ((7, part(0, 3), [1.0, 0.0]), (7, part(1, 1), [0.0, 2.0]));
        for parts in [[long, short], [short, long]] {
            let mut joining = Joining::mean(2, false);
            let other = (2, Part::WHOLE, [5.0, 6.0]);
            let first = joining.handle_rows(&batch(&[parts[0], other]));
            assert_eq!((first.rows[0].index, first.dense(first.rows[0], 2)), (2, &[5.0, 6.0][..]));
            assert_eq!(first.rows.len(), 1, "a part of a text is none");
            let rest = joining.handle_rows(&batch(&[parts[1]]));
            assert_eq!((rest.rows[0].index, rest.rows[0].tokens), (7, 6));
            assert_eq!(rest.dense(rest.rows[0], 2), [0.75, 0.5]);
            assert!(joining.held.is_empty());
        }
    }

    /// A window of so many words from a place on, in which some spans were found.
    fn window(index: u32, start: u32, words: u32, spans: &[[u32; 2]], found: u32) -> Rows {
        let scored = |&[first, last]: &[u32; 2]| ScoredSpan { first, last, label: 0, score: 0.5 };
        let mut outputs = Outputs::new();
        outputs.spans.spans = spans.iter().map(scored).collect();
        outputs.spans.indptr.push(spans.len() as u32);
        outputs.spans.found.push(found);
        let mut rows = rows_of(outputs, 1, 3);
        rows.rows[0].part = Part { index, of: 2, weight: 1 };
        rows.rows[0].chunks = words;
        rows.chunks = (start..start + words).map(|start| ChunkPlace { start, end: start + 1 }).collect();
        rows
    }

    #[test]
    fn words_of_windows_follow_each_other_with_what_was_found_among_them() {
        let (first, second) = (window(0, 0, 3, &[[0, 2]], 1), window(1, 2, 2, &[[0, 0], [0, 1]], 2));
        for windows in [[&first, &second], [&second, &first]] {
            let mut joining = Joining::spans();
            assert!(joining.handle_rows(windows[0]).rows.is_empty());
            let whole = joining.handle_rows(windows[1]);
            let (spans, found) = whole.spans(whole.rows[0]);
            let words: Vec<_> = spans.iter().map(|span| [span.first, span.last]).collect();
            assert_eq!((words.as_slice(), found), (&[[0, 2], [3, 3], [3, 4]][..], 3));
            let starts = whole.chunk_places(whole.rows[0]).iter().map(|place| place.start);
            assert_eq!(starts.collect::<Vec<_>>(), [0, 1, 2, 2, 3]);
        }
    }

    #[test]
    fn more_spans_than_are_weighed_are_counted_and_not_kept() {
        let mut joining = Joining::spans();
        joining.handle_rows(&window(0, 0, 3, &[[0, 2]], SpanRows::ROW_MAX as u32));
        let whole = joining.handle_rows(&window(1, 2, 2, &[[0, 0]], 1));
        let (spans, found) = whole.spans(whole.rows[0]);
        assert_eq!((spans.len(), found as usize), (1, SpanRows::ROW_MAX + 1));
    }

    #[test]
    fn windows_are_scaled_before_they_are_added_where_the_model_scales() {
        let part = |index| Part { index, of: 2, weight: 1 };
        let mut joining = Joining::mean(2, true);
        let rows = joining.handle_rows(&batch(&[(0, part(0), [3.0, 0.0]), (0, part(1), [0.0, 9.0])]));
        assert_eq!(rows.dense(rows.rows[0], 2), [0.5, 0.5]);
    }
}
