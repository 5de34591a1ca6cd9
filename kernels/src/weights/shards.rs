//! Which files a checkpoint consists of.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::error::WeightsError;
use crate::files::read_bounded;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// What came before: not read.
const PICKLE: &str = "pytorch_model.bin";
const INDEX_BYTES_MAX: u64 = 16 << 20;
const SHARDS_MAX: usize = 1024;

/// The index as `transformers` writes it: `metadata` is informative only.
#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of a checkpoint, and for a sharded one the file that its index names for each tensor.
#[derive(Debug)]
pub(super) struct Shards {
    pub(super) paths: Vec<PathBuf>,
    /// `(tensor, index into paths)`; empty for a single file, whose header is its own index.
    pub(super) promised: Vec<(String, usize)>,
    pub(super) index: PathBuf,
}

/// Finds the files: `dir` itself where it is one, else the single one where it exists, as `transformers` does, else those of
/// the index.
pub(super) fn locate(dir: &Path) -> Result<Shards, WeightsError> {
    let index = dir.join(INDEX);
    if dir.is_file() {
        return Ok(Shards { paths: vec![dir.to_owned()], promised: Vec::new(), index });
    }
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(Shards { paths: vec![single], promised: Vec::new(), index });
    }
    let pickle = dir.join(PICKLE);
    if !index.exists() && pickle.exists() {
        return Err(WeightsError::Pickle { path: pickle, to: SINGLE });
    }
    if !index.exists() {
        return Err(WeightsError::Missing { dir: dir.to_owned() });
    }
    read_index(dir, index)
}

fn read_index(dir: &Path, index: PathBuf) -> Result<Shards, WeightsError> {
    let json = read_bounded(&index, INDEX_BYTES_MAX)
        .map_err(|source| WeightsError::Io { path: index.clone(), source })?;
    let refuse = |reason: String| WeightsError::Index { path: index.clone(), reason };
    let Index { weight_map } = serde_json::from_slice(&json).map_err(|error| refuse(error.to_string()))?;
    let names = weight_map.values().collect::<BTreeSet<_>>();
    if names.is_empty() {
        return Err(refuse("it names no file".into()));
    }
    if names.len() > SHARDS_MAX {
        return Err(refuse(format!("it names {} files; at most {SHARDS_MAX} are covered", names.len())));
    }
    if let Some(name) = names.iter().find(|name| !is_plain_file_name(name)) {
        return Err(refuse(format!("{name:?} is not the name of a file beside it")));
    }
    let order = names.iter().zip(0..).collect::<BTreeMap<_, _>>();
    let promised = weight_map.iter().map(|(tensor, name)| (tensor.clone(), order[&name])).collect();
    Ok(Shards { paths: names.iter().map(|name| dir.join(name)).collect(), promised, index })
}

/// An index must not reach outside of its own directory.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
}
