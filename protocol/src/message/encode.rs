//! Texts in, vectors out.

use rkyv::{Archive, Deserialize, Serialize};

use crate::code::ErrorCode;
use crate::header::Kind;
use crate::ids::{Place, RequestId};
use crate::limits::{
    DECISION_BYTES_MAX, DENSE_DIMS_MAX, ITEM_TEXT_BYTES_MAX, ITEM_TOKEN_IDS_MAX, MODEL_NAME_BYTES_MAX,
    REDIRECTS_MAX, REQUEST_ITEMS_MAX,
};
use crate::trace::TraceContext;
use crate::units::Micros;
use crate::wire::{DecodeError, wire_message};

/// One text of a request.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// UTF-8 text, tokenized at the node. The empty text is valid.
    Text(String),
    /// Ids of the model's own vocabulary, special tokens included; the node checks the range.
    TokenIds(Vec<u32>),
}

impl Input {
    /// Bytes that admission counts before tokenizing.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::TokenIds(ids) => size_of_val(ids.as_slice()),
        }
    }
}

/// Who waits for the answer.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[repr(u8)]
pub enum Priority {
    /// A person or an agent waits.
    #[default]
    Interactive = 0,
    /// An index is being built; yields to interactive work but is never starved (it ages).
    Bulk = 1,
}

/// What to do with a text over the model's limit.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Truncate {
    /// The item fails with `too_long`.
    #[default]
    Refuse = 0,
    /// Keep the beginning.
    Right = 1,
    /// Keep the end.
    Left = 2,
}

/// Which vectors may be mixed in one index: the precision in which the model was run.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[repr(u8)]
pub enum Numerics {
    /// The caller accepts whatever the device runs fastest.
    #[default]
    Any = 0,
    /// 32-bit floats throughout.
    F32 = 1,
    /// 16-bit storage (f16 or bf16), 32-bit accumulation.
    Bits16 = 2,
    /// 8-bit weights.
    Int8 = 3,
}

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

/// How to encode. The default is the model's own pipeline in f32.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Keep the first `dims` values and normalise again (Matryoshka models). `None`: all.
    pub dims: Option<u32>,
    /// Element type of the vectors.
    pub output_dtype: DenseDtype,
    /// L2 normalisation: `None` does what the model's own pipeline does.
    pub normalize: Option<bool>,
    /// A prompt of the model's configuration, put in front of every text. `None`: the model's default prompt.
    pub prompt_name: Option<String>,
    /// What to do with long texts.
    pub truncate: Truncate,
    /// The precision class that the vectors must have.
    pub numerics: Numerics,
}

/// One attempt to encode some texts on one device's node.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EncodeRequest {
    /// The caller's request; equal for every attempt and part of it.
    pub request_id: RequestId,
    /// Which part of a split request this is, and which attempt at it.
    pub part: u32,
    /// Counts the attempts at this part from zero; results of a superseded attempt are dropped.
    pub attempt: u32,
    /// Whom it is for; `None` leaves it to the node that gets it.
    pub to: Option<Place>,
    /// How often the part was redirected: a node does not redirect what comes with [`REDIRECTS_MAX`], but queues it.
    pub redirects: u8,
    /// Model name or alias.
    pub model: String,
    /// The texts; results name them by their position here.
    pub items: Vec<Input>,
    /// How to encode them.
    pub options: EncodeOptions,
    /// Time left until the caller gives up, counted from the arrival of this frame: clocks are never compared.
    pub deadline_us: Option<Micros>,
    /// Who waits.
    pub priority: Priority,
    /// The router's decision record, opaque here, kept for `explain`.
    pub decision: Vec<u8>,
    /// The trace that the caller wants this to be part of.
    pub trace: Option<TraceContext>,
}

wire_message!(EncodeRequest, Kind::EncodeRequest);

