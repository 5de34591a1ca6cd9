//! Why a call failed as a whole.

use std::time::Duration;

use shoal_protocol::ErrorCode;

use super::router::NoRoute;

/// Why a call failed as a whole. The items that were handed out before it stay answered; no other item will be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The call breaks a limit and was not sent: change it.
    #[error("invalid request: {what}")]
    Invalid {
        /// The rule that is broken.
        what: &'static str,
    },
    /// A node refused or failed the work and trying again was not allowed or did not help.
    #[error("{}: {message}", code.as_str())]
    Refused {
        /// Why.
        code: ErrorCode,
        /// The node's words.
        message: String,
        /// When another call is worth while, as the node measured it.
        retry_after: Option<Duration>,
    },
    /// The deadline passed first; what ran at the node was cancelled.
    #[error("deadline exceeded with {answered} items answered")]
    DeadlineExceeded {
        /// Items that were answered in time, up to the first that was not.
        answered: u64,
    },
    /// No node could be reached for as long as the call was willing to wait; nothing is running.
    #[error("unreachable: {what}")]
    Unreachable {
        /// What the last try met.
        what: String,
    },
    /// Attempts were lost: node after node died or fell silent under a part, or broke the protocol more often than the
    /// retry budget allows.
    #[error("gave up after {attempts} attempts: {what}")]
    Lost {
        /// Attempts at the part that gave up.
        attempts: u32,
        /// What the last one met.
        what: String,
    },
    /// No device can take the work, and waiting did not mend it or cannot; nothing is running.
    #[error("model `{model}`: {why}")]
    NoRoute {
        /// The model as it was asked for.
        model: String,
        /// Why none can.
        why: NoRoute,
    },
    /// The model fails to load wherever it was tried: repair its files.
    #[error("{cause} (the model does not load on any of {nodes} nodes tried)")]
    NeverLoads {
        /// Nodes on which it failed.
        nodes: u32,
        /// What the last one met.
        cause: String,
    },
    /// The calling thread is in no tokio runtime, which the client needs for its timers.
    #[error("a client must be used inside a tokio runtime")]
    NoRuntime,
}

impl ClientError {
    /// The code under which the failure is counted and reported.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. } => ErrorCode::InvalidRequest,
            Self::Refused { code, .. } => *code,
            Self::DeadlineExceeded { .. } => ErrorCode::DeadlineExceeded,
            Self::Unreachable { .. } | Self::Lost { .. } => ErrorCode::Unavailable,
            Self::NoRoute { why, .. } => why.code(),
            Self::NeverLoads { .. } => ErrorCode::ModelBroken,
            Self::NoRuntime => ErrorCode::Internal,
        }
    }

    /// When another call is worth while, where a node said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
