//! The 16 bytes in front of every frame, written by hand so that they can be read before anything is trusted.
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 2 | magic | `SH` |
//! | 2 | 1 | hops | how often the frame was forwarded, at most [`HOPS_MAX`] |
//! | 3 | 1 | flags | zero: none are defined, and a set bit is refused |
//! | 4 | 2 | kind | [`Kind`], little-endian |
//! | 6 | 2 | schema | wire version of the body, little-endian |
//! | 8 | 4 | length | bytes of the body, little-endian |
//! | 12 | 4 | check | low 32 bits of the FNV-1a hash of bytes 0..12: a lost frame boundary is noticed at once |

use crate::limits::{
    CONTROL_BODY_BYTES_MAX, EXPLANATION_BODY_BYTES_MAX, FACTS_BODY_BYTES_MAX, HOPS_MAX, JOIN_BODY_BYTES_MAX,
    REQUEST_BODY_BYTES_MAX, RESULT_BODY_BYTES_MAX, STATUS_BODY_BYTES_MAX,
};

const MAGIC: [u8; 2] = *b"SH";

/// What a frame's body holds. The number is the wire form and is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Kind {
    /// First frame of a connection, both ways.
    Hello = 1,
    /// Texts and what to do with them; first frame of an attempt's stream.
    TaskRequest = 2,
    /// Answers to some items of the attempt.
    TaskResult = 3,
    /// Proof of progress while the attempt is queued or its model loads.
    Beacon = 4,
    /// Terminal: the attempt is complete. Carries timings.
    End = 5,
    /// Terminal: the attempt failed as a whole.
    Error = 6,
    /// A device's load, for routing and as keep-alive.
    Load = 7,
    /// Asks a node for its status.
    StatusRequest = 8,
    /// A node's status.
    Status = 9,
    /// A node's own facts, whole.
    Facts = 10,
    /// A change of a node's own facts.
    FactsDelta = 11,
    /// Which versions of everybody's facts the sender holds.
    FactsDigest = 12,
    /// Asks a node for its own facts.
    FactsPull = 13,
    /// Asks a device for its load; a datagram.
    LoadProbe = 14,
    /// A device's load, asked for; a datagram.
    LoadReply = 15,
    /// A right to ask for a certificate. Printed, and part of a request; never sent alone.
    JoinToken = 16,
    /// Asks for a first certificate.
    JoinRequest = 17,
    /// Asks for the next certificate of the same key.
    RenewRequest = 18,
    /// Terminal: a certificate.
    JoinGrant = 19,
    /// Terminal: no certificate, and why.
    JoinRefusal = 20,
    /// Asks a member to load a model.
    LoadRequest = 21,
    /// Who is there and how loaded, for a follower.
    MeshUpdate = 22,
    /// Asks why a request ran where it did.
    ExplainRequest = 23,
    /// Terminal: what a node remembers of a request.
    Explanation = 24,
    /// Asks a node to leave. Answered with its status.
    DrainRequest = 25,
}

impl Kind {
    /// Every kind, in wire order.
    pub const ALL: [Self; 25] = [
        Self::Hello,
        Self::TaskRequest,
        Self::TaskResult,
        Self::Beacon,
        Self::End,
        Self::Error,
        Self::Load,
        Self::StatusRequest,
        Self::Status,
        Self::Facts,
        Self::FactsDelta,
        Self::FactsDigest,
        Self::FactsPull,
        Self::LoadProbe,
        Self::LoadReply,
        Self::JoinToken,
        Self::JoinRequest,
        Self::RenewRequest,
        Self::JoinGrant,
        Self::JoinRefusal,
        Self::LoadRequest,
        Self::MeshUpdate,
        Self::ExplainRequest,
        Self::Explanation,
        Self::DrainRequest,
    ];

    /// Bytes that a body of this kind may have.
    #[must_use]
    pub const fn body_bytes_max(self) -> u32 {
        match self {
            Self::TaskRequest => REQUEST_BODY_BYTES_MAX,
            Self::TaskResult => RESULT_BODY_BYTES_MAX,
            Self::Status => STATUS_BODY_BYTES_MAX,
            Self::Explanation => EXPLANATION_BODY_BYTES_MAX,
            Self::Facts | Self::FactsDelta | Self::FactsDigest | Self::MeshUpdate => FACTS_BODY_BYTES_MAX,
            Self::JoinToken
            | Self::JoinRequest
            | Self::RenewRequest
            | Self::JoinGrant
            | Self::JoinRefusal => JOIN_BODY_BYTES_MAX,
            Self::Hello
            | Self::Beacon
            | Self::End
            | Self::Error
            | Self::Load
            | Self::StatusRequest
            | Self::FactsPull
            | Self::LoadProbe
            | Self::LoadReply
            | Self::LoadRequest
            | Self::ExplainRequest
            | Self::DrainRequest => CONTROL_BODY_BYTES_MAX,
        }
    }

