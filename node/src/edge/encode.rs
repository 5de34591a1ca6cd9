//! The one way from a request of any dialect through the client library to vectors.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use futures_util::StreamExt;
use shoal_mesh::core::Summary;
use shoal_mesh::{Answer as ItemAnswer, ClientError, Encode, ItemResult, Vector, WhenOverloaded};
use shoal_protocol::ErrorCode;
use shoal_protocol::limits::MODEL_NAME_BYTES_MAX;
use shoal_protocol::message::{EncodeOptions, Input};

use super::app::App;
use super::error::EdgeError;
use super::exchange::Exchange;
use super::inputs::Inputs;
use crate::config::TokenIdsPolicy;

/// Tokens that a tokenizer adds to one text; the text itself has at most one a byte.
const SPECIAL_TOKENS_MAX: u64 = 4;

/// What a dialect wants encoded.
pub(super) struct Job {
    pub(super) model: String,
    pub(super) inputs: Inputs,
    pub(super) options: EncodeOptions,
    /// The field that held the texts.
    pub(super) param: &'static str,
    /// What to say about a text that is too long, beside "shorten it, split it".
    pub(super) remedy: &'static str,
}

/// A vector for every text, in order.
pub(super) struct Answer {
    pub(super) vectors: Vec<Vector>,
    /// Texts that were cut to the model's limit.
    pub(super) truncated: usize,
    pub(super) summary: Summary,
    /// When the last result was there, counted from the request's head.
    pub(super) at: Duration,
}

/// Encodes. Dropping the future cancels what runs and frees its slot at the node.
///
/// # Errors
/// The first text that fails fails the request: no dialect here can answer for less than was asked.
pub(super) async fn encode(
    app: &App,
    exchange: &Exchange<'_>,
    headers: &HeaderMap,
    job: Job,
) -> Result<Answer, EdgeError> {
    let tokens_max = app.options.limits.tokens_max;
    check(app, &job)?;
    let deadline = exchange.deadline(headers)?;
    check_tokens(app, &job, deadline.saturating_sub(exchange.elapsed())).await?;
    let left = deadline.saturating_sub(exchange.elapsed());
    let (count, param, remedy) = (job.inputs.count, job.param, job.remedy);
    let (model, dims) = (job.model.clone(), job.options.dims);
    let call = Encode::inputs(job.model, job.inputs.items)
        .options(job.options)
        .deadline(left)
        .when_overloaded(WhenOverloaded::Fail)
        .request_unique(exchange.unique)
        .trace(exchange.trace);
    let mut stream = app.client.encode_stream(call);
    let mut vectors = Vec::with_capacity(count);
    let (mut tokens_seen, mut truncated) = (0, 0);
    // Returning early drops the stream, which cancels the rest.
    while let Some(item) = stream.next().await {
        let (index, item) = match item {
            Ok(item) => item,
            Err(error) => return Err(refused(app, error, &model, dims).await),
        };
        tokens_seen += u64::from(item.tokens_seen());
        if tokens_seen > tokens_max {
            return Err(too_many_tokens(param, format!("more than {tokens_max}"), tokens_max));
        }
        let (vector, cut) = vector_of(item, index, param, remedy)?;
        truncated += usize::from(cut);
        vectors.push(vector);
    }
    match stream.summary() {
        Some(summary) if vectors.len() == count => {
            Ok(Answer { vectors, truncated, summary: summary.clone(), at: exchange.elapsed() })
        }
        _ => Err(internal(format!("{} of {count} texts were answered", vectors.len()))),
    }
}

/// The vector of an item, and whether its text was cut.
fn vector_of(
    item: ItemResult,
    index: u64,
    param: &'static str,
    remedy: &'static str,
) -> Result<(Vector, bool), EdgeError> {
    match item {
        ItemResult::Answered { truncated, answer: ItemAnswer::Vectors(vectors), .. } => {
            let vector = vectors.dense.ok_or_else(|| internal("a text has no dense vector".to_owned()))?;
            check_vector(&vector)?;
            Ok((vector, truncated))
        }
        ItemResult::Answered { .. } => Err(internal("a text was answered with no vector".to_owned())),
        ItemResult::Failed { code: ErrorCode::TooLong, tokens, limit, .. } if limit > 0 => {
            Err(EdgeError::TooLong { param, index, tokens, limit, remedy })
        }
        ItemResult::Failed { code, message, .. } => Err(EdgeError::Failed {
            code,
            message: format!("{param}[{index}]: {message}"),
            param: Some(param),
            retry_after: None,
        }),
    }
}

