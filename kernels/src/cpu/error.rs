//! What an op refuses.

use super::isa::CpuIsa;
use crate::Dtype;

/// An op was called with operands that do not fit; nothing was computed and no buffer was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// A buffer or a parameter has the wrong size.
    #[error("{op}: {what} is {found}, expected {expected}")]
    Shape {
        /// The op.
        op: &'static str,
        /// Which operand.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The size that the other operands ask for.
        expected: usize,
    },
    /// An id points outside of its table.
    #[error("{op}: {what} {id} is outside of its table of {rows} rows")]
    IdOutOfRange {
        /// The op.
        op: &'static str,
        /// Which id.
        what: &'static str,
        /// Its value.
        id: u32,
        /// The rows of the table.
        rows: usize,
    },
    /// `cu_seqlens` does not start with 0, decreases, or ends elsewhere than the tokens do.
    #[error("{op}: {what} is not a rising list from 0 to {tokens}")]
    CuSeqlens {
        /// The op.
        op: &'static str,
        /// Which list.
        what: &'static str,
        /// Where it has to end.
        tokens: usize,
    },
    /// A scale that is not a finite number above 0.
    #[error("{op}: the scale {} is not a finite number above 0", f32::from_bits(*bits))]
    Scale {
        /// The op.
        op: &'static str,
        /// The scale, as its bits.
        bits: u32,
    },
    /// The machine lacks the instruction set.
    #[error("this machine has no {isa}: choose another instruction set")]
    IsaUnavailable {
        /// What was asked for.
        isa: CpuIsa,
    },
    /// Weights packed for one instruction set were given to another.
    #[error("the weights are packed for {packed}, the op runs on {requested}: pack them again")]
    IsaMismatch {
        /// What the weights are packed for.
        packed: CpuIsa,
        /// What the op runs on.
        requested: CpuIsa,
    },
    /// No kernel for this pair of formats.
    #[error("no kernel multiplies {activations} activations by {weights} weights on {isa}")]
    UnsupportedDtype {
        /// The instruction set.
        isa: CpuIsa,
        /// The format of the activations.
        activations: Dtype,
        /// The format of the weights.
        weights: Dtype,
    },
    /// A format that weights or tables cannot be stored in on this instruction set.
    #[error("weights cannot be packed as {dtype} for this instruction set")]
    UnsupportedStorage {
        /// What was asked for.
        dtype: Dtype,
    },
}

/// Checks one size.
pub(crate) fn expect_size(
    op: &'static str,
    what: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), OpError> {
    if found == expected { Ok(()) } else { Err(OpError::Shape { op, what, found, expected }) }
}

/// Checks that `cu_seqlens` rises from 0 to `tokens`.
pub(crate) fn expect_cu_seqlens(
    op: &'static str,
    what: &'static str,
    cu_seqlens: &[u32],
    tokens: usize,
) -> Result<(), OpError> {
    let starts = cu_seqlens.first() == Some(&0);
    let ends = cu_seqlens.last().is_some_and(|&last| last as usize == tokens);
    if starts && ends && cu_seqlens.is_sorted() {
        Ok(())
    } else {
        Err(OpError::CuSeqlens { op, what, tokens })
    }
}
