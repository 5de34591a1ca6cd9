//! The memory between steps.

use std::ops::Range;

use crate::{
    cpu::{AlignedBuf, Element},
    plan::{Buffer, Plan},
};

/// One arena for the buffers of a pass. It grows to the largest batch that was run and is then reused as it is.
pub(super) struct Workspace {
    arena: AlignedBuf<u8>,
}

impl Workspace {
    pub(super) fn new() -> Self {
        Self { arena: AlignedBuf::zeroed(0) }
    }

    /// The plan's buffers for `tokens` tokens. Their content is whatever an earlier pass or step left: every step
    /// overwrites what it does not add to.
    pub(super) fn buffers<T: Element>(&mut self, plan: &Plan, tokens: usize) -> Buffers<'_, T> {
        let bytes = plan.workspace_bytes(tokens);
        self.arena.reserve(bytes);
        let ranges = std::array::from_fn(|index| {
            let start = plan.starts[index] * tokens;
            start..start + plan.widths[index] * tokens
        });
        Buffers { arena: bytemuck::cast_slice_mut(&mut self.arena[..bytes]), ranges }
    }
}

/// The buffers of one pass, `[tokens, width]` each. Some share room (see `plan`).
pub(super) struct Buffers<'a, T> {
    arena: &'a mut [T],
    ranges: [Range<usize>; Buffer::COUNT],
}

impl<T> Buffers<'_, T> {
    fn range(&self, buffer: Buffer) -> Range<usize> {
        self.ranges[buffer as usize].clone()
    }

    pub(super) fn get(&self, buffer: Buffer) -> &[T] {
        &self.arena[self.range(buffer)]
    }

    pub(super) fn get_mut(&mut self, buffer: Buffer) -> &mut [T] {
        let range = self.range(buffer);
        &mut self.arena[range]
    }

    /// One to read, another to write.
    pub(super) fn pair(&mut self, from: Buffer, to: Buffer) -> (&[T], &mut [T]) {
        let pair = self.arena.get_disjoint_mut([self.range(from), self.range(to)]);
        let [from, to] = pair.expect("a plan gives what a step reads and what it writes rooms of their own");
        (from, to)
    }
}