/// The rules that need no model.
fn check(app: &App, job: &Job) -> Result<(), EdgeError> {
    let (inputs, param, limits) = (&job.inputs, job.param, &app.options.limits);
    let invalid = |message| Err(EdgeError::Invalid { message, param: Some(param) });
    for (name, param) in [(Some(&job.model), "model"), (job.options.prompt_name.as_ref(), "prompt_name")] {
        if name.is_some_and(|name| name.len() > MODEL_NAME_BYTES_MAX) {
            let message = format!("`{param}` is longer than {MODEL_NAME_BYTES_MAX} bytes");
            return Err(EdgeError::Invalid { message, param: Some(param) });
        }
    }
    if inputs.count == 0 {
        return Err(EdgeError::Empty { param });
    }
    if inputs.count > limits.items_max {
        return invalid(format!(
            "`{param}` has {} texts; at most {} go into one request",
            inputs.count, limits.items_max
        ));
    }
    let Some(first) = inputs.first_token_array else {
        return Ok(());
    };
    if app.options.token_ids == TokenIdsPolicy::Refuse {
        return invalid(format!(
            "{param}[{first}] is a token array, of a vocabulary that is not this model's; send texts. LangChain's \
             OpenAIEmbeddings does so with check_embedding_ctx_length=False. (A server whose clients use the \
             model's own vocabulary can be configured with token_ids = \"model\".)"
        ));
    }
    if inputs.token_ids as u64 > limits.tokens_max {
        let sent = inputs.token_ids.to_string();
        return Err(too_many_tokens(param, sent, limits.tokens_max));
    }
    let empty = |item: &Input| matches!(item, Input::TokenIds(ids) if ids.is_empty());
    match inputs.items.iter().position(empty) {
        Some(index) => invalid(format!("{param}[{index}] is an empty token array")),
        None => Ok(()),
    }
}

/// A request that could be over the limit is counted before it costs the device anything. What the count leaves open
/// is caught by the tokens of the answers.
async fn check_tokens(app: &App, job: &Job, left: Duration) -> Result<(), EdgeError> {
    let (items, tokens_max) = (&job.inputs.items, app.options.limits.tokens_max);
    let most = |item: &Input| item.bytes() as u64 + SPECIAL_TOKENS_MAX;
    if items.iter().map(most).sum::<u64>() <= tokens_max {
        return Ok(());
    }
    let items: Arc<[Input]> = items.clone().into();
    let counting = app.view.count_tokens(&job.model, items, job.options.truncate, tokens_max);
    match tokio::time::timeout(left, counting).await {
        Ok(Some(tokens)) if tokens > tokens_max => {
            let sent = format!("more than {tokens_max}");
            Err(too_many_tokens(job.param, sent, tokens_max))
        }
        // Out of time, too, is said by the call that follows.
        _ => Ok(()),
    }
}

fn too_many_tokens(param: &'static str, sent: String, tokens_max: u64) -> EdgeError {
    EdgeError::Invalid {
        message: format!(
            "`{param}` has {sent} tokens in all; at most {tokens_max} go into one request, send the texts in several"
        ),
        param: Some(param),
    }
}

/// JSON has no NaN, and a reader of base64 should not get one either.
fn check_vector(vector: &Vector) -> Result<(), EdgeError> {
    match vector.as_f32() {
        Some(values) if values.iter().all(|value| value.is_finite()) => Ok(()),
        Some(_) => Err(internal("the model gave a vector that is not finite".to_owned())),
        None => Err(internal(format!("f32 was asked for, {:?} came", vector.dtype()))),
    }
}

fn internal(message: String) -> EdgeError {
    EdgeError::Failed { code: ErrorCode::Internal, message, param: None, retry_after: None }
}

/// A call that failed as a whole, with what the caller needs to mend it.
async fn refused(app: &App, error: ClientError, model: &str, dims: Option<u32>) -> EdgeError {
    match (error.code(), EdgeError::from(error)) {
        (ErrorCode::ModelNotFound, _) => {
            EdgeError::NoModel { model: model.to_owned(), served: app.served_models().await }
        }
        // The edge has checked everything else that a request as a whole can get wrong.
        (ErrorCode::InvalidRequest, EdgeError::Failed { code, message, retry_after, .. }) => {
            let param = dims.map(|_| "dimensions");
            EdgeError::Failed { code, message, param, retry_after }
        }
        (_, error) => error,
    }
}
