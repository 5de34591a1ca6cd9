//! Models on disk: the catalogue says what a model is made of, [`ModelStore::resolve`] says where it lies.
//!
//! Installed files live in `<models_dir>/<name>/<digest>/`, where the digest covers the names and hashes of the files:
//! a directory is complete from the moment it exists and never changes, so nothing is hashed at start.

mod catalogue;
mod error;
pub mod pull;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use shoal_kernels::{CONFIG_FILES, DescribeError, DtypePolicy, Matryoshka, ModelDescription, Prompts};

pub use catalogue::{Card, CatalogueEntry, ModelFile, Source, Task};
pub use error::StoreError;

use crate::config::StoreConfig;

/// A model that is on this machine, ready to be described and loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedModel {
    /// Canonical name.
    pub name: String,
    /// Other names that reach it.
    pub aliases: Vec<String>,
    /// The directory, in Hugging Face layout.
    pub dir: PathBuf,
    /// The number format that its catalogue entry asks for; `None`: the device's configuration decides.
    pub dtype: Option<DtypePolicy>,
    /// To which widths its vectors may be cut, as its catalogue entry says; `None`: as its files do.
    pub matryoshka: Option<Matryoshka>,
    /// Prompts that its catalogue entry has, beside those of its files.
    pub prompts: Prompts,
    /// Its catalogue entry says that it ranks texts.
    pub ranks: bool,
}

impl ResolvedModel {
    /// What its files say, read as its catalogue entry says.
    ///
    /// # Errors
    /// See [`DescribeError`].
    pub fn describe(&self) -> Result<ModelDescription, DescribeError> {
        if self.ranks {
            ModelDescription::of_reranker(&self.dir)
        } else {
            ModelDescription::from_dir(&self.dir)
        }
    }
}

/// A model that is known by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownModel {
    /// Canonical name.
    pub name: String,
    /// Other names that reach it.
    pub aliases: Vec<String>,
    /// What the catalogue says of it; empty for a directory of the configuration.
    pub card: Card,
    /// Where its files may come from, for people.
    pub sources: Vec<String>,
    /// Where it lies; `None`: it is in the catalogue but not installed (`shoal pull` fetches it).
    pub dir: Option<PathBuf>,
    /// Bytes of its files: on disk if installed, else to fetch; 0 where nobody says.
    pub bytes: u64,
}

/// The models that this machine knows. Reading only: never touches the network.
#[derive(Clone, Debug)]
pub struct ModelStore {
    config: StoreConfig,
    entries: BTreeMap<String, CatalogueEntry>,
}

impl ModelStore {
    /// Reads the catalogue: the entries that come with the binary, then the user's own, which win by name.
    ///
    /// # Errors
    /// An entry of the user is unreadable or wrong; the error names file, line and key.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let entries = catalogue::read(&config.catalogue_dir)?;
        Ok(Self { config, entries })
    }

    /// Finds a model by its name or an alias. Paths are not names: only directories that the configuration lists are
    /// served, so a remote caller cannot make the node read a directory of its choice.
    ///
    /// # Errors
    /// Nobody knows the name, or the model is not installed.
    pub fn resolve(&self, name: &str) -> Result<ResolvedModel, StoreError> {
        let of_config = self
            .config
            .local
            .iter()
            .find(|local| local.name == name || local.aliases.iter().any(|alias| alias == name));
        if let Some(local) = of_config {
            return Ok(ResolvedModel {
                name: local.name.clone(),
                aliases: local.aliases.clone(),
                dir: local.dir.clone(),
                dtype: None,
                matryoshka: None,
                prompts: Prompts::default(),
                ranks: false,
            });
        }
        let entry = self.entry(name)?;
        let dir = self.installed(entry).ok_or_else(|| StoreError::NotInstalled {
            name: entry.name.clone(),
            sources: entry.sources.iter().map(Source::describe).collect(),
        })?;
        Ok(ResolvedModel {
            name: entry.name.clone(),
            aliases: entry.aliases.clone(),
            dir,
            dtype: entry.dtype,
            matryoshka: entry.matryoshka.clone(),
            prompts: entry.prompts.clone(),
            ranks: entry.card.task == Some(Task::Rerank),
        })
    }

    /// Every model that has a name, in order of name.
    #[must_use]
    pub fn list(&self) -> Vec<KnownModel> {
        let of_config = self.config.local.iter().map(|local| KnownModel {
            name: local.name.clone(),
            aliases: local.aliases.clone(),
            card: Card::default(),
            sources: vec![format!("directory {}", local.dir.display())],
            dir: Some(local.dir.clone()),
            bytes: bytes_of(&local.dir),
        });
        let of_catalogue = self.entries.values().map(|entry| KnownModel {
            name: entry.name.clone(),
            aliases: entry.aliases.clone(),
            card: entry.card.clone(),
            sources: entry.sources.iter().map(Source::describe).collect(),
            bytes: match self.installed(entry) {
                Some(dir) if entry.files.is_empty() => bytes_of(&dir),
                _ => entry.bytes(),
            },
            dir: self.installed(entry),
        });
        let mut models: Vec<_> = of_config.chain(of_catalogue).collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models.dedup_by(|later, first| later.name == first.name);
        models
    }

    /// The catalogue's entry of this name or alias.
    ///
    /// # Errors
    /// There is none.
    pub fn entry(&self, name: &str) -> Result<&CatalogueEntry, StoreError> {
        let by_alias = || self.entries.values().find(|entry| entry.aliases.iter().any(|alias| alias == name));
        self.entries.get(name).or_else(by_alias).ok_or_else(|| StoreError::Unknown {
            name: name.to_owned(),
            known: self.list().into_iter().map(|model| model.name).collect(),
        })
    }

    /// How the store is configured.
    #[must_use]
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// Where an entry's files are, or will be once they are complete.
    fn install_dir(&self, entry: &CatalogueEntry) -> PathBuf {
        self.config.models_dir.join(&entry.name).join(entry.digest())
    }

    /// A local source's directory, or the installed one.
    fn installed(&self, entry: &CatalogueEntry) -> Option<PathBuf> {
        let dirs = entry.sources.iter().filter_map(|source| match source {
            Source::Directory { path } => Some(path.clone()),
            _ => None,
        });
        // sentence-transformers once kept the encoder in a folder of its own, so that the root has no config.json.
        let holds = |dir: &PathBuf, name: &str| dir.join(name).is_file();
        let is_model =
            |dir: &PathBuf| CONFIG_FILES.iter().chain(&["modules.json"]).any(|name| holds(dir, name));
        dirs.chain([self.install_dir(entry)]).find(is_model)
    }
}

/// Bytes of the files of a directory and its subdirectories; what cannot be read counts as nothing.
fn bytes_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.filter_map(Result::ok).map(|entry| {
        let path = entry.path();
        // Files of a Hugging Face snapshot are links to blobs, so links are followed; directories are not, so that
        // a link to a parent cannot loop.
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir { bytes_of(&path) } else { std::fs::metadata(&path).map_or(0, |data| data.len()) }
    });
    sizes.sum()
}
