//! The extract primitive: labels of whole texts, and labelled spans in them.

mod found;

use std::sync::Arc;

use shoal_kernels::{OutputSet, SpanRule, SpanTexts};
use shoal_protocol::message::{Answers, ClassBlock, ExtractOptions, SpanBlock};

use crate::tasks::ask::{Abilities, Answering, AskError};
use crate::tasks::extract::found::{FoundGather, Overlaps};
use crate::tasks::frames::{Gather, not_a_number};
use crate::tasks::joining::{Entailment, Joining};
use crate::tasks::reading::{Preparation, Reading};
use crate::tasks::rows::{Row, Rows};
use crate::tasks::score::sigmoid;
use crate::tasks::spans::{Tags, spans_of};
use crate::tasks::tokenizer::{ItemFailure, LabelPrompt, TokenPlace};

/// How a model extracts.
#[derive(Debug)]
pub(crate) enum Extracting {
    /// A label for each token.
    Spans(SpanGather),
    /// The caller's labels for spans of words.
    Found(FoundGather),
    /// Labels of the text.
    Classes(ClassGather),
}

/// Holds a request against a model.
///
/// # Errors
/// See [`AskError`].
pub(super) fn ask(
    options: ExtractOptions,
    abilities: Abilities<'_>,
) -> Result<(OutputSet, Reading, Answering), AskError> {
    let Abilities { gives, labels, multi_label, .. } = abilities;
    if let Some(texts) = abilities.span_texts {
        return spans_of_words(options, texts, gives);
    }
    if options.nested {
        return Err(AskError::NoNesting { gives });
    }
    // A reranker's one label is an answer about a query, and here is none.
    let gives = OutputSet { classes: gives.classes && abilities.pair_template.is_none(), ..gives };
    let are_own = options.labels.iter().all(|label| labels.contains(label));
    if gives.classes
        && !are_own
        && let Some(holds) = entailment_of(labels)
    {
        return about_labels(options, abilities, holds);
    }
    if options.hypothesis.is_some() || options.multi_label {
        return Err(AskError::NoHypotheses { gives });
    }
    if gives.token_classes {
        if options.raw {
            return Err(AskError::RawSpans);
        }
        let tags = Tags::of(labels);
        let kept = chosen(&options.labels, tags.names())?;
        let wanted = OutputSet { token_classes: true, ..OutputSet::NONE };
        let threshold = options.threshold.unwrap_or(f32::NEG_INFINITY);
        let spans = SpanGather { tags, kept, threshold, block: SpanBlock::default() };
        return Ok((wanted, Reading::Placed, Answering::Extracts(Extracting::Spans(spans))));
    }
    if gives.classes {
        let kept = chosen(&options.labels, labels)?;
        let means = match (options.raw, multi_label || labels.len() == 1) {
            (true, _) => Means::Raw,
            (false, true) => Means::Sigmoid,
            (false, false) => Means::Softmax,
        };
        let wanted = OutputSet { classes: true, ..OutputSet::NONE };
        let classes = ClassGather { labels: labels.to_vec(), kept, means, scores: Vec::new() };
        let classes = Answering::Extracts(Extracting::Classes(classes));
        return Ok((wanted, Reading::Alone(Preparation::default()), classes));
    }
    Err(AskError::NoHead { task: "extract", gives })
}

/// A threshold where none is given: as the reference of GLiNER has it.
const THRESHOLD: f32 = 0.5;

/// A model that reads a text behind the labels that it looks for.
fn spans_of_words(
    options: ExtractOptions,
    texts: &SpanTexts,
    gives: OutputSet,
) -> Result<(OutputSet, Reading, Answering), AskError> {
    let ExtractOptions { labels, multi_label: every_label, nested, threshold, .. } = options;
    if labels.is_empty() {
        return Err(AskError::NoLabels);
    }
    if options.hypothesis.is_some() {
        return Err(AskError::NoHypotheses { gives });
    }
    if options.raw {
        return Err(AskError::RawSpans);
    }
    let rule = SpanRule { threshold: threshold.unwrap_or(THRESHOLD), every_label };
    let prompt = Arc::new(LabelPrompt::new(texts.clone(), &labels));
    let gather = FoundGather::new(labels, Overlaps { nested, every_label });
    let answering =
        Answering::Joined(Joining::spans(), Box::new(Answering::Extracts(Extracting::Found(gather))));
    let wanted = OutputSet { spans: true, ..OutputSet::NONE };
    Ok((wanted, Reading::Labelled { prompt, rule }, answering))
}

/// The label of a model of entailment that says that a text entails a hypothesis, as the pipeline of transformers finds it.
fn entailment_of(labels: &[String]) -> Option<usize> {
    let is_it = |label: &String| label.to_lowercase().starts_with("entail");
    labels.iter().position(is_it).filter(|_| labels.len() > 1)
}

