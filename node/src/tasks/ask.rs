//! What a caller asks for, held against the model.

use std::sync::Arc;

use shoal_kernels::spec::Poolings;
use shoal_kernels::{
    CpuIsa, Matryoshka, MultivectorTexts, OutputSet, PairTemplate, Prompts, ScoreActivation, SpanTexts,
};
use shoal_protocol::ErrorCode;
use shoal_protocol::message::{Input, InputType, Numerics, Task, TaskResult};

use crate::config::TokenIdsPolicy;
use crate::tasks::chunks::ChunkGather;
use crate::tasks::encode::{self, VectorGather};
use crate::tasks::extract::{self, Extracting};
use crate::tasks::frames::{failure_frames, result_frames};
use crate::tasks::joining::Joining;
use crate::tasks::reading::{Preparation, Reading, multivector_of};
use crate::tasks::rows::Rows;
use crate::tasks::score::{self, Scoring};
use crate::tasks::tokenizer::ItemFailure;

/// What a model can do for a caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities<'a> {
    /// The outputs of its heads.
    pub(crate) gives: OutputSet,
    /// Values of its dense vectors.
    pub(crate) dims: u32,
    /// To which smaller widths they may be cut.
    pub(crate) matryoshka: &'a Matryoshka,
    /// Whether its own pipeline normalises.
    pub(crate) normalizes: bool,
    /// How its dense vectors come about.
    pub(crate) pooling: &'a Poolings,
    /// Whether no file says that it embeds texts.
    pub(crate) pooling_assumed: bool,
    /// What its logits stand for.
    pub(crate) labels: &'a [String],
    /// Whether several of its labels may hold at once.
    pub(crate) multi_label: bool,
    /// What becomes of the one logit of a cross-encoder.
    pub(crate) score_activation: ScoreActivation,
    /// What texts need before each of their tokens gets a vector.
    pub(crate) multivector: Option<&'a MultivectorTexts>,
    /// How it is told the labels of the spans that it looks for.
    pub(crate) span_texts: Option<&'a SpanTexts>,
    /// What stands around a query and a text, where it judges them as a language model.
    pub(crate) pair_template: Option<&'a PairTemplate>,
    /// Whether its tokenizer puts two texts into one sequence.
    pub(crate) takes_pairs: bool,
    /// Whether its dense vectors may be pooled here from parts of a text.
    pub(crate) pools_parts: bool,
    /// The precision in which it runs here.
    pub(crate) numerics: Numerics,
    /// Of the processor that compares vectors.
    pub(crate) isa: CpuIsa,
    /// Its prompts.
    pub(crate) prompts: &'a Prompts,
    /// Whether callers may send ids.
    pub(crate) token_ids: TokenIdsPolicy,
}

impl Abilities<'_> {
    /// What is done to texts of an input type behind a prompt, where these outputs are wanted.
    pub(super) fn preparation(
        &self,
        prompt: Option<&str>,
        input_type: Option<InputType>,
        wanted: OutputSet,
    ) -> Preparation {
        let texts = self.multivector.filter(|_| wanted.multivector);
        Preparation {
            prompt: prompt.filter(|prompt| !prompt.is_empty()).map(Arc::from),
            multivector: texts.map(|texts| multivector_of(texts, input_type)),
        }
    }
}

