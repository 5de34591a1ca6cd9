//! Numbers with which streams are reset and connections closed. Wire form: never reused.

use quinn::VarInt;

/// Why a stream was reset or a connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Code {
    /// Nothing is wrong: the sender has no further use for it.
    Done = 0,
    /// The caller no longer wants the answer.
    Cancelled = 1,
    /// A fault at the sender.
    Internal = 2,
    /// What came was not a frame, or not one that belongs there.
    Protocol = 3,
    /// No wire version in common.
    Version = 4,
    /// The certificate's role does not allow it.
    Forbidden = 5,
    /// The sender takes no further connections now.
    Overloaded = 6,
    /// The sender is leaving.
    Leaving = 7,
    /// The peer took too long to say what it owed.
    Slow = 8,
    /// The node to which the stream was forwarded is gone.
    Lost = 9,
    /// A number from a newer version.
    Unknown = u32::MAX,
}

impl Code {
    const ALL: [Self; 10] = [
        Self::Done,
        Self::Cancelled,
        Self::Internal,
        Self::Protocol,
        Self::Version,
        Self::Forbidden,
        Self::Overloaded,
        Self::Leaving,
        Self::Slow,
        Self::Lost,
    ];
}

impl From<Code> for VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(code as u32)
    }
}

impl From<VarInt> for Code {
    fn from(number: VarInt) -> Self {
        let known = Self::ALL.into_iter().find(|code| *code as u64 == number.into_inner());
        known.unwrap_or(Self::Unknown)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Done => "no longer needed",
            Self::Cancelled => "cancelled",
            Self::Internal => "fault at the peer",
            Self::Protocol => "not a frame that belongs there",
            Self::Version => "no wire version in common",
            Self::Forbidden => "role not allowed",
            Self::Overloaded => "overloaded",
            Self::Leaving => "the peer is leaving",
            Self::Slow => "too slow",
            Self::Lost => "lost behind the peer",
            Self::Unknown => "unknown reason",
        })
    }
}