impl EncodeRequest {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let rule = |kept: bool, what| {
            if kept { Ok(()) } else { Err(DecodeError::Limit { kind: Kind::EncodeRequest, what }) }
        };
        rule(self.items.len() <= REQUEST_ITEMS_MAX, "too many items in one request")?;
        rule(self.model.len() <= MODEL_NAME_BYTES_MAX, "model name too long")?;
        rule(self.redirects <= REDIRECTS_MAX, "redirected too often")?;
        rule(self.decision.len() <= DECISION_BYTES_MAX, "decision record too long")?;
        rule(self.trace.is_none_or(|trace| trace.is_valid()), "a trace without an id")?;
        rule(
            self.options.prompt_name.as_ref().is_none_or(|name| name.len() <= MODEL_NAME_BYTES_MAX),
            "prompt name too long",
        )?;
        rule(
            self.items.iter().all(|item| match item {
                Input::Text(text) => text.len() <= ITEM_TEXT_BYTES_MAX,
                Input::TokenIds(ids) => ids.len() <= ITEM_TOKEN_IDS_MAX,
            }),
            "an item is too long to be tokenized",
        )
    }
}

/// What became of one item.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ItemOutcome {
    /// Encoded: its vector is the next row of the frame's block.
    Encoded {
        /// Tokens that the model saw, special tokens included.
        tokens: u32,
        /// Whether the text was cut to the limit.
        truncated: bool,
    },
    /// Failed by itself; the others proceed.
    Failed {
        /// Why.
        code: ErrorCode,
        /// For people.
        message: String,
        /// Tokens of the text, where they were counted (else 0).
        tokens: u32,
        /// The limit that it broke (else 0).
        limit: u32,
    },
}

/// Dense vectors, row after row.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct DenseBlock {
    /// Element type.
    pub dtype: DenseDtype,
    /// Values of one row.
    pub dims: u32,
    /// Rows: one for each encoded item of the frame, in item order.
    pub rows: u32,
    /// `rows * dtype.row_bytes(dims)` bytes.
    pub data: Vec<u8>,
}

/// Results of some items. Every item of a request is in exactly one such frame, unless the attempt fails.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EncodeResult {
    /// Positions of the items in the request.
    pub indices: Vec<u32>,
    /// What became of each, in the order of `indices`.
    pub outcomes: Vec<ItemOutcome>,
    /// The vectors of the encoded ones.
    pub dense: DenseBlock,
}

wire_message!(EncodeResult, Kind::EncodeResult);

impl EncodeResult {
    /// That indices, outcomes, rows and bytes agree, so that a reader may index without checks.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let encoded =
            self.outcomes.iter().filter(|outcome| matches!(outcome, ItemOutcome::Encoded { .. })).count();
        let rows = self.dense.rows as usize;
        let sound = self.indices.len() == self.outcomes.len()
            && self.indices.len() <= REQUEST_ITEMS_MAX
            && self.indices.iter().all(|index| (*index as usize) < REQUEST_ITEMS_MAX)
            && rows == encoded
            && self.dense.dims <= DENSE_DIMS_MAX
            && self.dense.data.len() == rows * self.dense.dtype.row_bytes(self.dense.dims);
        let what = "indices, outcomes and vectors do not agree";
        if sound { Ok(()) } else { Err(DecodeError::Limit { kind: Kind::EncodeResult, what }) }
    }
}

/// Where an unfinished attempt stands.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Waiting for a lane.
    Queued = 0,
    /// Its model is being loaded.
    Loading = 1,
    /// In a batch on the device.
    Running = 2,
}

/// Sent every 100-250 ms while an attempt is unfinished. It proves progress, not just a live socket: the counter
/// is the device's, and a device whose batch overruns stops sending.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Where the attempt stands.
    pub phase: Phase,
    /// Tokens in front of it.
    pub queue_tokens: u64,
    /// The device's count of finished batches.
    pub batches_done: u64,
    /// Estimated time until the first result (while loading: until ready).
    pub eta_us: Micros,
}

wire_message!(Beacon, Kind::Beacon);
