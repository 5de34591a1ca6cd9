//! Labels of tokens to labelled spans, as the `simple` strategy of `transformers`' token classification does it: each
//! token has its best label, and neighbours with the same one are a span unless a label says that a new one begins.
//!
//! Words are not made whole: where the pieces of a word disagree, it is cut between them. A model whose labels are BILOU or
//! BIOES is read as these schemes mean them, where `transformers` takes `L-` and `U-` for part of the name.

use shoal_protocol::message::Span;

use crate::tasks::extract::softmax;
use crate::tasks::tokenizer::TokenPlace;

/// No entity.
const OUTSIDE: &str = "O";

/// What the label of a token says about the span that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    /// Position among the names of entities; `None` where there is no entity.
    name: Option<u32>,
    /// It is the first token of its span.
    begins: bool,
}

/// A model's labels, understood.
#[derive(Debug)]
pub(crate) struct Tags {
    /// By the label's position.
    tags: Vec<Tag>,
    /// The entities, each once, in the order of the labels.
    names: Vec<String>,
}

impl Tags {
    /// Understands BIO, BILOU and BIOES prefixes, and plain names.
    pub(crate) fn of(labels: &[String]) -> Self {
        let has = |prefix| labels.iter().any(|label| label.starts_with(prefix));
        let has_units = has("B-") && (has("U-") || has("S-"));
        let mut names = Vec::new();
        let tags = labels.iter().map(|label| {
            let (begins, name) = match label.split_once('-') {
                Some(("B", name)) => (true, name),
                Some(("I", name)) => (false, name),
                Some(("U" | "S", name)) if has_units => (true, name),
                Some(("L" | "E", name)) if has_units => (false, name),
                _ => (false, label.as_str()),
            };
            let position = |names: &[String]| names.iter().position(|known| known == name);
            let name = (name != OUTSIDE).then(|| {
                let at = position(&names).unwrap_or_else(|| {
                    names.push(name.to_owned());
                    names.len() - 1
                });
                at as u32
            });
            Tag { name, begins }
        });
        let tags = tags.collect();
        Self { tags, names }
    }

    /// Labels of a token.
    pub(crate) fn len(&self) -> usize {
        self.tags.len()
    }

    /// What spans may be.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }
}

/// The spans of a text from the logits `[tokens, labels]` of its tokens, in the order of the text. Special tokens are in
/// none and end none.
pub(crate) fn spans_of(tags: &Tags, logits: &[f32], places: &[TokenPlace]) -> impl Iterator<Item = Span> {
    let mut open: Option<Open> = None;
    let mut closed = Vec::new();
    let mut scores = Vec::new();
    for (logits, place) in logits.chunks_exact(tags.len()).zip(places) {
        if place.is_special() {
            continue;
        }
        scores.clear();
        scores.extend_from_slice(logits);
        softmax(&mut scores);
        // The first of equal ones, as numpy's argmax.
        let best = (1..scores.len()).fold(0, |best, at| if scores[at] > scores[best] { at } else { best });
        let (tag, score) = (tags.tags[best], scores[best]);
        match &mut open {
            Some(span) if span.tag.name == tag.name && !tag.begins => {
                span.end = place.end;
                span.sum += f64::from(score);
                span.tokens += 1;
            }
            _ => {
                let next = Open { tag, start: place.start, end: place.end, sum: f64::from(score), tokens: 1 };
                closed.extend(open.replace(next));
            }
        }
    }
    closed.into_iter().chain(open).filter_map(Open::close)
}

/// A span that may go on.
struct Open {
    tag: Tag,
    start: u32,
    end: u32,
    sum: f64,
    tokens: u32,
}

impl Open {
    fn close(self) -> Option<Span> {
        #[expect(clippy::cast_possible_truncation, reason = "a mean of f32 scores")]
        let score = (self.sum / f64::from(self.tokens)) as f32;
        self.tag.name.map(|label| Span { start: self.start, end: self.end, label, score })
    }
}

#[cfg(test)]
mod tests;
