//! The encode primitive: texts in, vectors out.

use rkyv::{Archive, Deserialize, Serialize};

use crate::limits::{
    CHUNKS_PER_ITEM_MAX, DENSE_DIMS_MAX, MODEL_NAME_BYTES_MAX, MULTIVECTOR_ROWS_MAX, PROMPT_BYTES_MAX,
    SPARSE_ENTRIES_MAX,
};
use crate::message::task::{Numerics, Truncate, bounds_hold};

/// Element type of returned vectors.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[repr(u8)]
pub enum DenseDtype {
    /// IEEE 754 binary32, little-endian.
    #[default]
    F32 = 0,
    /// IEEE 754 binary16, little-endian.
    F16 = 1,
    /// Signed 8-bit: `round(127 x)` of a vector with every |x| <= 1, clamped.
    I8 = 2,
    /// Unsigned 8-bit: the signed form plus 128.
    U8 = 3,
    /// One bit a dimension, most significant first: 1 where the value is positive.
    Bits = 4,
}

impl DenseDtype {
    /// Bytes of one vector of `dims` values.
    #[must_use]
    pub const fn row_bytes(self, dims: u32) -> usize {
        let dims = dims as usize;
        match self {
            Self::F32 => dims * 4,
            Self::F16 => dims * 2,
            Self::I8 | Self::U8 => dims,
            Self::Bits => dims.div_ceil(8),
        }
    }
}

/// Which representations of a text a caller wants. The empty set is the model's own: whatever it was made to give.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorSet {
    /// One vector for the text.
    pub dense: bool,
    /// A weight for each of some entries of the vocabulary.
    pub sparse: bool,
    /// A vector for each token that counts.
    pub multivector: bool,
}

impl VectorSet {
    /// Only dense vectors.
    pub const DENSE: Self = Self { dense: true, sparse: false, multivector: false };
    /// Only sparse vectors.
    pub const SPARSE: Self = Self { dense: false, sparse: true, multivector: false };
    /// Only a vector for each token.
    pub const MULTIVECTOR: Self = Self { dense: false, sparse: false, multivector: true };

    /// Whether nothing is named.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        !(self.dense || self.sparse || self.multivector)
    }
}

/// On which side of a retrieval a text stands, for models that read the two sides differently.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum InputType {
    /// What is looked for.
    Query = 0,
    /// Where it is looked for.
    Document = 1,
}

/// What becomes of the chunks of a text.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkPooling {
    /// Each is read alone, behind the prompt; the text has one vector, the mean of theirs by their numbers of tokens.
    #[default]
    Mean = 0,
    /// The text is read as a whole, and each has a vector, the mean of its tokens in that one pass: late chunking (Guenther
    /// et al. 2024).
    Late = 1,
}

/// How texts are cut into chunks. A text is cut only where it has more tokens than one of them.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunking {
    /// What becomes of them.
    pub pooling: ChunkPooling,
    /// Tokens of a chunk, without special tokens and prompt; fewer where the model takes fewer. `None`: as many as it takes.
    pub tokens: Option<u32>,
    /// Of these, those that a chunk shares with the one before it: at most half of them.
    pub overlap: u32,
}

impl Chunking {
    fn check(self) -> Result<(), &'static str> {
        match self.tokens {
            Some(0) => Err("chunks of no token"),
            Some(tokens) if self.overlap > tokens / 2 => {
                Err("chunks that share more than half of their tokens")
            }
            _ => Ok(()),
        }
    }
}

/// How to encode. The default is the model's own pipeline in f32.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Which representations.
    pub outputs: VectorSet,
    /// Keep the first `dims` values and normalise again (Matryoshka models). `None`: all.
    pub dims: Option<u32>,
    /// Element type of the dense vectors and of those for each token; sparse weights are always f32.
    pub output_dtype: DenseDtype,
    /// L2 normalisation: `None` does what the model's own pipeline does.
    pub normalize: Option<bool>,
    /// What the texts are. `None`: neither for a model with prompts, documents for one with a vector a token.
    pub input_type: Option<InputType>,
    /// A prompt of the model's configuration, put in front of every text. `None`: that of the input type, where the model
    /// has one, else its default prompt.
    pub prompt_name: Option<String>,
    /// The caller's own prompt, put in front of every text as it is, in place of the model's.
    pub prompt: Option<String>,
    /// Cuts texts into chunks. `None`: a text is read as a whole.
    pub chunking: Option<Box<Chunking>>,
    /// What to do with long texts.
    pub truncate: Truncate,
    /// The precision class that the vectors must have.
    pub numerics: Numerics,
}

