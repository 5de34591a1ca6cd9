//! The memory between steps.

use crate::{
    cpu::{AlignedBuf, Element},
    plan::{Buffer, Plan},
};

/// Every buffer starts on a cache line.
const ALIGN_BYTES: usize = 64;

/// One arena for the buffers of a pass. It grows to the largest batch that was run and is then reused as it is.
pub(super) struct Workspace {
    arena: AlignedBuf<u8>,
}

impl Workspace {
    pub(super) fn new() -> Self {
        Self { arena: AlignedBuf::zeroed(0) }
    }

    /// The plan's buffers for `tokens` tokens. Their content is whatever an earlier pass left: every step overwrites
    /// what it does not add to.
    pub(super) fn buffers<T: Element>(&mut self, plan: &Plan, tokens: usize) -> Buffers<'_, T> {
        let lens = plan.widths.map(|width| width * tokens);
        let bytes = lens.map(|len| (len * size_of::<T>()).next_multiple_of(ALIGN_BYTES));
        self.arena.reserve(bytes.iter().sum());
        let mut rest = &mut self.arena[..];
        let slices = std::array::from_fn(|index| {
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(bytes[index]);
            rest = behind;
            &mut bytemuck::cast_slice_mut(own)[..lens[index]]
        });
        Buffers { slices }
    }
}

/// The buffers of one pass, `[tokens, width]` each.
pub(super) struct Buffers<'a, T> {
    slices: [&'a mut [T]; Buffer::COUNT],
}

impl<T> Buffers<'_, T> {
    pub(super) fn get(&self, buffer: Buffer) -> &[T] {
        self.slices[buffer as usize]
    }

    pub(super) fn get_mut(&mut self, buffer: Buffer) -> &mut [T] {
        self.slices[buffer as usize]
    }

    /// One to read, another to write.
    pub(super) fn pair(&mut self, from: Buffer, to: Buffer) -> (&[T], &mut [T]) {
        let pair = self.slices.get_disjoint_mut([from as usize, to as usize]);
        let [from, to] = pair.expect("a step of a plan reads one buffer and writes another");
        (from, to)
    }
}