    /// Whether no frame may follow on the stream. A stream that ends without one of these has failed.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::End | Self::Error | Self::Status | Self::JoinGrant | Self::JoinRefusal | Self::Explanation
        )
    }
}

/// The decoded 16 bytes. A value of this type is within every limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub kind: Kind,
    /// Wire version of the body's layout.
    pub schema: u16,
    /// Bytes of the body.
    pub length: u32,
    /// Forwardings so far.
    pub hops: u8,
}

/// Why 16 bytes are not a header. The stream has lost its framing and must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The peer does not speak this protocol.
    #[error("not a Shoal frame: starts with {0:02x?}")]
    Magic([u8; 2]),
    /// Bytes were damaged or the boundary between frames was lost.
    #[error("frame header fails its check")]
    Check,
    /// A flag that this version does not know may change the meaning of the frame.
    #[error("unknown frame flags {0:#04x}")]
    Flags(u8),
    /// A frame that was forwarded too often: a routing loop.
    #[error("frame took {0} hops, at most {HOPS_MAX} allowed")]
    Hops(u8),
    /// A kind from a newer version.
    #[error("unknown frame kind {0}")]
    Kind(u16),
    /// Larger than this kind may be.
    #[error("{kind:?} frame of {length} bytes, at most {max} allowed")]
    TooLarge {
        /// What the body would have been.
        kind: Kind,
        /// What the header says.
        length: u32,
        /// What is allowed.
        max: u32,
    },
}

impl Header {
    /// Size on the wire.
    pub const BYTES: usize = 16;

    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0..2].copy_from_slice(&MAGIC);
        out[2] = self.hops;
        out[4..6].copy_from_slice(&(self.kind as u16).to_le_bytes());
        out[6..8].copy_from_slice(&self.schema.to_le_bytes());
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        let check = fnv1a(&out[..12]);
        out[12..16].copy_from_slice(&check.to_le_bytes());
        out
    }

    /// Reads 16 untrusted bytes.
    ///
    /// # Errors
    /// Every error means that the stream can no longer be trusted to be framed; see [`HeaderError`].
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, HeaderError> {
        let [m0, m1, hops, flags, k0, k1, s0, s1, l0, l1, l2, l3, c0, c1, c2, c3] = *bytes;
        if [m0, m1] != MAGIC {
            return Err(HeaderError::Magic([m0, m1]));
        }
        if u32::from_le_bytes([c0, c1, c2, c3]) != fnv1a(&bytes[..12]) {
            return Err(HeaderError::Check);
        }
        if flags != 0 {
            return Err(HeaderError::Flags(flags));
        }
        if hops > HOPS_MAX {
            return Err(HeaderError::Hops(hops));
        }
        let number = u16::from_le_bytes([k0, k1]);
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u16 == number);
        let kind = kind.ok_or(HeaderError::Kind(number))?;
        let (length, max) = (u32::from_le_bytes([l0, l1, l2, l3]), kind.body_bytes_max());
        if length > max {
            return Err(HeaderError::TooLarge { kind, length, max });
        }
        Ok(Self { kind, schema: u16::from_le_bytes([s0, s1]), length, hops })
    }
}

/// FNV-1a, 32 bits (draft-eastlake-fnv): enough to notice a lost boundary, not a defence; TLS is that.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

const _: () = assert!(Header::BYTES == 2 + 1 + 1 + 2 + 2 + 4 + 4, "the fields fill the header");

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header { kind: Kind::TaskRequest, schema: 1, length: 77, hops: 1 }
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().encode();
        assert_eq!(bytes[..12], [b'S', b'H', 1, 0, 2, 0, 1, 0, 77, 0, 0, 0]);
        assert_eq!(Header::decode(&bytes), Ok(sample()));
    }

    #[test]
    fn every_damaged_bit_is_refused() {
        let bytes = sample().encode();
        for bit in 0..Header::BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn limits_are_checked_before_the_body() {
        let over = Header { length: REQUEST_BODY_BYTES_MAX + 1, ..sample() };
        assert!(matches!(Header::decode(&over.encode()), Err(HeaderError::TooLarge { .. })));
        let looped = Header { hops: HOPS_MAX + 1, ..sample() };
        assert_eq!(Header::decode(&looped.encode()), Err(HeaderError::Hops(HOPS_MAX + 1)));
    }
}
