//! Scores of a caller's labels for spans of words.

use std::fmt;

use super::{
    Pooling, SpecError, multiple,
    validate::{HIDDEN_MAX, within},
};

/// Words of one span. Published models have 12.
const SPAN_WORDS_MAX: usize = 128;
/// How much wider the inside of a perceptron is than what it gives.
pub(crate) const INNER: usize = 4;

/// Labels stand in front of the words in one sequence, and each span of words is held against each label (GLiNER,
/// Zaratiana et al. 2024). The score is the sigmoid of the product of both vectors.
///
/// Every vector is `width` wide. A span's is made by perceptrons from its first and its last word (`markerV0` of the
/// reference), a label's by one from the token that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanHead {
    /// Hidden states of another width are projected to it.
    pub width: usize,
    /// How the tokens of a word become one.
    pub pooling: Pooling,
    /// Whether words read each other through an LSTM in both directions, each of half the width.
    pub recurrent: bool,
    /// Words of the longest span.
    pub words_max: usize,
}

impl SpanHead {
    pub(super) fn validate(self) -> Result<(), SpecError> {
        within("span width", self.width, HIDDEN_MAX)?;
        multiple(("span width", self.width), ("the two directions", 2))?;
        within("words of a span", self.words_max, SPAN_WORDS_MAX)
    }

    pub(super) fn parameters(self, hidden: usize) -> usize {
        let Self { width, recurrent, .. } = self;
        let affine = |inputs, outputs| (inputs + 1) * outputs;
        let perceptron = |inputs| affine(inputs, INNER * width) + affine(INNER * width, width);
        let projection = if width == hidden { 0 } else { affine(hidden, width) };
        let half = width / 2;
        let direction = affine(width, 4 * half) + affine(half, 4 * half);
        projection + if recurrent { 2 * direction } else { 0 } + 3 * perceptron(width) + perceptron(2 * width)
    }
}

impl fmt::Display for SpanHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, pooling, recurrent, words_max } = self;
        let lstm = if *recurrent { " -> lstm both ways" } else { "" };
        write!(
            f,
            "words ({pooling} of their tokens) of {width}{lstm} -> spans of up to {words_max} by labels"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_and_refusals_name_the_fields() {
        let head = SpanHead { width: 8, pooling: Pooling::Cls, recurrent: true, words_max: 12 };
        let perceptron = (8 + 1) * 32 + (32 + 1) * 8;
        let lstm = 2 * (16 * 8 + 16 * 4 + 2 * 16);
        let spans = (16 + 1) * 32 + (32 + 1) * 8;
        assert_eq!(head.parameters(8), lstm + 3 * perceptron + spans);
        let bare = SpanHead { recurrent: false, ..head };
        assert_eq!(bare.parameters(6), (6 + 1) * 8 + 3 * perceptron + spans);
        let refusal = |head: SpanHead| head.validate().expect_err("not valid").to_string();
        assert_eq!(refusal(SpanHead { width: 0, ..head }), "span width is 0; it must be positive");
        assert!(refusal(SpanHead { width: 7, ..head }).contains("is not a multiple of the two directions"));
        assert!(refusal(SpanHead { words_max: 129, ..head }).contains("the largest value covered is 128"));
        assert_eq!(head.validate(), Ok(()));
    }
}
