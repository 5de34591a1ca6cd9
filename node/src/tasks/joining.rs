//! Texts that became several sequences: what each of them gave, put together to what the text gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_kernels::Outputs;

use crate::tasks::rows::{Row, Rows};
use crate::tasks::tokenizer::Part;
use crate::tasks::vectors::normalize_l2;

/// Holds the parts of a request's texts until all of one are there: at most one value row a sequence.
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
    values: Vec<Option<Vec<f32>>>,
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

    /// The rows of the texts of which all parts are there now.
    pub(crate) fn handle_rows(&mut self, rows: &Rows) -> Rows {
        let (mut outputs, mut whole) = (Outputs::new(), Vec::new());
        for &row in &rows.rows {
            let held = self.held.entry(row.index).or_insert_with(|| Held::new(row.part.of));
            held.add(row, self.joint.values(rows, row));
            if held.left > 0 {
                continue;
            }
            if let Some(held) = self.held.remove(&row.index) {
                let (tokens, truncated) = (held.tokens, held.truncated);
                self.joint.join(held, &mut outputs);
                let (part, at) = (Part::WHOLE, whole.len() as u32);
                whole.push(Row { row: at, tokens, truncated, part, ..row });
            }
        }
        Rows { outputs: Arc::new(outputs), rows: whole, places: Vec::new(), chunks: Vec::new() }
    }
}

impl Held {
    fn new(parts: u32) -> Self {
        let parts = parts as usize;
        Self {
            values: vec![None; parts],
            weights: vec![0; parts],
            left: parts as u32,
            tokens: 0,
            truncated: false,
        }
    }

    fn add(&mut self, row: Row, values: Vec<f32>) {
        let at = row.part.index as usize;
        if self.values[at].replace(values).is_none() {
            self.left -= 1;
            self.tokens += row.tokens;
            self.truncated |= row.truncated;
            self.weights[at] = row.part.weight;
        }
    }
}

impl Joint {
    /// What is kept of a part.
    fn values(self, rows: &Rows, row: Row) -> Vec<f32> {
        match self {
            Self::Mean { dims, .. } => rows.dense(row, dims).to_vec(),
            Self::Entailment(Entailment { classes, holds, less }) => {
                let logits = rows.classes(row, classes);
                vec![logits[holds] - less.map_or(0.0, |less| logits[less])]
            }
        }
    }

    /// Appends what a text's parts give together, in the order of the parts.
    fn join(self, held: Held, outputs: &mut Outputs) {
        let parts = held.values.into_iter().flatten();
        let Self::Mean { dims, normalize } = self else {
            return outputs.classes.extend(parts.flatten());
        };
        if held.weights.len() == 1 {
            outputs.dense.extend(parts.flatten());
        } else {
            outputs.dense.extend(weighted_mean(dims, normalize, parts.zip(held.weights)));
        }
        outputs.dense_bounds.push(outputs.dense.len() as u32 / dims.max(1));
    }
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

    #[test]
    fn windows_are_scaled_before_they_are_added_where_the_model_scales() {
        let part = |index| Part { index, of: 2, weight: 1 };
        let mut joining = Joining::mean(2, true);
        let rows = joining.handle_rows(&batch(&[(0, part(0), [3.0, 0.0]), (0, part(1), [0.0, 9.0])]));
        assert_eq!(rows.dense(rows.rows[0], 2), [0.5, 0.5]);
    }
}
