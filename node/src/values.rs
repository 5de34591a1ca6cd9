//! Vectors as JSON: numbers, or bytes for packed bits.

use half::f16;
use serde::{Serialize, Serializer};
use shoal_mesh::{Chunks, Multivector};
use shoal_protocol::message::{ChunkPlace, DenseDtype};

/// A vector as a JSON array of its elements.
pub(crate) struct Values<'a> {
    dtype: DenseDtype,
    bytes: &'a [u8],
}

impl<'a> Values<'a> {
    /// Of a row of a block.
    pub(crate) fn of(dtype: DenseDtype, bytes: &'a [u8]) -> Self {
        Self { dtype, bytes }
    }

    /// Of each vector of a text that has several.
    pub(crate) fn rows(vectors: &'a Multivector) -> Vec<Self> {
        let row_bytes = vectors.dtype().row_bytes(vectors.dims()).max(1);
        vectors.bytes().chunks_exact(row_bytes).map(|row| Self::of(vectors.dtype(), row)).collect()
    }
}

/// A chunk of a text with its vector.
#[derive(Serialize)]
pub(crate) struct ChunkValues<'a> {
    start: u32,
    end: u32,
    dense: Values<'a>,
}

impl<'a> ChunkValues<'a> {
    /// Of each chunk of a text.
    pub(crate) fn of(chunks: &'a Chunks) -> impl Iterator<Item = Self> {
        let chunk = |(place, dense): (&ChunkPlace, _)| Self { start: place.start, end: place.end, dense };
        chunks.places.iter().zip(Values::rows(&chunks.vectors)).map(chunk)
    }
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.dtype {
            DenseDtype::F32 => {
                let (quads, _) = self.bytes.as_chunks::<4>();
                serializer.collect_seq(quads.iter().map(|quad| f32::from_le_bytes(*quad)))
            }
            DenseDtype::F16 => {
                let (pairs, _) = self.bytes.as_chunks::<2>();
                serializer.collect_seq(pairs.iter().map(|pair| f16::from_le_bytes(*pair).to_f32()))
            }
            DenseDtype::I8 => serializer.collect_seq(self.bytes.iter().map(|byte| byte.cast_signed())),
            DenseDtype::U8 | DenseDtype::Bits => self.bytes.serialize(serializer),
        }
    }
}
