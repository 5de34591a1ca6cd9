//! A directory that becomes the model by one rename, once every file in it is checked.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::record::FileRecord;
use super::{ModelFile, Progress, SourceError};
use crate::store::catalogue::hex;

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Removed with everything in it unless it was installed.
pub(super) struct Staging {
    target: PathBuf,
    files: PathBuf,
    scratch: PathBuf,
}

impl Staging {
    /// An empty staging directory beside `target`. What a killed pull left there is removed; the caller holds the lock.
    pub(super) fn create(target: &Path) -> io::Result<Self> {
        let beside = |suffix: &str| {
            let mut name = std::ffi::OsString::from(".");
            name.push(target.file_name().unwrap_or_default());
            name.push(suffix);
            target.with_file_name(name)
        };
        let staging =
            Self { target: target.to_owned(), files: beside(".incoming"), scratch: beside(".scratch") };
        staging.remove()?;
        fs::create_dir_all(&staging.files)?;
        fs::create_dir_all(&staging.scratch)?;
        Ok(staging)
    }

    /// A place for archives, removed with the rest.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Adds a file that lies elsewhere and was checked: a hard link where the file system allows it, so that nothing
    /// is stored twice, else a copy.
    pub(super) fn link(&self, file: &ModelFile, from: &Path) -> Result<(), SourceError> {
        let to = self.place(file)?;
        let from = fs::canonicalize(from).map_err(SourceError::io(from))?;
        if fs::hard_link(&from, &to).is_ok() {
            return Ok(());
        }
        let copied = fs::copy(&from, &to).and_then(|_| File::open(&to)?.sync_all());
        copied.map_err(SourceError::io(to))
    }

    /// Adds a file from a stream, checking it on the way.
    pub(super) fn write(
        &self,
        file: &ModelFile,
        content: &mut dyn Read,
        progress: &mut dyn Progress,
    ) -> Result<(), SourceError> {
        let to = self.place(file)?;
        let mut out = File::create(&to).map_err(SourceError::io(&to))?;
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut content = content.take(file.bytes.saturating_add(1));
        loop {
            let count = content.read(&mut chunk).map_err(SourceError::io(&file.path))?;
            if count == 0 {
                break;
            }
            hasher.update(&chunk[..count]);
            out.write_all(&chunk[..count]).map_err(SourceError::io(&to))?;
            progress.advance(count as u64);
        }
        out.sync_all().map_err(SourceError::io(&to))?;
        expect_hash(file, &hasher.finalize().into()).inspect_err(|_| drop(fs::remove_file(&to)))
    }

    /// What a staged file holds, if it is there and no longer than `bytes_max`.
    pub(super) fn read(&self, path: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let path = self.files.join(path);
        let mut content = Vec::new();
        match File::open(&path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut content)) {
            Ok(_) if content.len() as u64 > bytes_max => {
                let message = format!("longer than {bytes_max} bytes");
                Err(SourceError::Unreadable { path: path.display().to_string(), message })
            }
            Ok(_) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SourceError::io(path)(error)),
        }
    }

    /// Writes down what was fetched, with every file's hash, for whoever checks the model later.
    pub(super) fn record(&self, record: &FileRecord) -> Result<(), SourceError> {
        let path = self.files.join(FileRecord::NAME);
        let json = serde_json::to_vec_pretty(record).map_err(io::Error::from);
        let written = json.and_then(|json| {
            let mut file = File::create(&path)?;
            file.write_all(&json)?;
            file.sync_all()
        });
        written.map_err(SourceError::io(path))
    }

    /// The same files, each with its hash: those that nobody stated are counted from what is staged.
    pub(super) fn hashed(&self, files: Vec<ModelFile>) -> Result<Vec<ModelFile>, SourceError> {
        let hashed = files.into_iter().map(|file| {
            let sha256 = file.sha256.map_or_else(|| hash_of(&self.files.join(&file.path)), Ok)?;
            Ok(ModelFile { sha256: Some(sha256), ..file })
        });
        hashed.collect()
    }

    /// Empties it, for another source to begin anew.
    pub(super) fn clear(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.files)?;
        fs::create_dir_all(&self.files)
    }

    /// Makes the files durable and visible, all at once.
    pub(super) fn install(&self) -> io::Result<()> {
        sync_directories(&self.files)?;
        fs::rename(&self.files, &self.target)?;
        self.target.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }

    fn place(&self, file: &ModelFile) -> Result<PathBuf, SourceError> {
        let to = self.files.join(&file.path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(SourceError::io(parent))?;
        }
        Ok(to)
    }

    fn remove(&self) -> io::Result<()> {
        for dir in [&self.files, &self.scratch] {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(dir = %self.files.display(), %error, "cannot remove what an unfinished pull left");
        }
    }
}

/// A rename is durable only if the directory entries are.
fn sync_directories(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_directories(&entry.path())?;
        }
    }
    File::open(dir)?.sync_all()
}

/// Checks a file that is on disk: its length, and its hash where somebody stated one.
pub(in crate::store) fn verify(file: &ModelFile, path: &Path) -> Result<(), SourceError> {
    if file.sha256.is_some() {
        return expect_hash(file, &hash_of(path)?);
    }
    let found = fs::metadata(path).map_err(SourceError::io(path))?.len();
    if found == file.bytes {
        return Ok(());
    }
    Err(SourceError::Length { path: file.path.clone(), expected: file.bytes, found })
}

/// SHA-256 of a file.
fn hash_of(path: &Path) -> Result<[u8; 32], SourceError> {
    let mut content = File::open(path).map_err(SourceError::io(path))?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = content.read(&mut chunk).map_err(SourceError::io(path))?;
        if count == 0 {
            return Ok(hasher.finalize().into());
        }
        hasher.update(&chunk[..count]);
    }
}

fn expect_hash(file: &ModelFile, found: &[u8; 32]) -> Result<(), SourceError> {
    match &file.sha256 {
        Some(expected) if expected != found => {
            let (expected, found) = (hex(expected), hex(found));
            Err(SourceError::Mismatch { path: file.path.clone(), expected, found })
        }
        _ => Ok(()),
    }
}
