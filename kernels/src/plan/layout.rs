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
    /// The first and the last step that touch a buffer; every step for the residual stream, which goes on to the next
    /// layer.
    pub(super) fn lifetime(&self, buffer: Buffer) -> Option<(usize, usize)> {
        let touches = |step: &Step| step.reads() == buffer || step.writes() == buffer;
        match buffer {
            Buffer::Hidden => Some((0, usize::MAX)),
            _ => Some((self.steps.iter().position(touches)?, self.steps.iter().rposition(touches)?)),
        }
    }

    fn needs_both(&self, a: Buffer, b: Buffer) -> bool {
        let (Some(a), Some(b)) = (self.lifetime(a), self.lifetime(b)) else {
            return false;
        };
        a.0 <= b.1 && b.0 <= a.1
    }
}

impl Step {
    /// The buffer that the step reads; a norm works in place.
    pub(super) fn reads(&self) -> Buffer {
        match *self {
            Self::Linear { from, .. } | Self::Attention { from, .. } => from,
            Self::Norm { buffer, .. } => buffer,
        }
    }

    /// The buffer that the step writes.
    pub(super) fn writes(&self) -> Buffer {
        match *self {
            Self::Linear { to, .. } | Self::Attention { to, .. } => to,
            Self::Norm { buffer, .. } => buffer,
        }
    }
}
