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
