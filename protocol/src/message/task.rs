//! What every primitive has in common: the request, its texts, and what became of each of them.

use rkyv::{Archive, Deserialize, Serialize};

use crate::code::ErrorCode;
use crate::header::Kind;
use crate::ids::{Place, RequestId};
use crate::limits::{
    DECISION_BYTES_MAX, ITEM_TEXT_BYTES_MAX, ITEM_TOKEN_IDS_MAX, MODEL_NAME_BYTES_MAX, REDIRECTS_MAX,
    REQUEST_ITEMS_MAX,
};
use crate::message::encode::{ChunkBlock, DenseBlock, EncodeOptions, MultivectorBlock, SparseBlock};
use crate::message::extract::{ClassBlock, ExtractOptions, SpanBlock};
use crate::message::rule;
use crate::message::score::ScoreOptions;
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

/// What to do with the texts of a request: one of the primitives, and how.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Task {
    /// Texts to vectors.
    Encode(EncodeOptions),
    /// Texts to how well they answer a query.
    Score(ScoreOptions),
    /// Texts to what is in them.
    Extract(ExtractOptions),
}

impl Default for Task {
    fn default() -> Self {
        Self::Encode(EncodeOptions::default())
    }
}

impl From<EncodeOptions> for Task {
    fn from(options: EncodeOptions) -> Self {
        Self::Encode(options)
    }
}

impl From<ScoreOptions> for Task {
    fn from(options: ScoreOptions) -> Self {
        Self::Score(options)
    }
}

impl From<ExtractOptions> for Task {
    fn from(options: ExtractOptions) -> Self {
        Self::Extract(options)
    }
}

impl Task {
    /// The primitive's name, as in metrics and commands.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Encode(_) => "encode",
            Self::Score(_) => "score",
            Self::Extract(_) => "extract",
        }
    }

    /// The precision class in which the model must run.
    #[must_use]
    pub const fn numerics(&self) -> Numerics {
        match self {
            Self::Encode(options) => options.numerics,
            Self::Score(options) => options.numerics,
            Self::Extract(options) => options.numerics,
        }
    }

    /// What to do with long texts.
    #[must_use]
    pub const fn truncate(&self) -> Truncate {
        match self {
            Self::Encode(options) => options.truncate,
            Self::Score(options) => options.truncate,
            Self::Extract(options) => options.truncate,
        }
    }

    /// How much of the text of an item a model may have to read.
    #[must_use]
    pub fn item_work(&self) -> ItemWork {
        match self {
            Self::Encode(_) => ItemWork::default(),
            Self::Score(options) => {
                ItemWork { bytes_beside: options.query.len() as u64, ..ItemWork::default() }
            }
            Self::Extract(options) => options.item_work(),
        }
    }

    /// Whether it keeps the rules that hold for every model.
    ///
    /// # Errors
    /// The rule that is broken, in words for people.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Encode(options) => options.check(),
            Self::Score(options) => options.check(),
            Self::Extract(options) => options.check(),
        }
    }
}

/// How much a model may have to read for an item: it tells how much work the item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemWork {
    /// How often it reads the item's own text.
    pub times: u64,
    /// Bytes that it reads beside it, in all.
    pub bytes_beside: u64,
}

impl Default for ItemWork {
    /// Once, and nothing beside.
    fn default() -> Self {
        Self { times: 1, bytes_beside: 0 }
    }
}

impl ItemWork {
    /// Bytes that are read for so many items with so many bytes of text in all.
    #[must_use]
    pub const fn bytes(self, bytes: u64, items: u64) -> u64 {
        bytes.saturating_mul(self.times).saturating_add(items.saturating_mul(self.bytes_beside))
    }
}

/// One attempt at some texts on one device's node.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct TaskRequest {
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
    /// What to do with them.
    pub task: Task,
    /// Time left until the caller gives up, counted from the arrival of this frame: clocks are never compared.
    pub deadline_us: Option<Micros>,
    /// Who waits.
    pub priority: Priority,
    /// The router's decision record, opaque here, kept for `explain`.
    pub decision: Vec<u8>,
    /// The trace that the caller wants this to be part of.
    pub trace: Option<TraceContext>,
}

wire_message!(TaskRequest, Kind::TaskRequest);

