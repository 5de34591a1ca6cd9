//! The one way from a request of any dialect through the client library to answers.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use futures_util::StreamExt;
use shoal_mesh::core::Summary;
use shoal_mesh::{Answer, Call, ClientError, ItemResult, Vector, Vectors, WhenOverloaded};
use shoal_protocol::ErrorCode;
use shoal_protocol::limits::MODEL_NAME_BYTES_MAX;
use shoal_protocol::message::{Input, Task};

use super::app::App;
use super::error::EdgeError;
use super::exchange::Exchange;
use super::inputs::Inputs;
use crate::config::TokenIdsPolicy;

/// Tokens that a tokenizer adds to one text; the text itself has at most one a byte.
const SPECIAL_TOKENS_MAX: u64 = 4;

/// What a dialect wants done.
pub(super) struct Job {
    pub(super) model: String,
    pub(super) inputs: Inputs,
    pub(super) task: Task,
    /// The field that held the texts.
    pub(super) param: &'static str,
    /// What to say about a text that is too long, beside "shorten it, split it".
    pub(super) remedy: &'static str,
}

/// An answer for every text, in order.
pub(super) struct Answered {
    pub(super) items: Vec<Answer>,
    /// Texts that were cut to the model's limit.
    pub(super) truncated: usize,
    pub(super) summary: Summary,
    /// When the last result was there, counted from the request's head.
    pub(super) at: Duration,
}

impl Answered {
    /// The dense vectors of a job that asked for them.
    pub(super) fn vectors(&self) -> Result<Vec<&Vector>, EdgeError> {
        self.items.iter().map(dense_of).collect()
    }
}

fn dense_of(answer: &Answer) -> Result<&Vector, EdgeError> {
    match answer {
        Answer::Vectors(Vectors { dense: Some(vector), .. }) => Ok(vector),
        _ => Err(misanswered()),
    }
}

/// Of a text that was answered with something that was not asked for.
pub(super) fn misanswered() -> EdgeError {
    internal("a text was answered with something that was not asked for".to_owned())
}

/// Does it. Dropping the future cancels what runs and frees its slot at the node.
///
/// # Errors
/// The first text that fails fails the request: no dialect here can answer for less than was asked.
pub(super) async fn run(
    app: &App,
    exchange: &Exchange<'_>,
    headers: &HeaderMap,
    job: Job,
) -> Result<Answered, EdgeError> {
    let tokens_max = app.options.limits.tokens_max;
    check(app, &job)?;
    let deadline = exchange.deadline(headers)?;
    check_tokens(app, &job, deadline.saturating_sub(exchange.elapsed())).await?;
    let left = deadline.saturating_sub(exchange.elapsed());
    let (count, param, remedy) = (job.inputs.count, job.param, job.remedy);
    let (model, at_fault) = (job.model.clone(), param_of(&job.task));
    let call = Call::of(job.model, job.inputs.items, job.task)
        .deadline(left)
        .when_overloaded(WhenOverloaded::Fail)
        .request_unique(exchange.unique)
        .trace(exchange.trace);
    let mut stream = app.client.stream(call);
    let mut items = Vec::with_capacity(count);
    let (mut tokens_seen, mut truncated) = (0, 0);
    // Returning early drops the stream, which cancels the rest.
    while let Some(item) = stream.next().await {
        let (index, item) = match item {
            Ok(item) => item,
            Err(error) => return Err(refused(app, error, &model, at_fault).await),
        };
        tokens_seen += u64::from(item.tokens_seen());
        if tokens_seen > tokens_max {
            return Err(too_many_tokens(param, format!("more than {tokens_max}"), tokens_max));
        }
        let (answer, cut) = answer_of(item, index, param, remedy)?;
        truncated += usize::from(cut);
        items.push(answer);
    }
    match stream.summary() {
        Some(summary) if items.len() == count => {
            Ok(Answered { items, truncated, summary: summary.clone(), at: exchange.elapsed() })
        }
        _ => Err(internal(format!("{} of {count} texts were answered", items.len()))),
    }
}

/// The field whose value a model may refuse.
fn param_of(task: &Task) -> Option<&'static str> {
    match task {
        Task::Encode(options) => options.dims.map(|_| "dimensions"),
        Task::Score(_) => None,
        Task::Extract(options) => (!options.labels.is_empty()).then_some("labels"),
    }
}

/// The answer to an item, and whether its text was cut.
fn answer_of(
    item: ItemResult,
    index: u64,
    param: &'static str,
    remedy: &'static str,
) -> Result<(Answer, bool), EdgeError> {
    match item {
        ItemResult::Answered { truncated, answer, .. } => {
            if let Answer::Vectors(vectors) = &answer
                && let Some(dense) = &vectors.dense
            {
                check_vector(dense)?;
            }
            Ok((answer, truncated))
        }
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
    let prompt_name = match &job.task {
        Task::Encode(options) => options.prompt_name.as_ref(),
        Task::Score(_) | Task::Extract(_) => None,
    };
    for (name, param) in [(Some(&job.model), "model"), (prompt_name, "prompt_name")] {
        if name.is_some_and(|name| name.len() > MODEL_NAME_BYTES_MAX) {
            let message = format!("`{param}` is longer than {MODEL_NAME_BYTES_MAX} bytes");
            return Err(EdgeError::Invalid { message, param: Some(param) });
        }
    }
    if let Err(what) = job.task.check() {
        return Err(EdgeError::Invalid { message: what.to_owned(), param: None });
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
    let work = job.task.item_work();
    let most = |item: &Input| work.bytes(item.bytes() as u64, 1) + work.times * SPECIAL_TOKENS_MAX;
    if items.iter().map(most).sum::<u64>() <= tokens_max {
        return Ok(());
    }
    let items: Arc<[Input]> = items.clone().into();
    let counting = app.view.count_tokens(&job.model, items, job.task.truncate(), tokens_max);
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
        Some(values) if !values.iter().all(|value| value.is_finite()) => {
            Err(internal("the model gave a vector that is not finite".to_owned()))
        }
        _ => Ok(()),
    }
}

fn internal(message: String) -> EdgeError {
    EdgeError::Failed { code: ErrorCode::Internal, message, param: None, retry_after: None }
}

/// A call that failed as a whole, with what the caller needs to mend it.
async fn refused(app: &App, error: ClientError, model: &str, param: Option<&'static str>) -> EdgeError {
    match (error.code(), EdgeError::from(error)) {
        (ErrorCode::ModelNotFound, _) => {
            EdgeError::NoModel { model: model.to_owned(), served: app.served_models().await }
        }
        // The edge has checked everything else that a request as a whole can get wrong.
        (ErrorCode::InvalidRequest, EdgeError::Failed { code, message, retry_after, .. }) => {
            EdgeError::Failed { code, message, param, retry_after }
        }
        (_, error) => error,
    }
}
