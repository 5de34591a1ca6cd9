//! What a pull wrote down about files that no catalogue entry lists.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ModelFile, SourceError, Staging};
use crate::store::catalogue::{hex, unhex};

/// Lies beside the files, in the model's directory.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::store) struct FileRecord {
    /// Where they came from.
    pub(super) source: String,
    files: Vec<Recorded>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Recorded {
    path: String,
    sha256: String,
    bytes: u64,
}

impl FileRecord {
    /// Its name in the model's directory.
    pub(super) const NAME: &str = "shoal.files.json";

    /// Of staged files.
    pub(super) fn of(source: String, files: Vec<ModelFile>, staging: &Staging) -> Result<Self, SourceError> {
        let recorded = staging.hashed(files)?.into_iter().map(|file| Recorded {
            path: file.path,
            sha256: hex(&file.sha256.unwrap_or_default()),
            bytes: file.bytes,
        });
        Ok(Self { source, files: recorded.collect() })
    }

    /// The files that a directory's record lists; none without one.
    pub(in crate::store) fn files_of(dir: &Path) -> Result<Vec<ModelFile>, SourceError> {
        let path = dir.join(Self::NAME);
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(SourceError::io(path)(error)),
        };
        let unreadable =
            |message: String| SourceError::Unreadable { path: path.display().to_string(), message };
        let record: Self = serde_json::from_slice(&json).map_err(|error| unreadable(error.to_string()))?;
        let files = record.files.into_iter().map(|file| {
            let sha256 = unhex(&file.sha256).ok_or_else(|| unreadable(format!("{}: no hash", file.path)))?;
            Ok(ModelFile { path: file.path, sha256: Some(sha256), bytes: file.bytes })
        });
        files.collect()
    }
}
