//! Certificates and keys on disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why an identity or an authority could not be made, written or read. Nothing half-written is left behind.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no such file: no identity was made yet, or it lies elsewhere.
    #[error("{path} does not exist: `shoal mesh init` makes an authority and first identities")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file exists: keys are never overwritten. Remove it if it is not needed, or choose another directory.
    #[error("{path} exists already and is not overwritten")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{path}: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Another process issues certificates from this directory: two would count the uses of tokens apart.
    #[error("{path}: another process issues certificates from this directory")]
    Busy {
        /// The file that it holds.
        path: PathBuf,
    },
    /// A certificate cannot be made or is not one of a mesh.
    #[error("certificate: {0}")]
    Certificate(String),
    /// A name that does not fit into a certificate.
    #[error("name {0:?}: 1 to 64 of a-z, A-Z, 0-9, '.', '-' and '_'")]
    Name(String),
}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error.to_string())
    }
}

pub(super) const CHAIN_FILE: &str = "identity.crt";
pub(super) const KEY_FILE: &str = "identity.key";
pub(super) const AUTHORITY_FILE: &str = "authority.crt";
pub(super) const ISSUERS_FILE: &str = "issuers";
pub(super) const LISTENING_FILE: &str = "listening";
pub(super) const SEEDS_FILE: &str = "seeds";

/// A file to be written.
pub(super) struct Written<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    /// Whether only its owner may read it.
    pub(super) secret: bool,
}

/// Writes all files or none. Existing ones are never overwritten.
pub(super) fn write_all(dir: &Path, files: &[Written<'_>]) -> Result<(), IdentityError> {
    std::fs::create_dir_all(dir).map_err(|source| IdentityError::Io { path: dir.to_owned(), source })?;
    let mut done = Vec::new();
    for file in files {
        let path = dir.join(file.name);
        if let Err(source) = write(&path, file, &mut done) {
            for written in &done {
                // The first error is the one to tell; what cannot be removed is named in no later step.
                let _ = std::fs::remove_file(written);
            }
            return Err(match source.kind() {
                io::ErrorKind::AlreadyExists => IdentityError::Exists { path },
                _ => IdentityError::Io { path, source },
            });
        }
    }
    sync_dir(dir).map_err(|source| IdentityError::Io { path: dir.to_owned(), source })
}

/// Replaces a file that others may read by a new one: whatever happens, one of the two is there, whole.
pub(super) fn replace(dir: &Path, name: &str, text: &str) -> Result<(), IdentityError> {
    let (path, new) = (dir.join(name), dir.join(format!("{name}.new")));
    let written = || {
        let mut out = File::create(&new)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&new, &path)?;
        sync_dir(dir)
    };
    written().map_err(|source| IdentityError::Io { path: path.clone(), source })
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// For `map_err`: a file that does not hold what it should.
pub(super) fn malformed<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> IdentityError {
    move |error| IdentityError::Malformed { path: path.to_owned(), what: error.to_string() }
}

fn write(path: &Path, file: &Written<'_>, done: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(if file.secret { 0o600 } else { 0o644 });
    }
    let mut out = options.open(path)?;
    done.push(path.to_owned());
    out.write_all(file.text.as_bytes())?;
    out.sync_all()
}

/// Files of identities are small; a larger one is something else.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Reads a file of PEM text.
pub(super) fn read(dir: &Path, name: &str) -> Result<(PathBuf, String), IdentityError> {
    let path = dir.join(name);
    let text = File::open(&path).and_then(|file| io::read_to_string(io::Read::take(file, FILE_BYTES_MAX)));
    match text {
        Ok(text) => Ok((path, text)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Err(IdentityError::Missing { path }),
        Err(source) => Err(IdentityError::Io { path, source }),
    }
}

/// Says so when a key can be read by others than its owner. Not an error: secrets that an orchestrator mounts are
/// often readable by their group.
pub(super) fn warn_if_exposed(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if let Ok(meta) = std::fs::metadata(path)
            && meta.permissions().mode() & 0o077 != 0
        {
            tracing::warn!(path = %path.display(), "private key can be read by other users: chmod 600");
        }
    }
}