/// Labels that the model does not know are hypotheses about the text (Yin et al. 2019): of one alone, or where several may
/// hold, entailment is weighed against contradiction; else the labels against each other.
fn about_labels(
    options: ExtractOptions,
    abilities: Abilities<'_>,
    holds: usize,
) -> Result<(OutputSet, Reading, Answering), AskError> {
    if !abilities.takes_pairs {
        return Err(AskError::NoPairs);
    }
    let hypotheses =
        options.labels.iter().map(|label| options.hypothesis_of(label).into_boxed_str()).collect();
    let is_alone = options.multi_label || options.labels.len() == 1;
    let classes = abilities.labels.len();
    // As the pipeline of transformers has it: contradiction stands first, or last where entailment does.
    let less = is_alone.then_some(if holds == 0 { classes - 1 } else { 0 });
    let means = match (options.raw, is_alone) {
        (true, _) => Means::Raw,
        (false, true) => Means::Sigmoid,
        (false, false) => Means::Softmax,
    };
    let kept = (0..options.labels.len()).collect();
    let gather = ClassGather { labels: options.labels, kept, means, scores: Vec::new() };
    let answering = Answering::Extracts(Extracting::Classes(gather));
    let joining = Joining::entailment(Entailment { classes, holds, less });
    let wanted = OutputSet { classes: true, ..OutputSet::NONE };
    Ok((wanted, Reading::Hypotheses { hypotheses }, Answering::Joined(joining, Box::new(answering))))
}

/// Which of the model's labels a caller wants: those that it names, else all.
fn chosen(wanted: &[String], has: &[String]) -> Result<Vec<usize>, AskError> {
    if wanted.is_empty() {
        return Ok((0..has.len()).collect());
    }
    let find = |label: &String| {
        let unknown = || AskError::Label { label: label.clone(), known: has.to_vec() };
        has.iter().position(|own| own == label).ok_or_else(unknown)
    };
    wanted.iter().map(find).collect()
}

/// What becomes of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    Raw,
    Sigmoid,
    Softmax,
}

/// The spans of one frame.
#[derive(Debug)]
pub(crate) struct SpanGather {
    tags: Tags,
    /// Of the tags' names, by position.
    kept: Vec<usize>,
    threshold: f32,
    block: SpanBlock,
}

impl Gather for SpanGather {
    fn row_bytes(&self, _rows: &Rows, row: Row) -> usize {
        // No two spans share a token.
        row.tokens as usize * size_of::<shoal_protocol::message::Span>() + size_of::<u32>()
    }

    fn push(&mut self, rows: &Rows, row: Row, places: &[TokenPlace]) -> Result<(), ItemFailure> {
        let logits = rows.token_classes(row, self.tags.len());
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Err(not_a_number());
        }
        let spans = spans_of(&self.tags, logits, places);
        let wanted =
            spans.filter(|span| span.score >= self.threshold && self.kept.contains(&(span.label as usize)));
        self.block.spans.extend(wanted);
        self.block.ends.push(self.block.spans.len() as u32);
        Ok(())
    }

    fn take(&mut self) -> Answers {
        let SpanBlock { ends, spans, .. } = std::mem::take(&mut self.block);
        Answers::Spans(SpanBlock { labels: self.tags.names().to_vec(), ends, spans })
    }
}

/// The scores of labels of one frame.
#[derive(Debug)]
pub(crate) struct ClassGather {
    labels: Vec<String>,
    kept: Vec<usize>,
    means: Means,
    scores: Vec<f32>,
}

impl Gather for ClassGather {
    fn row_bytes(&self, _rows: &Rows, _row: Row) -> usize {
        self.kept.len() * size_of::<f32>()
    }

    fn push(&mut self, rows: &Rows, row: Row, _places: &[TokenPlace]) -> Result<(), ItemFailure> {
        let mut scores = rows.classes(row, self.labels.len()).to_vec();
        match self.means {
            Means::Raw => {}
            Means::Sigmoid => scores.iter_mut().for_each(|score| *score = sigmoid(*score)),
            Means::Softmax => softmax(&mut scores),
        }
        if !scores.iter().all(|score| score.is_finite()) {
            return Err(not_a_number());
        }
        self.scores.extend(self.kept.iter().map(|label| scores[*label]));
        Ok(())
    }

    fn take(&mut self) -> Answers {
        let labels = self.kept.iter().map(|label| self.labels[*label].clone()).collect();
        Answers::Classes(ClassBlock { labels, scores: std::mem::take(&mut self.scores) })
    }
}

/// In place; the largest logit becomes `exp(0)`, so that none overflows.
pub(super) fn softmax(logits: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|logit| *logit = (*logit - largest).exp());
    let sum: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|score| *score /= sum);
}

#[cfg(test)]
mod tests;
