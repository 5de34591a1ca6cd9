//! Reads tensors out of mapped files.

use std::{collections::BTreeSet, ops::Range, path::Path};

use memmap2::{Advice, Mmap, UncheckedAdvice};

use super::{
    checkpoint::{Checkpoint, Shard},
    error::{TensorError, WeightsError},
    storage::{Storage, to_f32},
};

/// A checkpoint whose data is in the address space; dropping it unmaps every file.
#[derive(Debug)]
pub(crate) struct MappedCheckpoint {
    checkpoint: Checkpoint,
    /// One for each shard.
    maps: Vec<Mmap>,
}

impl MappedCheckpoint {
    /// Opens and checks the files of `dir`, then maps the very files that were checked.
    pub(crate) fn open(dir: &Path) -> Result<Self, WeightsError> {
        let checkpoint = Checkpoint::open(dir)?;
        let maps = checkpoint.shards.iter().map(map).collect::<Result<_, _>>()?;
        Ok(Self { checkpoint, maps })
    }

    /// Bytes that the named tensors take in the files; one that is named twice counts once.
    pub(crate) fn stored_bytes<'a>(&self, names: impl Iterator<Item = &'a str>) -> u64 {
        let names = names.collect::<BTreeSet<_>>();
        let found = names.into_iter().filter_map(|name| self.checkpoint.tensors.get(name));
        found.map(|(_, info)| info.range.end - info.range.start).sum()
    }

    /// A tensor of the given shape.
    pub(crate) fn tensor<'a>(&'a self, name: &'a str, shape: &[usize]) -> Result<Tensor<'a>, WeightsError> {
        let (shard, info) = self.checkpoint.find(name, shape)?;
        let start = info.range.start as usize;
        let tensor = Tensor {
            name,
            map: &self.maps[shard],
            start,
            len: info.range.end as usize - start,
            storage: info.storage,
        };
        Ok(tensor)
    }
}

fn map(shard: &Shard) -> Result<Mmap, WeightsError> {
    let Shard { path, file, bytes } = shard;
    let io = |source| WeightsError::Io { path: path.clone(), source };
    // SAFETY: the file is mapped read-only and handed out as plain bytes, every value of which is valid. What cannot
    // be ruled out is that another process writes to the file while it is mapped: bytes that change are read at most
    // once each and only as numbers, so that a torn read gives a wrong weight but no unsound value, and a file that is
    // *truncated* in place kills this process with SIGBUS. `shoal pull` never does either (it writes a new file and
    // renames it), the map lives only while the weights are packed, and the size is checked once more below.
    let map = unsafe { Mmap::map(file) }.map_err(io)?;
    if map.len() as u64 != *bytes {
        return Err(WeightsError::Changed { path: path.clone() });
    }
    Ok(map)
}

/// The elements of one tensor, row-major, in the file's own format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor<'a> {
    name: &'a str,
    map: &'a Mmap,
    start: usize,
    len: usize,
    storage: Storage,
}

impl Tensor<'_> {
    /// Some of its `of` rows, as if they were all.
    ///
    /// # Panics
    /// When it has not as many.
    pub(crate) fn rows(&self, of: usize, rows: &Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= of, "tensor {:?} has {of} rows", self.name);
        let row_bytes = self.len / of.max(1);
        Self { start: self.start + rows.start * row_bytes, len: rows.len() * row_bytes, ..*self }
    }

    /// Converts the elements from `first` on to f32 until `out` is full. Refuses what is not finite: one such weight
    /// would make every vector of the model worthless without any error.
    pub(crate) fn read(&self, first: usize, out: &mut [f32]) -> Result<(), WeightsError> {
        let width = self.storage.bytes() as usize;
        let begin = self.start + first * width;
        let end = begin + out.len() * width;
        assert!(end <= self.start + self.len, "tensor {:?} is read past its checked shape", self.name);
        to_f32(self.storage, &self.map[begin..end], out);
        // Looking at all of them, without leaving early, is vectorised.
        if out.iter().fold(true, |finite, value| finite & value.is_finite()) {
            return Ok(());
        }
        match out.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(place) => {
                let source = TensorError::NotFinite { index: first + place };
                Err(WeightsError::Tensor { tensor: self.name.to_owned(), source })
            }
        }
    }

    /// All elements.
    pub(crate) fn read_all(&self) -> Result<Vec<f32>, WeightsError> {
        let mut out = vec![0.0; self.len / self.storage.bytes() as usize];
        self.read(0, &mut out)?;
        Ok(out)
    }

    /// Bytes in the file.
    pub(crate) const fn bytes(&self) -> u64 {
        self.len as u64
    }

    /// Tells the kernel that the tensor is about to be read whole: one call instead of a page fault per 64 KiB.
    pub(crate) fn prefetch(&self) {
        // Advice only: where the kernel does not know it (before Linux 5.14), reading still faults the pages in.
        #[cfg(target_os = "linux")]
        let _ = self.map.advise_range(Advice::PopulateRead, self.start, self.len);
    }

    /// Gives the tensor's pages back, so that a process that loads a model holds little more than what it packs.
    pub(crate) fn release(&self) {
        // SAFETY: the map is shared, read-only and backed by a file: MADV_DONTNEED only forgets the page table
        // entries, and a later read faults the same content in again from the page cache.
        let forgotten =
            unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, self.start, self.len) };
        // Advice only: a kernel that refuses costs memory, nothing else.
        let _ = forgotten;
    }
}
