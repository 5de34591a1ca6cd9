//! What became of one text.

use shoal_protocol::ErrorCode;

use super::answer::{Answer, Vector};

/// What became of one text.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemResult {
    /// Answered.
    Answered {
        /// Tokens that the model saw, special tokens included.
        tokens: u32,
        /// Whether the text was cut to the limit.
        truncated: bool,
        /// What the model answered.
        answer: Answer,
    },
    /// Failed by itself; the others proceed.
    Failed {
        /// Why.
        code: ErrorCode,
        /// For people.
        message: String,
        /// Tokens of the text, where they were counted (else 0).
        tokens: u32,
        /// The limit in tokens that it broke (else 0).
        limit: u32,
    },
}

impl ItemResult {
    /// Tokens that the model saw: 0 for a failed item.
    #[must_use]
    pub fn tokens_seen(&self) -> u32 {
        match self {
            Self::Answered { tokens, .. } => *tokens,
            Self::Failed { .. } => 0,
        }
    }

    /// The dense vector, if this is an answer that has one.
    #[must_use]
    pub fn vector(&self) -> Option<&Vector> {
        match self {
            Self::Answered { answer: Answer::Vectors(vectors), .. } => vectors.dense.as_ref(),
            Self::Answered { .. } | Self::Failed { .. } => None,
        }
    }
}

/// A document's place among those that were scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Its position among the documents.
    pub index: u64,
    /// Its score.
    pub score: f32,
}

/// The documents that have a score: best first, equal ones in input order.
#[must_use]
pub fn ranking(items: &[ItemResult]) -> Vec<Ranked> {
    let scored = |(index, item): (u64, &ItemResult)| match item {
        ItemResult::Answered { answer: Answer::Score(score), .. } => Some(Ranked { index, score: *score }),
        ItemResult::Answered { .. } | ItemResult::Failed { .. } => None,
    };
    let mut ranking: Vec<_> = (0..).zip(items).filter_map(scored).collect();
    rank(&mut ranking);
    ranking
}

/// Puts the best first; equal ones stay in order.
pub fn rank(scored: &mut [Ranked]) {
    // Scores are numbers (`TaskResult::check`), so that this is a total order; -0 equals 0.
    scored.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_comes_first_and_equal_ones_as_they_came() {
        let scored =
            |score| ItemResult::Answered { tokens: 3, truncated: false, answer: Answer::Score(score) };
        let failed =
            ItemResult::Failed { code: ErrorCode::TooLong, message: String::new(), tokens: 9, limit: 8 };
        let items = [scored(-1.0), scored(0.0), failed, scored(2.5), scored(-0.0), scored(2.5)];
        let ranked: Vec<_> = ranking(&items).iter().map(|ranked| ranked.index).collect();
        assert_eq!(ranked, [3, 5, 1, 4, 0]);
    }
}
