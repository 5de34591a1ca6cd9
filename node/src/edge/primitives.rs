//! `POST /v1/encode/{model}`, `/v1/score/{model}` and `/v1/extract/{model}`: the three primitives as they are, in the form
//! that the Superlinked Inference Engine's clients speak.

mod params;

use axum::RequestExt;
use axum::extract::{Path, Request};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::error::Category;
use shoal_mesh::{Answer, Class, Ranked, Span, Vectors};
use shoal_protocol::Micros;
use shoal_protocol::message::{DenseDtype, Input};

use super::app::App;
use super::counters::Route;
use super::error::EdgeError;
use super::exchange::{Exchange, Reply, Served};
use super::inputs::Inputs;
use super::rerank::ranking_of;
use super::task::{Answered, Job, misanswered, run};
use crate::values::{ChunkValues, Values};
use params::Params;

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
    let query = query.map(|query| query.into_parts().1);
    let task = params.unwrap_or_default().task(exchange.route, query, instruction)?;
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
    chunks: Option<ChunksReply<'a>>,
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
struct ChunksReply<'a> {
    dims: u32,
    dtype: &'static str,
    values: Vec<ChunkValues<'a>>,
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
            Answer::Chunks(chunks) => {
                let reply = ChunksReply {
                    dims: chunks.vectors.dims(),
                    dtype: dtype_name(chunks.vectors.dtype()),
                    values: ChunkValues::of(chunks).collect(),
                };
                Self { chunks: Some(reply), ..Self::default() }
            }
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
