//! What a model answered for one text: views into the blocks in which answers arrive.

use std::borrow::Cow;
use std::sync::Arc;

use shoal_protocol::message::{
    Answers, ChunkBlock, ChunkPlace, ClassBlock, DenseBlock, DenseDtype, Input, ItemOutcome,
    MultivectorBlock, SpanBlock, SparseBlock, Task,
};

use super::item::ItemResult;

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
        as_f32(self.dtype(), self.bytes())
    }
}

fn as_f32(dtype: DenseDtype, bytes: &[u8]) -> Option<Cow<'_, [f32]>> {
    if dtype != DenseDtype::F32 {
        return None;
    }
    if cfg!(target_endian = "little")
        && let Ok(values) = bytemuck::try_cast_slice(bytes)
    {
        return Some(Cow::Borrowed(values));
    }
    let (quads, _) = bytes.as_chunks::<4>();
    Some(Cow::Owned(quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect()))
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

/// Where row `row` lies among the entries that `ends` cuts.
fn range(ends: &[u32], row: usize) -> std::ops::Range<usize> {
    let end_of = |row: usize| ends[row] as usize;
    row.checked_sub(1).map_or(0, end_of)..end_of(row)
}

/// One sparse vector: weights of some entries of the vocabulary. Cloning shares the block in which it arrived.
#[derive(Clone)]
pub struct SparseVector {
    block: Arc<SparseBlock>,
    row: usize,
}

impl SparseVector {
    /// Positions in the vocabulary, as many as [`values`](Self::values).
    #[must_use]
    pub fn indices(&self) -> &[u32] {
        &self.block.indices[range(&self.block.ends, self.row)]
    }

    /// Their weights.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.block.values[range(&self.block.ends, self.row)]
    }
}

impl PartialEq for SparseVector {
    fn eq(&self, other: &Self) -> bool {
        self.indices() == other.indices() && self.values() == other.values()
    }
}

impl std::fmt::Debug for SparseVector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SparseVector({} entries)", self.indices().len())
    }
}

/// A vector for each token of a text that counts. Cloning shares the block in which it arrived.
#[derive(Clone)]
pub struct Multivector {
    block: Arc<MultivectorBlock>,
    row: usize,
}

impl Multivector {
    /// Element type.
    #[must_use]
    pub fn dtype(&self) -> DenseDtype {
        self.block.dtype
    }

    /// Values of each vector.
    #[must_use]
    pub fn dims(&self) -> u32 {
        self.block.dims
    }

    /// How many vectors there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a text that has no vector has failed")]
    pub fn len(&self) -> usize {
        range(&self.block.ends, self.row).len()
    }

    /// All of them, one after the other: `len() * dtype.row_bytes(dims)` bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let vectors = range(&self.block.ends, self.row);
        let vector_bytes = self.block.dtype.row_bytes(self.block.dims);
        &self.block.data[vectors.start * vector_bytes..vectors.end * vector_bytes]
    }

    /// The values `[len, dims]` of f32 vectors; `None` for every other element type.
    #[must_use]
    pub fn as_f32(&self) -> Option<Cow<'_, [f32]>> {
        as_f32(self.dtype(), self.bytes())
    }
}

impl PartialEq for Multivector {
    fn eq(&self, other: &Self) -> bool {
        self.dtype() == other.dtype() && self.dims() == other.dims() && self.bytes() == other.bytes()
    }
}

impl std::fmt::Debug for Multivector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Multivector({} of {:?} x {})", self.len(), self.dtype(), self.dims())
    }
}

/// The chunks of a text, in its order, each with a vector. Cloning shares the block in which they arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunks {
    /// One for each chunk.
    pub vectors: Multivector,
    /// Where each stands.
    pub places: Arc<[ChunkPlace]>,
}

/// The representations of one text: those that were asked for, or the model's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    /// One vector.
    pub dense: Option<Vector>,
    /// Weights of entries of the vocabulary.
    pub sparse: Option<SparseVector>,
    /// A vector for each token.
    pub multivector: Option<Multivector>,
}

/// A stretch of a text with a label.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// First Unicode code point of the caller's text.
    pub start: u32,
    /// The one after the last.
    pub end: u32,
    /// What it is.
    pub label: Arc<str>,
    /// How sure the model is.
    pub score: f32,
    /// The stretch itself.
    pub text: String,
}

/// How well a label fits a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// The label.
    pub label: Arc<str>,
    /// How well.
    pub score: f32,
}

/// What a model answered for one text.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To encode.
    Vectors(Vectors),
    /// To encode with late chunking.
    Chunks(Chunks),
    /// To score.
    Score(f32),
    /// To extract, by a model that finds spans: in the order of the text.
    Spans(Vec<Span>),
    /// To extract, by a model that classifies: best first, equal ones in the order of the model's labels.
    Classes(Vec<Class>),
}

/// The answers of one frame, row by row. The frame was checked by `decode`: every row is there.
pub(super) struct AnswerRows {
    blocks: Blocks,
    row: usize,
}

impl From<Answers> for AnswerRows {
    fn from(answers: Answers) -> Self {
        Self { blocks: answers.into(), row: 0 }
    }
}