/// A request that asks for what the model cannot give. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// There is nothing to read.
    #[error("the request holds no text")]
    NoItems,
    /// The model has no head for the primitive.
    #[error("the model has no head for {task}: it gives {gives}")]
    NoHead {
        /// The primitive.
        task: &'static str,
        /// What there is a head for.
        gives: OutputSet,
    },
    /// The model has no head for a representation.
    #[error("{wanted} was asked for and the model gives {gives}")]
    Outputs {
        /// Asked for.
        wanted: OutputSet,
        /// What there is a head for.
        gives: OutputSet,
    },
    /// Chunks have dense vectors only.
    #[error("chunks of texts have dense vectors, and {wanted} was asked for")]
    Chunks {
        /// Asked for.
        wanted: OutputSet,
    },
    /// The vector of a chunk is the mean of its tokens.
    #[error("late chunking takes the mean of a chunk's tokens, and this model pools by {pooling}")]
    LateChunks {
        /// The model's.
        pooling: Poolings,
    },
    /// The device pools whole texts.
    #[error(
        "late chunking is not done by the device that this model is on; chunk the texts, or put it on the CPU"
    )]
    LateChunksHere,
    /// A classifier of several labels has no score.
    #[error("a score needs a model with one label, and this one has {labels}: extract gives them all")]
    ScoreLabels {
        /// How many it has.
        labels: usize,
    },
    /// A bare encoder was not made to compare texts.
    #[error("the model has no head for score: no file says how its token vectors become one to compare")]
    PoolingAssumed,
    /// The tokenizer frames single texts only.
    #[error("the model's tokenizer does not put a query and a text into one sequence")]
    NoPairs,
    /// Only a model of entailment is asked about labels that it does not know.
    #[error(
        "only a model of entailment takes a hypothesis or several labels of the caller's: this one gives {gives}"
    )]
    NoHypotheses {
        /// What there is a head for.
        gives: OutputSet,
    },
    /// Spans have no raw scores.
    #[error("the scores of spans are probabilities: there are no raw ones")]
    RawSpans,
    /// Nothing is looked for.
    #[error("this model finds spans by the labels that it is given, and none is given")]
    NoLabels,
    /// Spans that a model's own labels cut out of a text lie side by side.
    #[error("only a model that finds spans by the caller's labels can nest them: this one gives {gives}")]
    NoNesting {
        /// What there is a head for.
        gives: OutputSet,
    },
    /// A label that the model does not have.
    #[error("the model has no label {label:?}; it has {}", known.join(", "))]
    Label {
        /// Asked for.
        label: String,
        /// What there is.
        known: Vec<String>,
    },
    /// More values than the model has, none, or fewer than it was trained for.
    #[error("{wanted} dims were asked for; this model's vectors have {dims} dims and {matryoshka}")]
    Dims {
        /// Asked for.
        wanted: u32,
        /// The model's.
        dims: u32,
        /// What it allows.
        matryoshka: Matryoshka,
    },
    /// The model has no such prompt.
    #[error("the model has no prompt {name:?}; it has {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    Prompt {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The device runs the model in another precision.
    #[error(
        "the model runs here in {has:?} and {wanted:?} was asked for; ask a node that has it, or for any"
    )]
    Numerics {
        /// Asked for.
        wanted: Numerics,
        /// Present.
        has: Numerics,
    },
    /// Ids are not taken.
    #[error("token ids are not taken here: send text, or configure token_ids = \"model\"")]
    TokenIds,
    /// Ids cannot be framed, or have no places.
    #[error("{task} reads texts and takes no token ids")]
    TextsOnly {
        /// The primitive.
        task: &'static str,
    },
}

impl AskError {
    /// The code on the wire.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Numerics { .. }
            | Self::NoHead { .. }
            | Self::Outputs { .. }
            | Self::Chunks { .. }
            | Self::LateChunks { .. }
            | Self::LateChunksHere
            | Self::ScoreLabels { .. }
            | Self::PoolingAssumed
            | Self::NoPairs => ErrorCode::ModelUnsupported,
            Self::NoItems
            | Self::NoHypotheses { .. }
            | Self::RawSpans
            | Self::NoLabels
            | Self::NoNesting { .. }
            | Self::Label { .. }
            | Self::Dims { .. }
            | Self::Prompt { .. }
            | Self::TokenIds
            | Self::TextsOnly { .. } => ErrorCode::InvalidRequest,
        }
    }
}

/// A request that the model can answer.
#[derive(Debug)]
pub(crate) struct Ask {
    /// What is read: the caller's texts, and what is read with them.
    pub(crate) items: Vec<Input>,
    /// How.
    pub(crate) reading: Reading,
    /// The outputs of the pass that the answer is made of.
    pub(crate) wanted: OutputSet,
    /// What makes it.
    pub(crate) answering: Answering,
}

impl Ask {
    /// Holds a request against a model.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(crate) fn new(task: Task, mut items: Vec<Input>, abilities: Abilities<'_>) -> Result<Self, AskError> {
        if items.is_empty() {
            return Err(AskError::NoItems);
        }
        let (wanted, has) = (task.numerics(), abilities.numerics);
        if wanted != Numerics::Any && wanted != has {
            return Err(AskError::Numerics { wanted, has });
        }
        if items.iter().any(|item| matches!(item, Input::TokenIds(_))) {
            match &task {
                Task::Encode(options) if options.chunking.is_none() => {}
                Task::Encode(_) => return Err(AskError::TextsOnly { task: "encode in chunks" }),
                other => return Err(AskError::TextsOnly { task: other.name() }),
            }
            if abilities.token_ids == TokenIdsPolicy::Refuse {
                return Err(AskError::TokenIds);
            }
        }
        let (wanted, reading, answering) = match task {
            Task::Encode(options) => {
                let chunking = options.chunking.as_deref().copied();
                let (wanted, reading, gather) = encode::ask(options, abilities)?;
                let answering = match chunking {
                    None => Answering::Vectors(gather),
                    Some(chunking) => gather.of_chunks(chunking),
                };
                (wanted, reading, answering)
            }
            Task::Score(options) => {
                let (wanted, reading, scoring) = score::ask(options, &mut items, abilities)?;
                (wanted, reading, Answering::Scores(scoring))
            }
            Task::Extract(options) => extract::ask(options, abilities)?,
        };
        Ok(Self { items, reading, wanted, answering })
    }
}

