//! The Hugging Face cache: `models--<org>--<name>/{blobs,refs,snapshots}` as `huggingface_hub` keeps it, read and
//! written in the same layout, so that no tool fetches what another has
//! (<https://huggingface.co/docs/hub/local-cache>).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::staging::verify;
use super::{ModelFile, SourceError};
use crate::store::catalogue::{hex, is_plain_name};

/// Snapshots that are looked through for a file.
const SNAPSHOTS_MAX: usize = 256;

/// One repository in the cache.
pub(super) struct HubCache {
    cache_dir: PathBuf,
    folder: String,
}

impl HubCache {
    pub(super) fn new(cache_dir: &Path, repository: &str) -> Self {
        Self { cache_dir: cache_dir.to_owned(), folder: format!("models--{}", repository.replace('/', "--")) }
    }

    fn repository(&self) -> PathBuf {
        self.cache_dir.join(&self.folder)
    }

    /// A file with the right content, whichever snapshot it belongs to.
    pub(super) fn find(&self, file: &ModelFile) -> Result<PathBuf, SourceError> {
        // Large files are stored under their SHA-256; small ones under their git hash, found through the snapshots.
        let blob = file.sha256.map(|sha256| self.blob(&hex(&sha256)));
        let snapshots = fs::read_dir(self.repository().join("snapshots"));
        let in_snapshots = snapshots
            .into_iter()
            .flatten()
            .take(SNAPSHOTS_MAX)
            .filter_map(Result::ok)
            .map(|snapshot| snapshot.path().join(&file.path));
        blob.into_iter()
            .chain(in_snapshots)
            .filter(|path| fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() == file.bytes))
            .find(|path| verify(file, path).is_ok())
            .ok_or_else(|| SourceError::Missing { path: file.path.clone() })
    }

    /// The files of a commit, or of what a branch last stood at.
    pub(super) fn snapshot(&self, revision: &str) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.repository().join("refs").join(revision));
        let commit = commit.map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned());
        let snapshot = self.repository().join("snapshots").join(&commit);
        (is_plain_name(&commit) && snapshot.is_dir()).then_some(snapshot)
    }

    /// Where the content with this ETag is kept.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.repository().join("blobs").join(etag)
    }

    /// Where it grows while it arrives; a later pull goes on from there.
    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.repository().join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Keeps other tools from fetching the same content at the same time: the lock that `huggingface_hub` takes.
    pub(super) fn lock(&self, etag: &str) -> Result<File, SourceError> {
        let blobs = self.repository().join("blobs");
        fs::create_dir_all(&blobs).map_err(SourceError::io(&blobs))?;
        let dir = self.cache_dir.join(".locks").join(&self.folder);
        let path = dir.join(format!("{etag}.lock"));
        let locked = fs::create_dir_all(&dir).and_then(|()| {
            let file = File::create(&path)?;
            file.lock()?;
            Ok(file)
        });
        locked.map_err(SourceError::io(path))
    }

    /// Makes a complete blob appear as `path` of the commit's snapshot.
    pub(super) fn publish(&self, etag: &str, commit: &str, path: &str) -> Result<(), SourceError> {
        let pointer = self.repository().join("snapshots").join(commit).join(path);
        let up = "../".repeat(2 + path.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        let made = pointer.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
            match fs::symlink_metadata(&pointer) {
                Ok(_) => Ok(()),
                Err(_) => link(&target, &pointer, &self.blob(etag)),
            }
        });
        made.map_err(SourceError::io(pointer))
    }

    /// Notes which commit a branch stood at.
    pub(super) fn note_ref(&self, revision: &str, commit: &str) -> Result<(), SourceError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.repository().join("refs").join(revision);
        let written =
            path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, commit));
        written.map_err(SourceError::io(path))
    }
}

#[cfg(unix)]
fn link(target: &Path, pointer: &Path, _blob: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

#[cfg(not(unix))]
fn link(_target: &Path, pointer: &Path, blob: &Path) -> io::Result<()> {
    fs::copy(blob, pointer).map(|_| ())
}