impl AnswerRows {
    /// What became of the frame's next item, whose text was `input`; `None` where that is no longer asked for. Otherwise
    /// how the peer broke its word.
    pub(super) fn next(
        &mut self,
        outcome: ItemOutcome,
        task: &Task,
        input: Option<&Input>,
    ) -> Result<Option<ItemResult>, &'static str> {
        let row = self.row;
        let (tokens, truncated) = match outcome {
            ItemOutcome::Answered { tokens, truncated } => (tokens, truncated),
            ItemOutcome::Failed { code, message, tokens, limit } => {
                return Ok(input.map(|_| ItemResult::Failed { code, message, tokens, limit }));
            }
        };
        self.row += 1;
        let Some(input) = input else {
            return Ok(None);
        };
        if !self.blocks.fit(task) {
            return Err("an answer to another question");
        }
        let answer = self.blocks.row(row, input, task).ok_or("a span outside of its text")?;
        Ok(Some(ItemResult::Answered { tokens, truncated, answer }))
    }
}

enum Blocks {
    Vectors {
        dense: Option<Arc<DenseBlock>>,
        sparse: Option<Arc<SparseBlock>>,
        multivector: Option<Arc<MultivectorBlock>>,
    },
    Chunks(Arc<MultivectorBlock>, Vec<ChunkPlace>),
    Scores(Vec<f32>),
    Spans(Vec<Arc<str>>, SpanBlock),
    Classes(Vec<Arc<str>>, ClassBlock),
}

impl From<Answers> for Blocks {
    fn from(answers: Answers) -> Self {
        let shared = |labels: &mut Vec<String>| std::mem::take(labels).into_iter().map(Arc::from).collect();
        match answers {
            Answers::Vectors { dense, sparse, multivector } => Self::Vectors {
                dense: dense.map(Arc::new),
                sparse: sparse.map(Arc::from),
                multivector: multivector.map(Arc::from),
            },
            Answers::Chunks(block) => {
                let ChunkBlock { vectors, places } = *block;
                Self::Chunks(Arc::new(vectors), places)
            }
            Answers::Scores(scores) => Self::Scores(scores),
            Answers::Spans(mut block) => Self::Spans(shared(&mut block.labels), block),
            Answers::Classes(mut block) => Self::Classes(shared(&mut block.labels), block),
        }
    }
}

impl Blocks {
    /// Whether these are answers to such a task.
    fn fit(&self, task: &Task) -> bool {
        match (self, task) {
            (Self::Vectors { dense, sparse, multivector }, Task::Encode(options)) => {
                let wanted = options.outputs;
                !options.is_late()
                    && (dense.is_some() || !wanted.dense)
                    && (sparse.is_some() || !wanted.sparse)
                    && (multivector.is_some() || !wanted.multivector)
            }
            (Self::Chunks(..), Task::Encode(options)) => options.is_late(),
            (Self::Scores(_), Task::Score(_)) | (Self::Spans(..) | Self::Classes(..), Task::Extract(_)) => {
                true
            }
            _ => false,
        }
    }

    /// The answer of a row to this input; `None` where it speaks of what is not in the text.
    fn row(&self, row: usize, input: &Input, task: &Task) -> Option<Answer> {
        Some(match self {
            Self::Vectors { dense, sparse, multivector } => Answer::Vectors(Vectors {
                dense: dense.clone().map(|block| Vector { block, row }),
                sparse: sparse.clone().map(|block| SparseVector { block, row }),
                multivector: multivector.clone().map(|block| Multivector { block, row }),
            }),
            Self::Chunks(block, places) => Answer::Chunks(Chunks {
                places: places[range(&block.ends, row)].into(),
                vectors: Multivector { block: block.clone(), row },
            }),
            Self::Scores(scores) => Answer::Score(scores[row]),
            Self::Spans(labels, block) => Answer::Spans(spans_of(labels, block, row, input)?),
            Self::Classes(labels, block) => {
                let threshold = match task {
                    Task::Extract(options) => options.threshold,
                    Task::Encode(_) | Task::Score(_) => None,
                };
                let scores = &block.scores[row * labels.len()..][..labels.len()];
                let kept = labels.iter().zip(scores);
                let kept = kept.filter(|(_, score)| threshold.is_none_or(|threshold| **score >= threshold));
                let class = |(label, score): (&Arc<str>, &f32)| Class { label: label.clone(), score: *score };
                let mut classes: Vec<_> = kept.map(class).collect();
                classes.sort_by(|a, b| b.score.total_cmp(&a.score));
                Answer::Classes(classes)
            }
        })
    }
}

fn spans_of(labels: &[Arc<str>], block: &SpanBlock, row: usize, input: &Input) -> Option<Vec<Span>> {
    let spans = &block.spans[range(&block.ends, row)];
    if spans.is_empty() {
        return Some(Vec::new());
    }
    let Input::Text(text) = input else {
        return None;
    };
    let starts = text.char_indices().map(|(start, _)| start);
    let bounds: Vec<usize> = starts.chain([text.len()]).collect();
    let span_of = |span: &shoal_protocol::message::Span| {
        let stretch = *bounds.get(span.start as usize)?..*bounds.get(span.end as usize)?;
        Some(Span {
            start: span.start,
            end: span.end,
            label: labels[span.label as usize].clone(),
            score: span.score,
            text: text[stretch].to_owned(),
        })
    };
    spans.iter().map(span_of).collect()
}
