//! What became of one text.

use std::borrow::Cow;
use std::sync::Arc;

use shoal_protocol::ErrorCode;
use shoal_protocol::message::{DenseBlock, DenseDtype, EncodeResult, ItemOutcome};

/// One dense vector: a row of the block in which it arrived. Cloning shares the block; a kept vector keeps its
/// block (at most one result frame).
#[derive(Clone)]
pub struct Vector {
    block: Arc<DenseBlock>,
    row: usize,
}

impl Vector {
    /// Element type.
    #[must_use]
    pub fn dtype(&self) -> DenseDtype {
        self.block.dtype
    }

    /// Values, which for bits is not the number of bytes.
    #[must_use]
    pub fn dims(&self) -> u32 {
        self.block.dims
    }

    /// `dtype.row_bytes(dims)` bytes, little-endian.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let row_bytes = self.block.dtype.row_bytes(self.block.dims);
        &self.block.data[self.row * row_bytes..][..row_bytes]
    }

    /// The values of an f32 vector, without a copy where the block's alignment allows it; `None` for every other
    /// element type.
    #[must_use]
    pub fn as_f32(&self) -> Option<Cow<'_, [f32]>> {
        if self.dtype() != DenseDtype::F32 {
            return None;
        }
        if cfg!(target_endian = "little")
            && let Ok(values) = bytemuck::try_cast_slice(self.bytes())
        {
            return Some(Cow::Borrowed(values));
        }
        let (quads, _) = self.bytes().as_chunks::<4>();
        Some(Cow::Owned(quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect()))
    }
}

impl PartialEq for Vector {
    fn eq(&self, other: &Self) -> bool {
        self.dtype() == other.dtype() && self.dims() == other.dims() && self.bytes() == other.bytes()
    }
}

impl std::fmt::Debug for Vector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vector({:?} x {})", self.dtype(), self.dims())
    }
}

/// What became of one text.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemResult {
    /// Encoded.
    Vector {
        /// Tokens that the model saw, special tokens included.
        tokens: u32,
        /// Whether the text was cut to the limit.
        truncated: bool,
        /// The vector.
        vector: Vector,
    },
    /// Failed by itself; the others proceed.
    Failed {
        /// Why.
        code: ErrorCode,
        /// For people.
        message: String,
        /// Tokens of the text, where they were counted (else 0).
        tokens: u32,
        /// The limit in tokens that it broke (else 0).
        limit: u32,
    },
}

impl ItemResult {
    /// Tokens that the model saw: 0 for a failed item.
    #[must_use]
    pub fn tokens_seen(&self) -> u32 {
        match self {
            Self::Vector { tokens, .. } => *tokens,
            Self::Failed { .. } => 0,
        }
    }
}

/// A result frame as pairs of (position in the request, result). The frame was checked by `decode`: indices,
/// outcomes and rows agree.
pub(super) fn items_of(result: EncodeResult) -> impl Iterator<Item = (u32, ItemResult)> {
    let block = Arc::new(result.dense);
    let mut row = 0;
    result.indices.into_iter().zip(result.outcomes).map(move |(index, outcome)| {
        let item = match outcome {
            ItemOutcome::Encoded { tokens, truncated } => {
                let vector = Vector { block: block.clone(), row };
                row += 1;
                ItemResult::Vector { tokens, truncated, vector }
            }
            ItemOutcome::Failed { code, message, tokens, limit } => {
                ItemResult::Failed { code, message, tokens, limit }
            }
        };
        (index, item)
    })
}