impl EncodeOptions {
    /// Whether a text has a vector for each of its chunks.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.chunking.as_deref().is_some_and(|chunking| chunking.pooling == ChunkPooling::Late)
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.prompt_name.as_ref().is_some_and(|name| name.len() > MODEL_NAME_BYTES_MAX) {
            return Err("prompt name too long");
        }
        if self.prompt.as_ref().is_some_and(|prompt| prompt.len() > PROMPT_BYTES_MAX) {
            return Err("prompt too long");
        }
        if self.prompt_name.is_some() && self.prompt.is_some() {
            return Err("a prompt and the name of another");
        }
        self.chunking.as_deref().map_or(Ok(()), |chunking| chunking.check())
    }
}

/// Dense vectors, row after row.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct DenseBlock {
    /// Element type.
    pub dtype: DenseDtype,
    /// Values of one row.
    pub dims: u32,
    /// Rows: one for each answered item of the frame, in item order.
    pub rows: u32,
    /// `rows * dtype.row_bytes(dims)` bytes.
    pub data: Vec<u8>,
}

impl DenseBlock {
    pub(crate) fn is_sound(&self, rows: usize) -> bool {
        self.rows as usize == rows
            && self.dims <= DENSE_DIMS_MAX
            && self.data.len() == rows * self.dtype.row_bytes(self.dims)
    }
}

/// Sparse vectors in compressed rows: entry `i` is `values[i]` at `indices[i]`.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct SparseBlock {
    /// Where each row ends; it begins where the one before it ends, the first at 0.
    pub ends: Vec<u32>,
    /// Positions in the vocabulary, ascending within a row.
    pub indices: Vec<u32>,
    /// Weights.
    pub values: Vec<f32>,
}

impl SparseBlock {
    pub(crate) fn is_sound(&self, rows: usize) -> bool {
        self.indices.len() == self.values.len()
            && self.values.iter().all(|value| value.is_finite())
            && bounds_hold(&self.ends, rows, self.indices.len(), SPARSE_ENTRIES_MAX)
    }
}

/// Several vectors for each text, row after row.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MultivectorBlock {
    /// Element type.
    pub dtype: DenseDtype,
    /// Values of one vector.
    pub dims: u32,
    /// After which vector each text's end.
    pub ends: Vec<u32>,
    /// `dtype.row_bytes(dims)` bytes a vector.
    pub data: Vec<u8>,
}

impl MultivectorBlock {
    pub(crate) fn is_sound(&self, rows: usize) -> bool {
        let vectors = self.ends.last().map_or(0, |end| *end as usize);
        self.dims <= DENSE_DIMS_MAX
            && bounds_hold(&self.ends, rows, vectors, MULTIVECTOR_ROWS_MAX)
            && Some(self.data.len()) == vectors.checked_mul(self.dtype.row_bytes(self.dims))
    }
}

/// A stretch of a text that has a vector of its own.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    /// First Unicode code point of the caller's text.
    pub start: u32,
    /// The one after the last.
    pub end: u32,
}

/// The chunks of some texts, in the order of each text.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkBlock {
    /// One vector a chunk.
    pub vectors: MultivectorBlock,
    /// Where each stands.
    pub places: Vec<ChunkPlace>,
}

impl ChunkBlock {
    pub(crate) fn is_sound(&self, rows: usize) -> bool {
        let MultivectorBlock { ends, .. } = &self.vectors;
        self.vectors.is_sound(rows)
            && bounds_hold(ends, rows, self.places.len(), CHUNKS_PER_ITEM_MAX)
            && self.places.iter().all(|place| place.start <= place.end)
    }
}
