//! What callers choose among, on the command line and over HTTP alike.

use clap::ValueEnum;
use serde::Deserialize;
use shoal_protocol::message::{ChunkPooling, DenseDtype, InputType, Truncate, VectorSet};

/// Kinds of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OutputKind {
    /// One vector a text.
    Dense,
    /// Weighted terms.
    Sparse,
    /// One vector a token.
    Multivector,
}

impl OutputKind {
    /// Several; the model's own where there are none.
    pub(crate) fn set(kinds: &[Self]) -> VectorSet {
        let has = |kind| kinds.contains(&kind);
        VectorSet { dense: has(Self::Dense), sparse: has(Self::Sparse), multivector: has(Self::Multivector) }
    }
}

/// Element type of the vectors.
#[derive(Clone, Copy, Debug, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OutputDtype {
    /// 32-bit floats.
    #[default]
    #[serde(rename = "float32", alias = "f32")]
    F32,
    /// 16-bit floats.
    #[serde(rename = "float16", alias = "f16")]
    F16,
    /// Signed bytes: `round(127 x)`.
    Int8,
    /// Unsigned bytes: the signed form plus 128.
    Uint8,
    /// One bit a dimension, eight to a byte, most significant first.
    Binary,
}

impl From<OutputDtype> for DenseDtype {
    fn from(dtype: OutputDtype) -> Self {
        match dtype {
            OutputDtype::F32 => Self::F32,
            OutputDtype::F16 => Self::F16,
            OutputDtype::Int8 => Self::I8,
            OutputDtype::Uint8 => Self::U8,
            OutputDtype::Binary => Self::Bits,
        }
    }
}

/// What texts are.
#[derive(Clone, Copy, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum InputKind {
    /// What is looked for.
    Query,
    /// Where it is looked for.
    Document,
}

impl From<InputKind> for InputType {
    fn from(kind: InputKind) -> Self {
        match kind {
            InputKind::Query => Self::Query,
            InputKind::Document => Self::Document,
        }
    }
}

/// An end of a text.
#[derive(Clone, Copy, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// The end.
    Right,
    /// The beginning.
    Left,
}

impl From<Side> for Truncate {
    fn from(side: Side) -> Self {
        match side {
            Side::Right => Self::Right,
            Side::Left => Self::Left,
        }
    }
}

/// What becomes of the chunks of a text.
#[derive(Clone, Copy, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChunkKind {
    /// Each is read alone; the text has the mean of their vectors, by their tokens.
    Mean,
    /// The text is read as a whole; each chunk has the mean of its tokens (late chunking).
    Late,
}

impl From<ChunkKind> for ChunkPooling {
    fn from(kind: ChunkKind) -> Self {
        match kind {
            ChunkKind::Mean => Self::Mean,
            ChunkKind::Late => Self::Late,
        }
    }
}
