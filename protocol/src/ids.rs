//! Names of nodes, requests, batches and devices.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};

/// A node: the first 16 bytes of the SHA-256 of its TLS public key (SubjectPublicKeyInfo).
/// An address is never an identity, because spot machines reuse addresses.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NodeId(pub [u8; 16]);

/// The order of the bytes, compared as one number: ids are the keys of most maps of a member, and a call of `memcmp` for
/// each step of a search was an eighth of what hearing of a load cost.
impl Ord for NodeId {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
    }
}

impl PartialOrd for NodeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One request of a caller: 8 bytes that are unique at the caller, then the first 8 bytes of the [`NodeId`]
/// that answered last (zero while nobody has), so that `explain` knows whom to ask.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub [u8; 16]);

/// One packed batch of one device; counts up from 1, so it doubles as the proof of progress in beacons.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
)]
pub struct BatchId(pub u64);

/// A device of a node, in the order in which the node lists its devices.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
)]
pub struct DeviceIndex(pub u16);

/// A device of the mesh: where an attempt goes.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Its device.
    pub device: DeviceIndex,
}

/// Text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 hexadecimal digits")]
pub struct ParseIdError;

pub(crate) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// `None` unless the text is exactly two hexadecimal digits for each byte.
pub(crate) fn read_hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * BYTES {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

macro_rules! hex_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                read_hex(text).map(Self).ok_or(ParseIdError)
            }
        }
    };
}

hex_id!(NodeId);
hex_id!(RequestId);

impl RequestId {
    /// A request that no node has answered yet. `unique` comes from the caller's own source of chance.
    #[must_use]
    pub fn new(unique: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&unique.to_be_bytes());
        Self(bytes)
    }

    /// The same request, now answered by `node`.
    #[must_use]
    pub fn answered_by(mut self, node: NodeId) -> Self {
        self.0[8..].copy_from_slice(&node.0[..8]);
        self
    }

    /// The part that the caller chose: equal for every attempt of one request.
    #[must_use]
    pub fn unique(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(bytes)
    }

    /// Whether a node has answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.0[8..] != [0; 8]
    }

    /// Whether `node` is the one that answered last.
    #[must_use]
    pub fn is_answered_by(&self, node: NodeId) -> bool {
        self.0[8..] == node.0[..8]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse_back() {
        let node = NodeId([0xab; 16]);
        assert_eq!(node.to_string().parse(), Ok(node));
        assert_eq!("xy".parse::<NodeId>(), Err(ParseIdError));
        assert_eq!("é".repeat(16).parse::<NodeId>(), Err(ParseIdError));
    }

    #[test]
    fn an_answered_request_keeps_its_unique_part() {
        let node = NodeId([7; 16]);
        let request = RequestId::new(42).answered_by(node);
        assert_eq!(request.unique(), 42);
        assert!(request.is_answered_by(node));
        assert!(request.is_answered());
        let open = RequestId::new(42);
        assert!(!open.is_answered_by(node) && !open.is_answered());
    }
}
