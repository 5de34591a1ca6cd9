//! From a TOML file to an entry that keeps every rule.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use shoal_kernels::{CONFIG_FILES, Matryoshka, Prompts};

use super::{Card, CatalogueEntry, ModelFile, Source, Task, unhex};
use crate::config::Source as ConfigSource;
use crate::store::StoreError;

/// Widths of a real model; a longer list is taken for a mistake.
const WIDTHS_MAX: usize = 64;
/// Bytes of one prompt.
const PROMPT_BYTES_MAX: usize = 4096;

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
    #[serde(default)]
    family: String,
    task: Option<Task>,
    dims: Option<u32>,
    tokens_max: Option<u32>,
    parameters: Option<u64>,
    #[serde(default)]
    verified: bool,
    dtype: Option<String>,
    matryoshka_dimensions: Option<Vec<u32>>,
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    default_prompt: Option<String>,
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

/// Reads one entry.
pub(super) fn entry(source: &ConfigSource, file: &Path) -> Result<CatalogueEntry, StoreError> {
    let raw: RawEntry = source.parse()?;
    raw.into_entry(source).map_err(|message| StoreError::Entry { file: file.to_owned(), message })
}

impl RawEntry {
    fn into_entry(self, source: &ConfigSource) -> Result<CatalogueEntry, String> {
        if self.version != 1 {
            return Err(format!("version = {}: this build reads version 1", self.version));
        }
        if !is_plain_name(&self.name) {
            return Err(format!(
                "name = {:?}: must be 1 to 128 of a-z, A-Z, 0-9, '-', '_', '.', and not start with '.'",
                self.name
            ));
        }
        let dtype = self.dtype.as_deref().map(str::parse).transpose();
        let mut files = self.files.into_iter().map(model_file).collect::<Result<Vec<_>, _>>()?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        self.sources.iter().try_for_each(|source| check_source(source, files.is_empty()))?;
        if !files.is_empty() && !files.iter().any(|file| CONFIG_FILES.contains(&file.path.as_str())) {
            return Err(format!("files: {} must be among them", CONFIG_FILES.join(" or ")));
        }
        Ok(CatalogueEntry {
            dtype: dtype.map_err(|error| format!("dtype: {error}"))?,
            matryoshka: self.matryoshka_dimensions.map(matryoshka).transpose()?,
            prompts: prompts(self.prompts, self.default_prompt)?,
            name: self.name,
            aliases: self.aliases,
            card: Card {
                description: self.description,
                licence: self.licence,
                family: self.family,
                task: self.task,
                dims: self.dims,
                tokens_max: self.tokens_max,
                parameters: self.parameters,
                verified: self.verified,
            },
            sources: self.sources.into_iter().map(|found| in_place(found, source)).collect(),
            files,
        })
    }
}

/// Names of repositories and revisions become URLs and file names, so only plain ones are taken.
fn check_source(source: &Source, unlisted: bool) -> Result<(), String> {
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
        // The index keeps no promise of its own about what is in a wheel.
        Source::Wheel { .. } if unlisted => {
            Err("files: a model that comes in a wheel must list its files with their hashes".into())
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

fn prompts(by_name: BTreeMap<String, String>, default_name: Option<String>) -> Result<Prompts, String> {
    if let Some((name, _)) = by_name.iter().find(|(_, prompt)| prompt.len() > PROMPT_BYTES_MAX) {
        return Err(format!("prompts.{name}: must be at most {PROMPT_BYTES_MAX} bytes"));
    }
    match default_name {
        Some(name) if !by_name.contains_key(&name) => {
            Err(format!("default_prompt = {name:?}: must be one of the entry's prompts"))
        }
        default_name => Ok(Prompts { by_name, default_name }),
    }
}

fn model_file(raw: RawFile) -> Result<ModelFile, String> {
    let plain = raw.path.split('/').all(is_plain_name) && raw.path.len() <= 256;
    if !plain {
        return Err(format!("files: path {:?} is not a plain relative path", raw.path));
    }
    let sha256 = unhex(&raw.sha256)
        .ok_or_else(|| format!("files: {}: sha256 must be 64 hexadecimal digits", raw.path))?;
    Ok(ModelFile { path: raw.path, sha256: Some(sha256), bytes: raw.bytes })
}

/// A single component that is safe as a file name everywhere.
pub(in crate::store) fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}
