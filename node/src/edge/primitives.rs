//! `POST /v1/encode/{model}`, `/v1/score/{model}` and `/v1/extract/{model}`: the three primitives as they are, in the form
//! that the Superlinked Inference Engine's clients speak.

use axum::RequestExt;
use axum::extract::{Path, Request};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::error::Category;
use shoal_mesh::{Answer, Class, Ranked, Span, Vectors};
use shoal_protocol::Micros;
use shoal_protocol::message::{
    DenseDtype, EncodeOptions, ExtractOptions, Input, InputType, ScoreOptions, Task, Truncate, VectorSet,
};

use super::app::App;
use super::counters::Route;
use super::error::EdgeError;
use super::exchange::{Exchange, Reply, Served};
use super::inputs::Inputs;
use super::rerank::ranking_of;
use super::task::{Answered, Job, misanswered, run};
use crate::values::Values;

/// A text, or one with the caller's id for it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or an object with a `text`")]
enum Item {
    Plain(String),
    Object {
        #[serde(default)]
        id: Option<Value>,
        text: String,
    },
}

impl Item {
    fn into_parts(self) -> (Option<Value>, String) {
        match self {
            Self::Plain(text) => (None, text),
            Self::Object { id, text } => (id, text),
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OutputType {
    Dense,
    Sparse,
    Multivector,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OutputDtype {
    #[default]
    #[serde(alias = "f32")]
    Float32,
    #[serde(alias = "f16")]
    Float16,
    Int8,
    Uint8,
    Binary,
}

impl From<OutputDtype> for DenseDtype {
    fn from(dtype: OutputDtype) -> Self {
        match dtype {
            OutputDtype::Float32 => Self::F32,
            OutputDtype::Float16 => Self::F16,
            OutputDtype::Int8 => Self::I8,
            OutputDtype::Uint8 => Self::U8,
            OutputDtype::Binary => Self::Bits,
        }
    }
}

/// `params` of every primitive: each reads what is its own.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Params {
    output_types: Option<Vec<OutputType>>,
    output_dtype: Option<OutputDtype>,
    instruction: Option<String>,
    labels: Option<Vec<String>>,
    options: Option<Options>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum InputKind {
    Query,
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

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    dims: Option<u32>,
    normalize: Option<bool>,
    input_type: Option<InputKind>,
    prompt_name: Option<String>,
    truncate: Option<bool>,
    threshold: Option<f32>,
    raw_scores: Option<bool>,
}

impl Options {
    fn truncate(&self) -> Truncate {
        if self.truncate.unwrap_or(false) { Truncate::Right } else { Truncate::Refuse }
    }
}

#[derive(Deserialize)]
struct Body {
    items: Vec<Item>,
    #[serde(default)]
    query: Option<Item>,
    #[serde(default)]
    instruction: Option<String>,
    #[serde(default)]
    params: Option<Params>,
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, EdgeError> {
    serde_json::from_slice(body).map_err(|error| {
        let syntax = matches!(error.classify(), Category::Syntax | Category::Eof);
        EdgeError::Json { message: format!("the body: {error}"), param: None, syntax }
    })
}

fn task_of(
    route: Route,
    query: Option<Item>,
    instruction: Option<String>,
    params: Params,
) -> Result<Task, EdgeError> {
    let options = params.options.unwrap_or_default();
    let (truncate, instruction) = (options.truncate(), instruction.or(params.instruction));
    Ok(match route {
        Route::Encode => {
            let mut outputs = VectorSet::default();
            for output in params.output_types.unwrap_or_default() {
                match output {
                    OutputType::Dense => outputs.dense = true,
                    OutputType::Sparse => outputs.sparse = true,
                    OutputType::Multivector => outputs.multivector = true,
                }
            }
            let prompt = instruction.filter(|_| options.prompt_name.is_none());
            Task::Encode(EncodeOptions {
                outputs,
                dims: options.dims,
                output_dtype: params.output_dtype.unwrap_or_default().into(),
                normalize: options.normalize,
                input_type: options.input_type.map(Into::into),
                prompt_name: options.prompt_name,
                prompt,
                truncate,
                ..EncodeOptions::default()
            })
        }
        Route::Score => {
            let missing =
                || EdgeError::Invalid { message: "`query` is missing".to_owned(), param: Some("query") };
            let (_, query) = query.ok_or_else(missing)?.into_parts();
            let raw = options.raw_scores.unwrap_or(false);
            Task::Score(ScoreOptions { query, raw, instruction, truncate, ..ScoreOptions::default() })
        }
        _ => Task::Extract(ExtractOptions {
            labels: params.labels.unwrap_or_default(),
            threshold: options.threshold,
            raw: options.raw_scores.unwrap_or(false),
            truncate,
            ..ExtractOptions::default()
        }),
    })
}

/// Serves one request of any of the three routes.
pub(super) async fn primitive(
    app: &App,
    exchange: &Exchange<'_>,
    mut request: Request,
) -> Result<Reply, EdgeError> {
    let model = match request.extract_parts::<Path<String>>().await {
        Ok(Path(model)) if !model.is_empty() => model,
        _ => {
            let message = "the path holds no name that is UTF-8, so no model is named".to_owned();
            return Err(EdgeError::Invalid { message, param: Some("model") });
        }
    };
    let (parts, body) = request.into_parts();
    let mut held = app.bodies.read_json(&parts.headers, body).await?;
    let Body { items, query, instruction, params } = read(&held.take())?;
    let task = task_of(exchange.route, query, instruction, params.unwrap_or_default())?;
    let (ids, texts): (Vec<_>, Vec<_>) = items.into_iter().map(Item::into_parts).unzip();
    let items: Vec<_> = texts.into_iter().map(Input::Text).collect();
    let inputs = Inputs { count: items.len(), items, ..Inputs::default() };
    let parse = exchange.elapsed();
    let remedy = ", or send params.options.truncate = true";
    let job = Job { model: model.clone(), inputs, task, param: "items", remedy };
    let answered = run(app, exchange, &parts.headers, job).await?;
    let mut reply_body = ReplyBody { model: &model, items: None, scores: None, timing: timing_of(&answered) };
    if exchange.route == Route::Score {
        reply_body.scores = Some(scores_of(&answered, &ids)?);
    } else {
        let items = ids.iter().zip(&answered.items).map(|(id, answer)| ItemReply::of(id.as_ref(), answer));
        reply_body.items = Some(items.collect::<Result<_, _>>()?);
    }
    let body = serde_json::to_vec(&reply_body).expect("numbers and strings serialise");
    let mut reply = Reply::json(body);
    let render = exchange.elapsed().saturating_sub(answered.at);
    reply.served = Some(Served { parse, render, summary: answered.summary });
    Ok(reply)
}

#[derive(Serialize)]
struct ReplyBody<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<ItemReply<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scores: Option<Vec<ScoreReply>>,
    timing: TimingReply,
}

#[derive(Serialize)]
struct TimingReply {
    total_ms: f64,
    queue_ms: f64,
    tokenization_ms: f64,
    inference_ms: f64,
    postprocessing_ms: f64,
}

fn timing_of(answered: &Answered) -> TimingReply {
    let timings = &answered.summary.timings;
    let ms = |micros: Micros| micros.0 as f64 / 1000.0;
    TimingReply {
        total_ms: ms(timings.total_us),
        queue_ms: ms(timings.queue_us),
        tokenization_ms: ms(timings.tokenize_us),
        inference_ms: ms(timings.compute_us),
        postprocessing_ms: ms(timings.post_us),
    }
}

#[derive(Serialize)]
struct ScoreReply {
    /// The caller's id of the item, or its position.
    item_id: Value,
    index: u64,
    score: f32,
    rank: usize,
}

fn scores_of(answered: &Answered, ids: &[Option<Value>]) -> Result<Vec<ScoreReply>, EdgeError> {
    let ranking = ranking_of(answered)?;
    let one = |(rank, Ranked { index, score }): (usize, Ranked)| {
        let own = usize::try_from(index).ok().and_then(|index| ids.get(index)?.clone());
        ScoreReply { item_id: own.unwrap_or_else(|| index.into()), index, score, rank }
    };
    Ok(ranking.into_iter().enumerate().map(one).collect())
}

#[derive(Default, Serialize)]
struct ItemReply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dense: Option<DenseReply<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sparse: Option<SparseReply<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multivector: Option<MultivectorReply<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entities: Option<Vec<EntityReply<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    classifications: Option<Vec<ClassReply<'a>>>,
}

#[derive(Serialize)]
struct DenseReply<'a> {
    dims: u32,
    dtype: &'static str,
    values: Values<'a>,
}

#[derive(Serialize)]
struct SparseReply<'a> {
    indices: &'a [u32],
    values: &'a [f32],
}

#[derive(Serialize)]
struct MultivectorReply<'a> {
    token_dims: u32,
    num_tokens: usize,
    dtype: &'static str,
    values: Vec<Values<'a>>,
}

