//! The headers of a checkpoint, checked and merged.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use super::{
    error::{TensorError, WeightsError},
    header::{Header, TensorInfo},
    shards::{self, Shards},
    storage::Storage,
};
use crate::files::open_regular;

/// One file, open, with the size that its header was checked against.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
}

/// Every tensor of a directory's checkpoint; no tensor data was read.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(super) shards: Vec<Shard>,
    /// By name: the shard that holds it, and where.
    pub(super) tensors: BTreeMap<String, (usize, TensorInfo)>,
}

impl Checkpoint {
    /// Opens the files of `dir`, or the one that it is, and checks their headers.
    pub(crate) fn open(dir: &Path) -> Result<Self, WeightsError> {
        let Shards { paths, promised, index } = shards::locate(dir)?;
        let mut checkpoint = Self { shards: Vec::with_capacity(paths.len()), tensors: BTreeMap::new() };
        for path in paths {
            checkpoint.add(path)?;
        }
        for (tensor, shard) in promised {
            if checkpoint.tensors.get(&tensor).is_none_or(|(found, _)| *found != shard) {
                let file = checkpoint.shards[shard].path.display();
                let reason = format!("it promises tensor {tensor:?} in {file}, which does not hold it");
                return Err(WeightsError::Index { path: index, reason });
            }
        }
        Ok(checkpoint)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), WeightsError> {
        let io = |source| WeightsError::Io { path: path.clone(), source };
        let (mut file, bytes) = open_regular(&path).map_err(io)?;
        let header = Header::read(&mut file, bytes).map_err(io)?;
        let Header { tensors } =
            header.map_err(|source| WeightsError::Header { path: path.clone(), source })?;
        let shard = self.shards.len();
        for (tensor, info) in tensors {
            if self.tensors.contains_key(&tensor) {
                return Err(WeightsError::InTwoShards { tensor, path });
            }
            self.tensors.insert(tensor, (shard, info));
        }
        self.shards.push(Shard { path, file, bytes });
        Ok(())
    }

    /// Every tensor's name, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The first size of a tensor's shape.
    pub(crate) fn rows(&self, tensor: &str) -> Option<usize> {
        let (_, info) = self.tensors.get(tensor)?;
        info.shape.first().map(|&rows| rows as usize)
    }

    /// Whether the tensor is there.
    pub(crate) fn contains(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// Where a tensor of this shape lies; refuses another shape and types that do not become f32.
    pub(crate) fn find(&self, tensor: &str, shape: &[usize]) -> Result<(usize, &TensorInfo), WeightsError> {
        let refuse = |source| WeightsError::Tensor { tensor: tensor.to_owned(), source };
        let (shard, info) = self.tensors.get(tensor).ok_or_else(|| refuse(TensorError::Missing))?;
        if !info.shape.iter().copied().eq(shape.iter().map(|&size| size as u64)) {
            return Err(refuse(TensorError::Shape { found: info.shape.clone(), expected: shape.to_vec() }));
        }
        if let Storage::Other(found, _) = info.storage {
            return Err(refuse(TensorError::Dtype { found }));
        }
        Ok((*shard, info))
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