impl TaskRequest {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let rule = |kept, what| rule(Kind::TaskRequest, kept, what);
        rule(self.items.len() <= REQUEST_ITEMS_MAX, "too many items in one request")?;
        rule(self.model.len() <= MODEL_NAME_BYTES_MAX, "model name too long")?;
        rule(self.redirects <= REDIRECTS_MAX, "redirected too often")?;
        rule(self.decision.len() <= DECISION_BYTES_MAX, "decision record too long")?;
        rule(self.trace.is_none_or(|trace| trace.is_valid()), "a trace without an id")?;
        self.task.check().map_err(|what| DecodeError::Limit { kind: Kind::TaskRequest, what })?;
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
    /// Answered: it is the next row of the frame's answers.
    Answered {
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

/// What came out for the items of a frame that did not fail, a row for each in item order. Scores and weights are
/// numbers: an item for which a model gives none has failed.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Answers {
    /// Of [`Task::Encode`]: at least one of them where there is a row.
    Vectors {
        /// One vector a text.
        dense: Option<DenseBlock>,
        /// One sparse vector a text.
        sparse: Option<Box<SparseBlock>>,
        /// Some vectors a text.
        multivector: Option<Box<MultivectorBlock>>,
    },
    /// Of [`Task::Encode`] with late chunking.
    Chunks(Box<ChunkBlock>),
    /// Of [`Task::Score`].
    Scores(Vec<f32>),
    /// Of [`Task::Extract`], by a model that finds spans.
    Spans(SpanBlock),
    /// Of [`Task::Extract`], by a model that classifies whole texts.
    Classes(ClassBlock),
}

impl Answers {
    /// Answers of a frame that has none: all of its items failed.
    pub const NONE: Self = Self::Vectors { dense: None, sparse: None, multivector: None };

    fn is_sound(&self, rows: usize) -> bool {
        match self {
            Self::Vectors { dense, sparse, multivector } => {
                (rows == 0 || dense.is_some() || sparse.is_some() || multivector.is_some())
                    && dense.as_ref().is_none_or(|block| block.is_sound(rows))
                    && sparse.as_ref().is_none_or(|block| block.is_sound(rows))
                    && multivector.as_ref().is_none_or(|block| block.is_sound(rows))
            }
            Self::Chunks(block) => block.is_sound(rows),
            Self::Scores(scores) => scores.len() == rows && scores.iter().all(|score| score.is_finite()),
            Self::Spans(block) => block.is_sound(rows),
            Self::Classes(block) => block.is_sound(rows),
        }
    }
}

impl From<DenseBlock> for Answers {
    fn from(block: DenseBlock) -> Self {
        Self::Vectors { dense: Some(block), sparse: None, multivector: None }
    }
}

/// Whether `ends` cuts `total` entries into `rows` rows of at most `row_max`.
pub(crate) fn bounds_hold(ends: &[u32], rows: usize, total: usize, row_max: usize) -> bool {
    let mut start = 0;
    let holds = ends.iter().all(|end| {
        let length = (*end as usize).checked_sub(std::mem::replace(&mut start, *end as usize));
        length.is_some_and(|length| length <= row_max)
    });
    holds && ends.len() == rows && start == total
}

/// Results of some items. Every item of a request is in exactly one such frame, unless the attempt fails.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct TaskResult {
    /// Positions of the items in the request.
    pub indices: Vec<u32>,
    /// What became of each, in the order of `indices`.
    pub outcomes: Vec<ItemOutcome>,
    /// What came out for those that were answered.
    pub answers: Answers,
}

wire_message!(TaskResult, Kind::TaskResult);

impl TaskResult {
    /// That indices, outcomes and answers agree, so that a reader may index without checks.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let answered =
            self.outcomes.iter().filter(|outcome| matches!(outcome, ItemOutcome::Answered { .. })).count();
        let sound = self.indices.len() == self.outcomes.len()
            && self.indices.len() <= REQUEST_ITEMS_MAX
            && self.indices.iter().all(|index| (*index as usize) < REQUEST_ITEMS_MAX)
            && self.answers.is_sound(answered);
        rule(Kind::TaskResult, sound, "indices, outcomes and answers do not agree")
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