#[derive(Serialize)]
struct EntityReply<'a> {
    text: &'a str,
    label: &'a str,
    score: f32,
    start: u32,
    end: u32,
}

#[derive(Serialize)]
struct ClassReply<'a> {
    label: &'a str,
    score: f32,
}

impl<'a> ItemReply<'a> {
    fn of(id: Option<&'a Value>, answer: &'a Answer) -> Result<Self, EdgeError> {
        let item = match answer {
            Answer::Vectors(vectors) => Self::of_vectors(vectors),
            Answer::Spans(spans) => {
                let entity = |Span { start, end, label, score, text }: &'a Span| EntityReply {
                    text,
                    label,
                    score: *score,
                    start: *start,
                    end: *end,
                };
                Self { entities: Some(spans.iter().map(entity).collect()), ..Self::default() }
            }
            Answer::Classes(classes) => {
                let class = |class: &'a Class| ClassReply { label: &class.label, score: class.score };
                Self { classifications: Some(classes.iter().map(class).collect()), ..Self::default() }
            }
            Answer::Score(_) => return Err(misanswered()),
        };
        Ok(Self { id, ..item })
    }

    fn of_vectors(vectors: &'a Vectors) -> Self {
        let dense = vectors.dense.as_ref().map(|vector| DenseReply {
            dims: vector.dims(),
            dtype: dtype_name(vector.dtype()),
            values: Values::of(vector.dtype(), vector.bytes()),
        });
        let sparse = vectors.sparse.as_ref();
        let sparse = sparse.map(|own| SparseReply { indices: own.indices(), values: own.values() });
        let multivector = vectors.multivector.as_ref().map(|vectors| MultivectorReply {
            token_dims: vectors.dims(),
            num_tokens: vectors.len(),
            dtype: dtype_name(vectors.dtype()),
            values: Values::rows(vectors),
        });
        Self { dense, sparse, multivector, ..Self::default() }
    }
}

fn dtype_name(dtype: DenseDtype) -> &'static str {
    match dtype {
        DenseDtype::F32 => "float32",
        DenseDtype::F16 => "float16",
        DenseDtype::I8 => "int8",
        DenseDtype::U8 => "uint8",
        DenseDtype::Bits => "binary",
    }
}
