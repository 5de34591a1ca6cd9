//! Memory of a device, and pinned memory of the host: poisoned blocks on a boundary of 256 bytes.

use std::collections::BTreeMap;

use cudarc::driver::sys::CUresult;

use crate::device::Answer;

#[repr(C, align(256))]
#[derive(Clone, Copy)]
struct Line([u8; 256]);

/// Not a number in every format.
const POISON: Line = Line([0xff; 256]);

/// Blocks by their first address.
#[derive(Default)]
pub(crate) struct Memory {
    blocks: BTreeMap<u64, (usize, Box<[Line]>)>,
}

impl Memory {
    pub(crate) fn allocate(&mut self, bytes: usize) -> Answer<u64> {
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let mut lines = vec![POISON; bytes.div_ceil(size_of::<Line>())].into_boxed_slice();
        let address = lines.as_mut_ptr().expose_provenance() as u64;
        self.blocks.insert(address, (bytes, lines));
        Ok(address)
    }

    /// The bytes that it had.
    pub(crate) fn free(&mut self, address: u64) -> Answer<usize> {
        let freed = self.blocks.remove(&address).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        Ok(freed.0)
    }

    /// All of these bytes are of one block.
    pub(crate) fn check(&self, address: u64, bytes: usize) -> Answer<()> {
        let block = self.blocks.range(..=address).next_back();
        let is_inside = block.is_some_and(|(first, (held, _))| {
            usize::try_from(address - first)
                .is_ok_and(|at| at.checked_add(bytes).is_some_and(|end| end <= *held))
        });
        if is_inside { Ok(()) } else { Err(CUresult::CUDA_ERROR_INVALID_VALUE) }
    }

    /// The block that holds the address, as its first address and its bytes.
    pub(crate) fn block_of(&self, address: u64) -> Option<(u64, usize)> {
        let (&first, &(bytes, _)) = self.blocks.range(..=address).next_back()?;
        (address - first < bytes as u64).then_some((first, bytes))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.blocks.values().map(|(bytes, _)| bytes).sum()
    }
}
