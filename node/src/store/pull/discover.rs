//! Which files make up a model whose entry lists none: those that its description reads, asked for by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use shoal_kernels::CONFIG_FILES;

use super::staging::Staging;
use super::{ModelFile, Progress, SourceError};
use crate::store::catalogue::is_plain_name;

/// Bytes of a file that names others.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Modules of one pipeline.
const MODULES_MAX: usize = 32;
/// Files over which the weights of one model are spread.
const SHARDS_MAX: usize = 64;

/// Beside the weights, where they exist.
const BESIDE: [&str; 3] = ["tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json"];
/// At the root, where they exist; the last two are heads of BGE-M3.
const AT_ROOT: [&str; 5] = [
    "config_sentence_transformers.json",
    "artifact.metadata",
    "chat_template.jinja",
    "sparse_linear.safetensors",
    "colbert_linear.safetensors",
];
const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
const NO_SAFETENSORS: &str =
    "only safetensors are read; convert the weights, or name a revision that has them";
const NO_TOKENIZER: &str = "save the model with a fast tokenizer of transformers, which writes it";

/// Where files are looked up by name.
pub(super) trait Shelf {
    /// Brings a file to this machine and says what it is; `None`: there is none of this name.
    fn find(
        &self,
        path: &str,
        progress: &mut dyn Progress,
    ) -> Result<Option<(ModelFile, PathBuf)>, SourceError>;
}

/// A snapshot in the Hugging Face cache.
pub(super) struct Snapshot(pub(super) PathBuf);

impl Shelf for Snapshot {
    fn find(&self, path: &str, _: &mut dyn Progress) -> Result<Option<(ModelFile, PathBuf)>, SourceError> {
        let place = self.0.join(path);
        match fs::metadata(&place) {
            Ok(data) if data.is_file() => {
                let file = ModelFile { path: path.to_owned(), sha256: None, bytes: data.len() };
                Ok(Some((file, place)))
            }
            _ => Ok(None),
        }
    }
}

/// `modules.json` of sentence-transformers.
#[derive(Deserialize)]
struct Module {
    path: String,
}

/// `model.safetensors.index.json`
#[derive(Deserialize)]
struct WeightsIndex {
    weight_map: BTreeMap<String, String>,
}

/// Stages every file of the model that `shelf` has.
pub(super) fn stage(
    shelf: &dyn Shelf,
    staging: &Staging,
    progress: &mut dyn Progress,
) -> Result<Vec<ModelFile>, SourceError> {
    let mut discovery = Discovery { shelf, staging, progress, files: Vec::new() };
    discovery.model()?;
    Ok(discovery.files)
}

struct Discovery<'a> {
    shelf: &'a dyn Shelf,
    staging: &'a Staging,
    progress: &'a mut dyn Progress,
    files: Vec<ModelFile>,
}

impl Discovery<'_> {
    fn model(&mut self) -> Result<(), SourceError> {
        let modules = self.modules()?;
        // The first module is the encoder, at the root in all but old layouts.
        let encoder = modules.first().map_or("", String::as_str);
        let beside = |name: &str| join(encoder, name);
        let mut configs = false;
        for name in CONFIG_FILES {
            configs |= self.optional(&beside(name))?;
        }
        if !configs {
            let hint = "is it a model, and is the revision right?";
            return Err(SourceError::Absent { path: beside(CONFIG_FILES[0]), hint });
        }
        self.require(&beside("tokenizer.json"), NO_TOKENIZER)?;
        for name in BESIDE {
            self.optional(&beside(name))?;
        }
        for name in AT_ROOT {
            self.optional(name)?;
        }
        self.weights(encoder)?;
        for module in modules.iter().skip(1).filter(|path| !path.is_empty()) {
            self.optional(&join(module, "config.json"))?;
            self.optional(&join(module, WEIGHTS))?;
        }
        Ok(())
    }

    fn modules(&mut self) -> Result<Vec<String>, SourceError> {
        let path = "modules.json";
        if !self.optional(path)? {
            return Ok(Vec::new());
        }
        let modules: Vec<Module> = self.parse(path)?;
        let plain = |module: &Module| module.path.is_empty() || module.path.split('/').all(is_plain_name);
        if modules.len() > MODULES_MAX || !modules.iter().all(plain) {
            return Err(unreadable(path, "its modules do not lie in plain directories of the model"));
        }
        Ok(modules.into_iter().map(|module| module.path).collect())
    }

    fn weights(&mut self, encoder: &str) -> Result<(), SourceError> {
        let single = join(encoder, WEIGHTS);
        if self.optional(&single)? {
            return Ok(());
        }
        let index_path = join(encoder, WEIGHTS_INDEX);
        if !self.optional(&index_path)? {
            return Err(SourceError::Absent { path: single, hint: NO_SAFETENSORS });
        }
        let index: WeightsIndex = self.parse(&index_path)?;
        let shards: BTreeSet<String> = index.weight_map.into_values().collect();
        if shards.len() > SHARDS_MAX || !shards.iter().all(|shard| is_plain_name(shard)) {
            return Err(unreadable(&index_path, "its shards are not plain files beside it"));
        }
        shards.iter().try_for_each(|shard| self.require(&join(encoder, shard), "the index lists it"))
    }

    fn require(&mut self, path: &str, hint: &'static str) -> Result<(), SourceError> {
        if self.optional(path)? {
            return Ok(());
        }
        Err(SourceError::Absent { path: path.to_owned(), hint })
    }

    fn optional(&mut self, path: &str) -> Result<bool, SourceError> {
        let Some((file, place)) = self.shelf.find(path, self.progress)? else {
            return Ok(false);
        };
        self.staging.link(&file, &place)?;
        self.files.push(file);
        Ok(true)
    }

    fn parse<T: DeserializeOwned>(&self, path: &str) -> Result<T, SourceError> {
        let json = self.staging.read(path, INDEX_BYTES_MAX)?.unwrap_or_default();
        serde_json::from_slice(&json).map_err(|error| unreadable(path, error))
    }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

fn unreadable(path: &str, message: impl ToString) -> SourceError {
    SourceError::Unreadable { path: path.to_owned(), message: message.to_string() }
}
