//! The extract primitive: what of a text has which label, or which labels the text has.

use std::collections::BTreeSet;

use rkyv::{Archive, Deserialize, Serialize};

use crate::limits::{LABEL_BYTES_MAX, LABELS_BYTES_MAX, LABELS_MAX, PROMPT_BYTES_MAX, SPANS_PER_ITEM_MAX};
use crate::message::task::{ItemWork, Numerics, Truncate, bounds_hold};

/// What to extract.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct ExtractOptions {
    /// What to look for, where the model takes labels. Empty: the model's own labels.
    pub labels: Vec<String>,
    /// What a model of entailment is asked about a label, which stands for `{}`. `None`: "This example is {}."
    pub hypothesis: Option<String>,
    /// Whether labels that the model does not know hold whatever the others do; else exactly one of them holds, of a text or
    /// of a span.
    pub multi_label: bool,
    /// Whether a span may lie inside of another, where the model finds spans by the caller's labels.
    pub nested: bool,
    /// Leave out what scores less. `None`: the model's own rule.
    pub threshold: Option<f32>,
    /// The model's raw outputs, without the activation that its files name.
    pub raw: bool,
    /// What to do with long texts.
    pub truncate: Truncate,
    /// The precision class in which the model must run.
    pub numerics: Numerics,
}

impl ExtractOptions {
    /// What is asked about a label.
    #[must_use]
    pub fn hypothesis_of(&self, label: &str) -> String {
        self.hypothesis.as_deref().unwrap_or("This example is {}.").replacen("{}", label, 1)
    }

    /// A model of entailment reads a text once for each label, with what is asked about it.
    pub(crate) fn item_work(&self) -> ItemWork {
        let asked = self.hypothesis.as_deref().map_or(0, str::len);
        let bytes_beside = self.labels.iter().map(|label| (label.len() + asked) as u64).sum();
        ItemWork { times: self.labels.len().max(1) as u64, bytes_beside }
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        labels_hold(&self.labels)?;
        if self.labels.iter().any(|label| label.trim().is_empty()) {
            return Err("an empty label");
        }
        if self.labels.iter().collect::<BTreeSet<_>>().len() < self.labels.len() {
            return Err("the same label twice");
        }
        if let Some(hypothesis) = &self.hypothesis {
            if hypothesis.len() > PROMPT_BYTES_MAX {
                return Err("hypothesis too long");
            }
            if hypothesis.matches("{}").count() != 1 {
                return Err("a hypothesis without one {} for the label");
            }
        }
        if self.threshold.is_some_and(|threshold| !threshold.is_finite()) {
            return Err("a threshold that is no number");
        }
        Ok(())
    }
}

fn labels_hold(labels: &[String]) -> Result<(), &'static str> {
    if labels.len() > LABELS_MAX {
        return Err("too many labels");
    }
    if labels.iter().any(|label| label.len() > LABEL_BYTES_MAX) {
        return Err("a label too long");
    }
    if labels.iter().map(String::len).sum::<usize>() > LABELS_BYTES_MAX {
        return Err("labels too long together");
    }
    Ok(())
}

/// A stretch of a text with a label.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// First Unicode code point of the caller's text.
    pub start: u32,
    /// The one after the last.
    pub end: u32,
    /// Position in the block's labels.
    pub label: u32,
    /// How sure the model is.
    pub score: f32,
}

/// Spans of some texts.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct SpanBlock {
    /// The labels that spans name.
    pub labels: Vec<String>,
    /// After which span each text's end.
    pub ends: Vec<u32>,
    /// The spans of each text, in the order of the text.
    pub spans: Vec<Span>,
}

impl SpanBlock {
    pub(crate) fn is_sound(&self, rows: usize) -> bool {
        let is_sound = |span: &Span| {
            span.start <= span.end && (span.label as usize) < self.labels.len() && span.score.is_finite()
        };
        bounds_hold(&self.ends, rows, self.spans.len(), SPANS_PER_ITEM_MAX)
            && labels_hold(&self.labels).is_ok()
            && self.spans.iter().all(is_sound)
    }
}

/// A score of each label for each of some texts.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct ClassBlock {
    /// The labels.
    pub labels: Vec<String>,
    /// `[rows, labels]`.
    pub scores: Vec<f32>,
}

impl ClassBlock {
    pub(crate) fn is_sound(&self, rows: usize) -> bool {
        labels_hold(&self.labels).is_ok()
            && self.scores.len() == rows * self.labels.len()
            && self.scores.iter().all(|score| score.is_finite())
    }
}
