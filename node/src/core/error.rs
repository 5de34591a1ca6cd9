//! Why a request was refused, or ended without its results.

use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::{Bytes, ErrorCode};

use super::admission::RETRY_AFTER_MAX;

/// The end of a request that got no (further) results. Whatever the variant, the request holds nothing any more:
/// its permit is released and its queued items are dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A bound is reached. Nothing was done; try elsewhere now, or here after the measured hint.
    #[error("the device is full ({what}); retry in {} ms", retry_after.as_millis())]
    Overloaded {
        /// The bound: `requests`, `bytes`, `tokens`, `standing queue`, `earlier promises`, or one of the shell's.
        what: &'static str,
        /// When the measured drain rate will have made room, at most 120 s.
        retry_after: Duration,
    },
    /// The request alone is over a bound of this device, also when it is idle. Nothing was done; split it.
    #[error("a request of {asked} {what} can never be admitted here (limit {limit}); split it")]
    TooLarge {
        /// The unit: `bytes` or `tokens`.
        what: &'static str,
        /// What the request asked for.
        asked: u64,
        /// The bound.
        limit: u64,
    },
    /// By the measured rate the result would come after the deadline. Nothing was done.
    #[error("would take {} ms, longer than its deadline allows", predicted.as_millis())]
    DeadlineUnreachable {
        /// Time to the predicted completion.
        predicted: Duration,
        /// When the same request with the same time to its deadline would be met, at most 120 s; `None` if an
        /// idle device would miss it too.
        retry_after: Option<Duration>,
    },
    /// The deadline passed first, or would before the next batch ends. Unstarted items were dropped; results of running
    /// ones will be.
    #[error("the deadline passed before the work was done")]
    Expired,
    /// The device takes no new work, or left before this request was done. Ask another node.
    #[error("the node is leaving; ask another")]
    Draining,
    /// The node is leaving and another holds the model: the request waited for its turn, and nothing of it was done. Ask
    /// one of those.
    #[error("the node is leaving, and another holds the model")]
    HeldElsewhere,
    /// The model does not fit beside the pinned ones, however much is evicted. Nothing was done; give the device a
    /// larger budget or use a smaller dtype.
    #[error("the model needs {needed}, but at most {available} can be made free")]
    ModelTooLarge {
        /// Bytes of the model (measured if it was ever loaded, else estimated).
        needed: Bytes,
        /// The budget less the pinned models.
        available: Bytes,
    },
    /// The load failed, now or a moment ago. The model is not resident; a new load is tried after the backoff.
    #[error("loading the model failed: {reason}")]
    LoadFailed {
        /// What the loader said it was.
        code: ErrorCode,
        /// For people.
        reason: Arc<str>,
        /// The rest of the backoff, at most 60 s.
        retry_after: Duration,
    },
    /// A lane hung or faulted under the work, twice under this request or without a remedy. Repeat it elsewhere.
    #[error("the device failed under the work and is being restarted")]
    DeviceFailed,
    /// The device could not run the batch, and would not another time. It is as it was; nothing was done of this request's.
    #[error("{reason}")]
    Refused {
        /// What kind of refusal it is.
        code: ErrorCode,
        /// For people.
        reason: Arc<str>,
    },
    /// The model key is none of this device's: a fault of the shell. Nothing was done.
    #[error("the device has no such model registered")]
    UnknownModel,
}

impl RequestError {
    /// The code on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::TooLarge { .. } => ErrorCode::InvalidRequest,
            Self::DeadlineUnreachable { retry_after: Some(_), .. } => ErrorCode::Overloaded,
            Self::DeadlineUnreachable { retry_after: None, .. } | Self::Expired => {
                ErrorCode::DeadlineExceeded
            }
            Self::Draining => ErrorCode::Draining,
            Self::HeldElsewhere => ErrorCode::Redirect,
            Self::ModelTooLarge { .. } => ErrorCode::ModelUnsupported,
            Self::LoadFailed { code, .. } | Self::Refused { code, .. } => *code,
            Self::DeviceFailed => ErrorCode::DeviceFailed,
            Self::UnknownModel => ErrorCode::Internal,
        }
    }

    /// When another attempt here is worth while, where that is known: at most 120 s, because client libraries take
    /// a longer one for "do not retry".
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let hint = match self {
            Self::Overloaded { retry_after, .. } | Self::LoadFailed { retry_after, .. } => Some(*retry_after),
            Self::DeadlineUnreachable { retry_after, .. } => *retry_after,
            Self::TooLarge { .. }
            | Self::Expired
            | Self::Draining
            | Self::HeldElsewhere
            | Self::ModelTooLarge { .. }
            | Self::DeviceFailed
            | Self::Refused { .. }
            | Self::UnknownModel => None,
        };
        hint.map(|hint| hint.min(RETRY_AFTER_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_bounded_and_makes_a_late_answer_a_retry() {
        let hour = Duration::from_secs(3600);
        let late = |retry_after| RequestError::DeadlineUnreachable { predicted: hour, retry_after };
        assert_eq!(late(Some(hour)).retry_after(), Some(RETRY_AFTER_MAX));
        assert_eq!(
            (late(Some(hour)).code(), late(None).code()),
            (ErrorCode::Overloaded, ErrorCode::DeadlineExceeded)
        );
        assert_eq!((late(None).retry_after(), RequestError::Draining.retry_after()), (None, None));
    }
}
