//! Parses and checks one safetensors header.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read},
    ops::Range,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

use super::{error::HeaderError, storage::Storage};

/// A header longer than this is refused unread. A tensor takes about 120 bytes, so this is room for 100,000.
pub(crate) const HEADER_BYTES_MAX: u64 = 16 << 20;
/// The little-endian length that precedes the header.
const LENGTH_BYTES: u64 = 8;

/// Where one tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    pub(crate) storage: Storage,
    pub(crate) shape: Vec<u64>,
    /// Bytes of the file, not of its data section.
    pub(crate) range: Range<u64>,
}

/// Every tensor of one file, by name. The ranges tile the file from the end of the header to its last byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    /// Reads the header of a file of `file_bytes` bytes; reads nothing behind it.
    pub(crate) fn read(file: &mut impl Read, file_bytes: u64) -> io::Result<Result<Self, HeaderError>> {
        if file_bytes < LENGTH_BYTES {
            return Ok(Err(HeaderError::TooShort { file_bytes }));
        }
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length)?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > HEADER_BYTES_MAX {
            return Ok(Err(HeaderError::TooLong { header_bytes, max: HEADER_BYTES_MAX }));
        }
        if header_bytes > file_bytes - LENGTH_BYTES {
            return Ok(Err(HeaderError::Truncated { header_bytes, file_bytes }));
        }
        let mut json = vec![0; header_bytes as usize];
        file.read_exact(&mut json)?;
        Ok(Self::check(&json, file_bytes))
    }

    fn check(json: &[u8], file_bytes: u64) -> Result<Self, HeaderError> {
        let RawHeader(raw) =
            serde_json::from_slice(json).map_err(|error| HeaderError::Json { reason: error.to_string() })?;
        let data_start = LENGTH_BYTES + json.len() as u64;
        check_tiling(&raw, file_bytes - data_start)?;
        let tensors = raw.into_iter().map(|(name, tensor)| {
            let info = tensor.resolve(&name, data_start)?;
            Ok((name, info))
        });
        Ok(Self { tensors: tensors.collect::<Result<_, _>>()? })
    }
}

/// Every byte of the data belongs to exactly one tensor; the format demands it so that nothing hides in a file.
fn check_tiling(raw: &BTreeMap<String, RawTensor>, data_bytes: u64) -> Result<(), HeaderError> {
    let mut in_order = raw.iter().collect::<Vec<_>>();
    in_order.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut expected = 0;
    for (name, tensor) in in_order {
        let [begin, end] = tensor.data_offsets;
        if end < begin {
            return Err(HeaderError::Reversed { tensor: name.clone(), begin, end });
        }
        if begin != expected {
            return Err(HeaderError::NotContiguous { tensor: name.clone(), begin, expected });
        }
        expected = end;
    }
    if expected != data_bytes {
        return Err(HeaderError::DataLength { tensors_end: expected, data_bytes });
    }
    Ok(())
}

/// One entry as the file spells it. Unknown fields are refused: the format defines exactly these three.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl RawTensor {
    fn resolve(self, name: &str, data_start: u64) -> Result<TensorInfo, HeaderError> {
        let Self { dtype, shape, data_offsets: [begin, end] } = self;
        let tensor = || name.to_owned();
        let Some(storage) = Storage::parse(&dtype) else {
            return Err(HeaderError::UnknownDtype { tensor: tensor(), dtype });
        };
        let needed = shape.iter().try_fold(storage.bytes(), |bytes, &size| bytes.checked_mul(size));
        let Some(needed) = needed else {
            return Err(HeaderError::ShapeOverflow { tensor: tensor(), shape });
        };
        let given = end - begin;
        if needed != given {
            return Err(HeaderError::Length { tensor: tensor(), needed, given });
        }
        // Cannot overflow: the tiling has shown that `end` lies inside the file.
        Ok(TensorInfo { storage, shape, range: data_start + begin..data_start + end })
    }
}

/// The header's object: serde's own maps would let the last of two equal names win.
struct RawHeader(BTreeMap<String, RawTensor>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawHeader, A::Error> {
        let mut tensors = BTreeMap::new();
        let mut metadata = false;
        while let Some(name) = entries.next_key::<String>()? {
            let duplicate = if name == "__metadata__" {
                entries.next_value::<IgnoredAny>()?;
                std::mem::replace(&mut metadata, true)
            } else {
                let tensor = entries
                    .next_value::<RawTensor>()
                    .map_err(|error| A::Error::custom(format_args!("tensor {name:?}: {error}")))?;
                tensors.insert(name.clone(), tensor).is_some()
            };
            if duplicate {
                return Err(A::Error::custom(format_args!("{name:?} occurs twice")));
            }
        }
        Ok(RawHeader(tensors))
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
