//! The encode primitive: what a caller asks for, held against the model; and raw outputs to result frames.

use shoal_kernels::{Matryoshka, Prompts};
use shoal_protocol::ErrorCode;
use shoal_protocol::limits::ERROR_MESSAGE_BYTES_MAX;
use shoal_protocol::message::{
    Answers, DenseBlock, Input, ItemOutcome, Numerics, Task, TaskResult, VectorSet,
};

use crate::config::TokenIdsPolicy;
use crate::tasks::tokenizer::ItemFailure;
use crate::tasks::vectors::VectorForm;

/// Failed items in one frame: their messages are at most [`ERROR_MESSAGE_BYTES_MAX`] bytes each.
const FAILURES_PER_FRAME: usize = 1024;

/// What a model can do for a caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities<'a> {
    /// Values of its vectors.
    pub(crate) dims: u32,
    /// To which smaller widths they may be cut.
    pub(crate) matryoshka: &'a Matryoshka,
    /// Whether its own pipeline normalises.
    pub(crate) normalizes: bool,
    /// The precision in which it runs here.
    pub(crate) numerics: Numerics,
    /// Its prompts.
    pub(crate) prompts: &'a Prompts,
    /// Whether callers may send ids.
    pub(crate) token_ids: TokenIdsPolicy,
}

/// A request that asks for what the model cannot give. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// There is nothing to encode.
    #[error("the request holds no text")]
    NoItems,
    /// The model has no head for the primitive.
    #[error("the model gives dense vectors and has no head for {task}")]
    NoHead {
        /// The primitive.
        task: &'static str,
    },
    /// The model has no head for a representation.
    #[error("the model gives dense vectors only, and {wanted:?} was asked for")]
    Outputs {
        /// Asked for.
        wanted: VectorSet,
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
}

impl AskError {
    /// The code on the wire.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Numerics { .. } | Self::NoHead { .. } | Self::Outputs { .. } => ErrorCode::ModelUnsupported,
            Self::NoItems | Self::Dims { .. } | Self::Prompt { .. } | Self::TokenIds => {
                ErrorCode::InvalidRequest
            }
        }
    }
}

/// A request that the model can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask<'a> {
    /// How each vector leaves.
    pub(crate) form: VectorForm,
    /// What is put in front of each text.
    pub(crate) prompt: Option<&'a str>,
}

impl<'a> Ask<'a> {
    /// Holds a request against a model.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(crate) fn new(task: &Task, items: &[Input], abilities: Abilities<'a>) -> Result<Self, AskError> {
        let Abilities { dims, matryoshka, normalizes, numerics, prompts, token_ids } = abilities;
        if items.is_empty() {
            return Err(AskError::NoItems);
        }
        let Task::Encode(options) = task else {
            return Err(AskError::NoHead { task: task.name() });
        };
        if options.outputs.sparse || options.outputs.multivector {
            return Err(AskError::Outputs { wanted: options.outputs });
        }
        let kept = options.dims.unwrap_or(dims);
        if kept != dims && !((1..dims).contains(&kept) && matryoshka.allows(kept)) {
            return Err(AskError::Dims { wanted: kept, dims, matryoshka: matryoshka.clone() });
        }
        if options.numerics != Numerics::Any && options.numerics != numerics {
            return Err(AskError::Numerics { wanted: options.numerics, has: numerics });
        }
        let has_ids = items.iter().any(|item| matches!(item, Input::TokenIds(_)));
        if has_ids && token_ids == TokenIdsPolicy::Refuse {
            return Err(AskError::TokenIds);
        }
        let name = options.prompt_name.as_ref().or(prompts.default_name.as_ref());
        let prompt = name.map(|name| {
            prompts.by_name.get(name).ok_or_else(|| AskError::Prompt {
                name: name.clone(),
                known: prompts.by_name.keys().cloned().collect(),
            })
        });
        let prompt = prompt.transpose()?.map(String::as_str);
        Ok(Self {
            form: VectorForm {
                dims: kept,
                normalize: options.normalize.unwrap_or(normalizes),
                dtype: options.output_dtype,
            },
            prompt: prompt.filter(|prompt| !prompt.is_empty()),
        })
    }
}

/// One encoded text on its way into a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncodedRow<'a> {
    /// Its position in the request.
    pub(crate) index: u32,
    /// Tokens that the model saw.
    pub(crate) tokens: u32,
    /// Whether it was cut.
    pub(crate) truncated: bool,
    /// What the model answered: pooled, not scaled.
    pub(crate) vector: &'a [f32],
}

/// One result frame of at most [`VectorForm::rows_per_frame`] rows.
pub(crate) fn result_frame<'a>(
    form: VectorForm,
    rows: impl ExactSizeIterator<Item = EncodedRow<'a>>,
) -> TaskResult {
    let count = rows.len();
    let (mut indices, mut outcomes) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut dense = DenseBlock {
        dtype: form.dtype,
        dims: form.dims,
        rows: u32::try_from(count).expect("bounded by the items of a request"),
        data: Vec::with_capacity(count * form.dtype.row_bytes(form.dims)),
    };
    let mut scratch = Vec::new();
    for row in rows {
        indices.push(row.index);
        outcomes.push(ItemOutcome::Answered { tokens: row.tokens, truncated: row.truncated });
        form.append_row(row.vector, &mut scratch, &mut dense.data);
    }
    TaskResult { indices, outcomes, answers: dense.into() }
}

/// Frames that tell of texts that failed by themselves.
pub(crate) fn failure_frames(failures: Vec<(u32, ItemFailure)>) -> Vec<TaskResult> {
    let frames = failures.chunks(FAILURES_PER_FRAME).map(|failures| TaskResult {
        indices: failures.iter().map(|(index, _)| *index).collect(),
        outcomes: failures
            .iter()
            .map(|(_, failure)| ItemOutcome::Failed {
                code: failure.code,
                message: cut(&failure.message),
                tokens: failure.tokens,
                limit: failure.limit,
            })
            .collect(),
        answers: Answers::NONE,
    });
    frames.collect()
}

/// The message, or its beginning if it is over the wire's limit.
pub(crate) fn cut(message: &str) -> String {
    message[..message.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests;
