//! The keys that HTTP callers present: a file with one key a line.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use subtle::{Choice, ConstantTimeEq};

/// Bytes of the file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Shorter keys are guessable, so they are taken for a mistake.
const KEY_BYTES_MIN: usize = 16;

/// The keys of a file. Comparing takes the same time whether a key fits or not. Clones see a reload of each other.
#[derive(Clone)]
pub struct ApiKeys {
    file: Arc<KeyFile>,
}

struct KeyFile {
    path: PathBuf,
    keys: RwLock<Keys>,
}

#[derive(PartialEq)]
struct Keys {
    keys: Vec<Box<[u8]>>,
    readable_by_others: bool,
}

/// The key file cannot be used; the node does not start without it.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The file cannot be read.
    #[error("cannot read the API-key file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too large to be a list of keys.
    #[error("the API-key file {} has {bytes} bytes; at most {FILE_BYTES_MAX} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file holds no key.
    #[error("the API-key file {} holds no key; put one key on each line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A key is too short.
    #[error("{}:{line}: a key needs at least {KEY_BYTES_MIN} characters", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

impl ApiKeys {
    /// Reads a file with one key a line; blank lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// The file cannot be read, holds no key, or a key that is too short.
    pub fn read(path: &Path) -> Result<Self, ApiKeyError> {
        let keys = RwLock::new(Keys::read(path)?);
        Ok(Self { file: Arc::new(KeyFile { path: path.to_owned(), keys }) })
    }

    /// Reads the file again. Whether the keys are others than before.
    ///
    /// # Errors
    /// As [`read`](Self::read); the keys are then as they were.
    pub fn reload(&self) -> Result<bool, ApiKeyError> {
        let new = Keys::read(&self.file.path)?;
        let mut keys = self.file.keys.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *keys != new;
        *keys = new;
        Ok(changed)
    }

    /// Whether `presented` is one of the keys. Every key is compared, in constant time for keys of equal length.
    #[must_use]
    pub fn accepts(&self, presented: &[u8]) -> bool {
        let none = Choice::from(0);
        let hit = |keys: &Keys| keys.keys.iter().fold(none, |hit, key| hit | key.ct_eq(presented));
        self.with(hit).into()
    }

    /// Whether users other than the owner can read the file: worth a warning.
    #[must_use]
    pub fn readable_by_others(&self) -> bool {
        self.with(|keys| keys.readable_by_others)
    }

    fn with<T>(&self, read: impl FnOnce(&Keys) -> T) -> T {
        read(&self.file.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Keys {
    fn read(path: &Path) -> Result<Self, ApiKeyError> {
        let read = |source| ApiKeyError::Read { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(read)?;
        if metadata.len() > FILE_BYTES_MAX {
            return Err(ApiKeyError::TooLarge { path: path.to_owned(), bytes: metadata.len() });
        }
        let text = fs::read_to_string(path).map_err(read)?;
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let key = line.trim();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            if key.len() < KEY_BYTES_MIN {
                return Err(ApiKeyError::Short { path: path.to_owned(), line: index + 1 });
            }
            keys.push(key.as_bytes().into());
        }
        if keys.is_empty() {
            return Err(ApiKeyError::Empty { path: path.to_owned() });
        }
        Ok(Self { keys, readable_by_others: readable_by_others(&metadata) })
    }
}

impl std::fmt::Debug for ApiKeys {
    /// Never prints a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKeys({})", self.with(|keys| keys.keys.len()))
    }
}

#[cfg(unix)]
fn readable_by_others(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o077 != 0
}

#[cfg(not(unix))]
fn readable_by_others(_: &fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_of(text: &str) -> Result<ApiKeys, ApiKeyError> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("keys");
        fs::write(&file, text).expect("write");
        ApiKeys::read(&file)
    }

    #[test]
    fn only_listed_keys_are_accepted() {
        let keys = keys_of("# ours\n\n0123456789abcdef\n  fedcba9876543210  \n").expect("two keys");
        assert!(keys.accepts(b"0123456789abcdef") && keys.accepts(b"fedcba9876543210"));
        for other in ["", "0123456789abcde", "0123456789abcdef0", "# ours"] {
            assert!(!keys.accepts(other.as_bytes()), "{other:?}");
        }
        assert_eq!(format!("{keys:?}"), "ApiKeys(2)");
    }

    #[test]
    fn a_reload_revokes_and_a_useless_file_changes_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("keys");
        fs::write(&file, "0123456789abcdef\n").expect("write");
        let keys = ApiKeys::read(&file).expect("a key");
        let clone = keys.clone();
        assert!(!keys.reload().expect("read"), "nothing changed");
        fs::write(&file, "fedcba9876543210\n").expect("write");
        assert!(keys.reload().expect("read"));
        assert!(clone.accepts(b"fedcba9876543210") && !clone.accepts(b"0123456789abcdef"));
        fs::write(&file, "").expect("write");
        assert!(matches!(keys.reload(), Err(ApiKeyError::Empty { .. })));
        assert!(clone.accepts(b"fedcba9876543210"));
    }

    #[test]
    fn a_useless_file_is_refused() {
        assert!(matches!(keys_of("# nothing\n"), Err(ApiKeyError::Empty { .. })));
        assert!(matches!(keys_of("\nshort\n"), Err(ApiKeyError::Short { line: 2, .. })));
        let missing = ApiKeys::read(Path::new("/nonexistent/keys"));
        assert!(matches!(missing, Err(ApiKeyError::Read { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_noticed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("keys");
        fs::write(&file, "0123456789abcdef\n").expect("write");
        for (mode, expected) in [(0o600, false), (0o640, true), (0o604, true)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
            let keys = ApiKeys::read(&file).expect("a key");
            assert_eq!(keys.readable_by_others(), expected, "{mode:o}");
        }
    }
}
