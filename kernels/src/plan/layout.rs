//! Where the buffers of a pass lie in one arena.

use super::{Buffer, LayerPlan, Step};

/// Elements of the narrowest activations in a cache line: every buffer of a pass starts on one.
const LINE_ELEMENTS: usize = 32;

/// Elements per token before each [`Buffer`]. Buffers that no layer needs at the same time share room: what a block of
/// tokens touches is what its second-level cache has to hold.
pub(super) fn starts(layers: &[LayerPlan], widths: &[usize; Buffer::COUNT]) -> [usize; Buffer::COUNT] {
    let mut starts = [0; Buffer::COUNT];
    for (index, &buffer) in Buffer::ALL.iter().enumerate() {
        let meets = |other: &usize| layers.iter().any(|layer| layer.needs_both(buffer, Buffer::ALL[*other]));
        let end = |other: usize| starts[other] + widths[other].next_multiple_of(LINE_ELEMENTS);
        starts[index] = (0..index).filter(meets).map(end).max().unwrap_or(0);
    }
    starts
}

impl LayerPlan {
    /// Whether the buffer holds something during a step that is still needed, or that the step reads or writes; the residual
    /// stream always does.
    pub(super) fn is_live(&self, buffer: Buffer, step: usize) -> bool {
        let touches = |step: &&Step| step.reads() == buffer || step.writes() == buffer;
        let next = || self.steps[step + 1..].iter().find(touches);
        buffer == Buffer::Hidden
            || touches(&&self.steps[step])
            || next().is_some_and(|next| next.reads() == buffer)
    }

    fn needs_both(&self, a: Buffer, b: Buffer) -> bool {
        (0..self.steps.len()).any(|step| self.is_live(a, step) && self.is_live(b, step))
    }
}

impl Step {
    /// The buffer that the step reads.
    pub(super) fn reads(&self) -> Buffer {
        match *self {
            Self::Linear { from, .. }
            | Self::Attention { from, .. }
            | Self::Disentangled { from, .. }
            | Self::Norm { from, .. } => from,
            Self::Turn { buffer, .. } => buffer,
        }
    }

    /// The buffer that the step writes.
    pub(super) fn writes(&self) -> Buffer {
        match *self {
            Self::Linear { to, .. }
            | Self::Attention { to, .. }
            | Self::Disentangled { to, .. }
            | Self::Norm { to, .. } => to,
            Self::Turn { buffer, .. } => buffer,
        }
    }
}
