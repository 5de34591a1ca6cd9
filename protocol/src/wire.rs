//! How a message becomes bytes and how version N lives beside N-1.
//!
//! Two peers agree in their hello on the highest wire version both speak. A message whose layout did not change
//! in that version has the same bytes; one that changed names its previous layout (`wire_message!`'s
//! `previous`), and is converted on the way out to an older peer and on the way in from one.

use rkyv::rancor;

use crate::header::{HeaderError, Kind};

/// The wire version that this build speaks.
pub const WIRE_VERSION: u16 = 1;
/// The oldest wire version that this build still speaks: never more than one behind.
pub const WIRE_VERSION_MIN: u16 = 1;

const _: () = assert!(WIRE_VERSION <= WIRE_VERSION_MIN + 1, "N and N-1, no more");

/// The wire versions that a peer speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// Oldest.
    pub min: u16,
    /// Newest.
    pub max: u16,
}

impl VersionRange {
    /// What this build speaks.
    pub const OURS: Self = Self { min: WIRE_VERSION_MIN, max: WIRE_VERSION };

    /// The newest version that both speak, or `None` where there is none and the connection must be refused.
    #[must_use]
    pub fn agree(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min && newest >= other.min).then_some(newest)
    }
}

/// Why bytes are not a message. The bytes came from outside; nothing of them was used.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The header is no header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The body is not as long as the header says.
    #[error("{kind:?} body has {got} bytes where its header says {want}")]
    Length {
        /// What the header announces.
        kind: Kind,
        /// Bytes present.
        got: usize,
        /// Bytes announced.
        want: u32,
    },
    /// The peer speaks a version that was not agreed on.
    #[error("{kind:?} of wire version {schema}: this node speaks {min} to {max}")]
    Schema {
        /// What the header announces.
        kind: Kind,
        /// Its version.
        schema: u16,
        /// The oldest version spoken here.
        min: u16,
        /// The newest version spoken here.
        max: u16,
    },
    /// The archive does not validate: damaged or hostile.
    #[error("{kind:?} body does not validate: {source}")]
    Archive {
        /// What the header announces.
        kind: Kind,
        /// What the validator found.
        source: rancor::Error,
    },
    /// The archive is sound, but a value is outside its limits.
    #[error("{kind:?}: {what}")]
    Limit {
        /// What the header announces.
        kind: Kind,
        /// The rule that is broken.
        what: &'static str,
    },
}

/// Why a message cannot be sent. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Serialisation failed: out of memory, or more than 2 GiB.
    #[error("{kind:?} cannot be serialised: {source}")]
    Archive {
        /// The message.
        kind: Kind,
        /// Why.
        source: rancor::Error,
    },
    /// The body is over its kind's limit: split it.
    #[error("{kind:?} body of {length} bytes, at most {max} allowed")]
    TooLarge {
        /// The message.
        kind: Kind,
        /// Its bytes.
        length: usize,
        /// The limit.
        max: u32,
    },
    /// The peer speaks only an older version, in which this message cannot be said.
    #[error("{kind:?} cannot be said in wire version {version}")]
    Unspeakable {
        /// The message.
        kind: Kind,
        /// The version agreed on.
        version: u16,
    },
}

/// A message with a wire form. Implemented with `wire_message!` only.
pub trait Wire: Sized {
    /// The kind in the header.
    const KIND: Kind;

    /// The body in wire version `version`.
    ///
    /// # Errors
    /// See [`EncodeError`]; nothing was sent.
    fn to_body(&self, version: u16) -> Result<rkyv::util::AlignedVec, EncodeError>;

    /// Validates and reads an untrusted body of wire version `version`. Reached through [`crate::decode`].
    ///
    /// # Errors
    /// See [`DecodeError`]; nothing of the bytes was used.
    fn from_body(version: u16, body: &[u8]) -> Result<Self, DecodeError>;
}

/// Gives a type its wire form.
///
/// `wire_message!(Hello, Kind::Hello)`: the layout is the same in every version spoken.
/// `wire_message!(Hello, Kind::Hello, since 2, previous HelloV1)`: version 2 changed it; `From<HelloV1> for Hello`
/// reads a peer of version 1, `TryFrom<&Hello> for HelloV1` speaks to one.
macro_rules! wire_message {
    ($type:ty, $kind:expr) => {
        impl $crate::wire::Wire for $type {
            const KIND: $crate::header::Kind = $kind;

            fn to_body(&self, _version: u16) -> Result<rkyv::util::AlignedVec, $crate::wire::EncodeError> {
                rkyv::to_bytes::<rkyv::rancor::Error>(self)
                    .map_err(|source| $crate::wire::EncodeError::Archive { kind: Self::KIND, source })
            }

            fn from_body(_version: u16, body: &[u8]) -> Result<Self, $crate::wire::DecodeError> {
                rkyv::from_bytes::<$type, rkyv::rancor::Error>(body)
                    .map_err(|source| $crate::wire::DecodeError::Archive { kind: Self::KIND, source })
            }
        }
    };
    ($type:ty, $kind:expr, since $since:literal, previous $previous:ty) => {
        impl $crate::wire::Wire for $type {
            const KIND: $crate::header::Kind = $kind;

            fn to_body(&self, version: u16) -> Result<rkyv::util::AlignedVec, $crate::wire::EncodeError> {
                let kind = Self::KIND;
                if version >= $since {
                    rkyv::to_bytes::<rkyv::rancor::Error>(self)
                } else {
                    let older = <$previous>::try_from(self)
                        .map_err(|_| $crate::wire::EncodeError::Unspeakable { kind, version })?;
                    rkyv::to_bytes::<rkyv::rancor::Error>(&older)
                }
                .map_err(|source| $crate::wire::EncodeError::Archive { kind, source })
            }

            fn from_body(version: u16, body: &[u8]) -> Result<Self, $crate::wire::DecodeError> {
                if version >= $since {
                    rkyv::from_bytes::<$type, rkyv::rancor::Error>(body)
                } else {
                    rkyv::from_bytes::<$previous, rkyv::rancor::Error>(body).map(<$type>::from)
                }
                .map_err(|source| $crate::wire::DecodeError::Archive { kind: Self::KIND, source })
            }
        }
    };
}
pub(crate) use wire_message;

#[cfg(test)]
mod tests;