/// Rows of batches to result frames, for one request.
#[derive(Debug)]
pub(crate) enum Answering {
    /// Of encode.
    Vectors(VectorGather),
    /// Of encode, for the chunks of texts.
    Chunks(ChunkGather),
    /// Of texts that are several sequences: what becomes of each text once it is whole.
    Joined(Joining, Box<Answering>),
    /// Of score.
    Scores(Scoring),
    /// Of extract.
    Extracts(Extracting),
}

impl Answering {
    /// The frames that can be made now that these rows are there.
    pub(crate) fn handle_rows(&mut self, rows: Rows) -> Vec<TaskResult> {
        match self {
            Self::Vectors(gather) => result_frames(gather, &rows),
            Self::Chunks(gather) => result_frames(gather, &rows),
            Self::Joined(joining, answering) => answering.handle_rows(joining.handle_rows(&rows)),
            Self::Scores(scoring) => scoring.handle_rows(rows),
            Self::Extracts(Extracting::Spans(gather)) => result_frames(gather, &rows),
            Self::Extracts(Extracting::Found(gather)) => result_frames(gather, &rows),
            Self::Extracts(Extracting::Classes(gather)) => result_frames(gather, &rows),
        }
    }

    /// The frames of texts that failed by themselves.
    ///
    /// # Errors
    /// The one that failed is the query, without which there is no answer to any.
    pub(crate) fn handle_failures(
        &self,
        mut failures: Vec<(u32, ItemFailure)>,
    ) -> Result<Vec<TaskResult>, ItemFailure> {
        if matches!(self, Self::Scores(Scoring::Vectors(_))) {
            if let Some(at) = failures.iter().position(|(index, _)| *index == 0) {
                let failure = failures.swap_remove(at).1;
                return Err(ItemFailure { message: format!("the query: {}", failure.message), ..failure });
            }
            failures.iter_mut().for_each(|(index, _)| *index -= 1);
        }
        Ok(failure_frames(failures))
    }
}

/// A model and a batch for tests.
#[cfg(test)]
pub(in crate::tasks) mod testing {
    use std::sync::Arc;

    use shoal_kernels::Outputs;

    use shoal_kernels::spec::Pooling;

    use super::*;
    use crate::tasks::rows::Row;
    use crate::tasks::tokenizer::Part;

    pub(in crate::tasks) fn prompts() -> Prompts {
        Prompts {
            by_name: [("query", "query: "), ("plain", "")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into(),
            default_name: None,
        }
    }

    static MEAN: std::sync::LazyLock<Poolings> = std::sync::LazyLock::new(|| Poolings(vec![Pooling::Mean]));

    pub(in crate::tasks) fn abilities(prompts: &Prompts) -> Abilities<'_> {
        Abilities {
            gives: OutputSet::DENSE,
            dims: 32,
            matryoshka: &Matryoshka::Any,
            normalizes: true,
            pooling: &MEAN,
            pooling_assumed: false,
            labels: &[],
            multi_label: false,
            score_activation: ScoreActivation::Identity,
            multivector: None,
            span_texts: None,
            pair_template: None,
            pools_parts: true,
            takes_pairs: true,
            numerics: Numerics::Bits16,
            isa: CpuIsa::detect(),
            prompts,
            token_ids: TokenIdsPolicy::Refuse,
        }
    }

    pub(in crate::tasks) fn text() -> Vec<Input> {
        vec![Input::Text("a".to_owned())]
    }

    /// The rows of a batch of so many texts of so many tokens.
    pub(in crate::tasks) fn rows_of(outputs: Outputs, count: usize, tokens: usize) -> Rows {
        let row = |at: usize| Row {
            index: at as u32,
            row: at as u32,
            tokens: tokens as u32,
            first_token: (at * tokens) as u32,
            truncated: false,
            part: Part::WHOLE,
            chunks: 0,
            first_chunk: 0,
        };
        let rows = (0..count).map(row).collect();
        Rows { outputs: Arc::new(outputs), rows, places: Vec::new(), chunks: Vec::new() }
    }
}
