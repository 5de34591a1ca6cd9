//! Reads small JSON files of untrusted content.

use std::{io, path::Path};

use serde::de::DeserializeOwned;

use super::DescribeError;
use crate::files::read_bounded;

/// Larger than any real configuration.
pub(super) const BYTES_MAX: u64 = 4 << 20;

/// A file that must be there.
pub(super) fn required<T: DeserializeOwned>(path: &Path, bytes_max: u64) -> Result<T, DescribeError> {
    let bytes = read_bounded(path, bytes_max)
        .map_err(|source| DescribeError::Io { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| DescribeError::Json { path: path.to_owned(), reason: error.to_string() })
}

/// A file that need not be there.
pub(super) fn optional<T: DeserializeOwned>(path: &Path, bytes_max: u64) -> Result<Option<T>, DescribeError> {
    match required(path, bytes_max) {
        Ok(value) => Ok(Some(value)),
        Err(DescribeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
