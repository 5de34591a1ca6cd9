//! Why something failed, as a number that machines branch on, with what a caller may do about it.

use rkyv::{Archive, Deserialize, Serialize};

/// What a caller may do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request can never succeed: change it.
    Never,
    /// Nothing was done: ask another node now, or this one after the hint that came with the error.
    Later,
    /// This attempt is lost but the request is sound: try again elsewhere at once.
    Elsewhere,
}

/// Why a request or one of its items failed. The number is the wire form and is never reused.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ErrorCode {
    /// The request breaks a rule of the protocol or of the API. Nothing was done.
    InvalidRequest = 1,
    /// A text is longer than the model's limit and truncation was not asked for. Only that item failed.
    TooLong = 2,
    /// No model of that name is known here. Nothing was done.
    ModelNotFound = 3,
    /// The model exists but can never be served here: architecture, dtype or files. Nothing was done.
    ModelUnsupported = 4,
    /// The model's files are damaged or unreadable; the load failed and may be tried again once repaired.
    ModelBroken = 5,
    /// Admission refused: queue, byte budget or memory. Nothing was done; the retry hint is measured.
    Overloaded = 6,
    /// The deadline passed, or could not be met, before the work was done. No result is coming.
    DeadlineExceeded = 7,
    /// The caller went away or cancelled. Unstarted work was dropped.
    Cancelled = 8,
    /// The node takes no new work because it is leaving. Nothing was done.
    Draining = 9,
    /// A device failed under the work (hang, fault) and was restarted. The work may be repeated elsewhere.
    DeviceFailed = 10,
    /// The peer may not do this with its certificate's role. Nothing was done.
    Forbidden = 11,
    /// A fault in the node itself; reported so that nothing is lost silently. The work may be repeated.
    Internal = 12,
    /// No node answered: none could be reached, or every attempt was lost on its way. The work may be repeated.
    Unavailable = 13,
    /// Another node would do it sooner: the places that come with the answer. Nothing was done.
    Redirect = 14,
    /// The model is being loaded here and is ready after the hint. Nothing was done.
    Loading = 15,
}

impl ErrorCode {
    /// Every code, in wire order.
    pub const ALL: [Self; 15] = [
        Self::InvalidRequest,
        Self::TooLong,
        Self::ModelNotFound,
        Self::ModelUnsupported,
        Self::ModelBroken,
        Self::Overloaded,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::Draining,
        Self::DeviceFailed,
        Self::Forbidden,
        Self::Internal,
        Self::Unavailable,
        Self::Redirect,
        Self::Loading,
    ];

    /// The stable name used in JSON and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::TooLong => "too_long",
            Self::ModelNotFound => "model_not_found",
            Self::ModelUnsupported => "model_unsupported",
            Self::ModelBroken => "model_broken",
            Self::Overloaded => "overloaded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::Draining => "draining",
            Self::DeviceFailed => "device_failed",
            Self::Forbidden => "forbidden",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Redirect => "redirect",
            Self::Loading => "loading",
        }
    }

    /// What the caller may do.
    #[must_use]
    pub const fn retry(self) -> Retry {
        match self {
            Self::InvalidRequest
            | Self::TooLong
            | Self::ModelNotFound
            | Self::ModelUnsupported
            | Self::DeadlineExceeded
            | Self::Cancelled
            | Self::Forbidden => Retry::Never,
            Self::Overloaded | Self::Draining | Self::Redirect | Self::Loading => Retry::Later,
            Self::ModelBroken | Self::DeviceFailed | Self::Internal | Self::Unavailable => Retry::Elsewhere,
        }
    }
}
