//! `POST /rerank` and `/v1/rerank`: the dialects of rerankers in one. A body with `texts` is text-embeddings-inference's and
//! is answered as that does; one with `documents` is Cohere's, Jina's, vLLM's or Infinity's, whose replies are parts of the
//! one that it gets.

use axum::extract::Request;
use serde::de::MapAccess;
use serde::{Deserialize, Serialize};
use shoal_mesh::core::rank;
use shoal_mesh::{Answer, Ranked};
use shoal_protocol::message::{Input, ScoreOptions};

use super::app::App;
use super::error::EdgeError;
use super::exchange::{Exchange, Reply, Served};
use super::inputs::{Inputs, InputsSeed};
use super::object::{Fields, optional, read_object};
use super::task::{Answered, Job, misanswered, run};
use super::tei::{cut_left, model_of_headers, push_headers, truncate_of};
use crate::clock;

/// What the body asks for. `max_tokens_per_doc`, `user` and whatever else it holds is ignored.
struct RerankFields {
    seed: InputsSeed,
    query: Option<String>,
    texts: Option<Inputs>,
    documents: Option<Vec<Document>>,
    model: Option<String>,
    truncate: Option<bool>,
    cut_left: bool,
    raw_scores: Option<bool>,
    return_text: Option<bool>,
    return_documents: Option<bool>,
    top_n: Option<usize>,
}

/// A document of Cohere's and Jina's.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or an object with a `text`")]
enum Document {
    Plain(String),
    Object { text: String },
}

impl Fields for RerankFields {
    const NAMES: &'static [&'static str] = &[
        "query",
        "texts",
        "documents",
        "model",
        "truncate",
        "truncation_direction",
        "raw_scores",
        "return_text",
        "return_documents",
        "top_n",
    ];

    fn read<'de, A: MapAccess<'de>>(&mut self, name: &'static str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "query" => self.query = optional(map)?,
            "texts" => self.texts = Some(map.next_value_seed(self.seed)?),
            "documents" => self.documents = optional(map)?,
            "model" => self.model = optional(map)?,
            "truncate" => self.truncate = optional(map)?,
            "truncation_direction" => self.cut_left = cut_left(map)?,
            "raw_scores" => self.raw_scores = optional(map)?,
            "return_text" => self.return_text = optional(map)?,
            "return_documents" => self.return_documents = optional(map)?,
            _ => self.top_n = optional(map)?,
        }
        Ok(())
    }
}

fn invalid(message: &str, param: &'static str) -> EdgeError {
    EdgeError::Invalid { message: message.to_owned(), param: Some(param) }
}

/// Which dialect the body speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Tei,
    Cohere,
}

/// The texts, the name of their field, and what that says of the caller.
fn texts_of(fields: &mut RerankFields) -> Result<(Inputs, &'static str, Speaks), EdgeError> {
    match (fields.texts.take(), fields.documents.take()) {
        (Some(texts), None) => Ok((texts, "texts", Speaks::Tei)),
        (None, Some(documents)) => {
            let text = |document| match document {
                Document::Plain(text) | Document::Object { text } => Input::Text(text),
            };
            let items: Vec<_> = documents.into_iter().map(text).collect();
            Ok((Inputs { count: items.len(), items, ..Inputs::default() }, "documents", Speaks::Cohere))
        }
        (None, None) => Err(invalid("`documents` (or `texts`) is missing", "documents")),
        (Some(_), Some(_)) => Err(invalid("send `documents` or `texts`, not both", "texts")),
    }
}

/// Serves one request.
pub(super) async fn rerank(app: &App, exchange: &Exchange<'_>, request: Request) -> Result<Reply, EdgeError> {
    let (parts, body) = request.into_parts();
    let mut held = app.bodies.read_json(&parts.headers, body).await?;
    let mut fields = RerankFields {
        seed: app.inputs_seed(),
        query: None,
        texts: None,
        documents: None,
        model: None,
        truncate: None,
        cut_left: false,
        raw_scores: None,
        return_text: None,
        return_documents: None,
        top_n: None,
    };
    read_object(&held.take(), &mut fields)?;
    let (inputs, param, speaks) = texts_of(&mut fields)?;
    let query = fields.query.take().ok_or_else(|| invalid("`query` is missing", "query"))?;
    if fields.top_n == Some(0) {
        return Err(invalid("`top_n` must be at least 1", "top_n"));
    }
    let model = match fields.model.take() {
        Some(model) => model,
        None => model_of_headers(app, &parts.headers).await?,
    };
    // Cohere and Jina cut long documents by themselves; TEI as it is configured.
    let cuts = fields.truncate.unwrap_or(speaks == Speaks::Cohere || app.options.tei_auto_truncate);
    let truncate = truncate_of(cuts, fields.cut_left);
    let options =
        ScoreOptions { query, raw: fields.raw_scores.unwrap_or(false), truncate, ..ScoreOptions::default() };
    let gives_texts = fields.return_text.or(fields.return_documents).unwrap_or(false);
    let texts = if gives_texts { inputs.items.clone() } else { Vec::new() };
    let characters = inputs.characters();
    let parse = exchange.elapsed();
    let job = Job {
        model: model.clone(),
        inputs,
        task: options.into(),
        param,
        remedy: ", or send \"truncate\": true",
    };
    let answered = run(app, exchange, &parts.headers, job).await?;
    let mut ranking = ranking_of(&answered)?;
    ranking.truncate(fields.top_n.unwrap_or(usize::MAX));
    let body = match speaks {
        Speaks::Tei => tei_reply(&ranking, &texts),
        Speaks::Cohere => cohere_reply(&ranking, &texts, &model, &answered),
    };
    let mut reply = Reply::json(body);
    push_headers(&mut reply, &answered, exchange, characters);
    let render = exchange.elapsed().saturating_sub(answered.at);
    reply.served = Some(Served { parse, render, summary: answered.summary });
    Ok(reply)
}

/// The answers of a score, best first.
pub(super) fn ranking_of(answered: &Answered) -> Result<Vec<Ranked>, EdgeError> {
    let scored = (0..).zip(&answered.items).map(|(index, answer)| match answer {
        Answer::Score(score) => Ok(Ranked { index, score: *score }),
        _ => Err(misanswered()),
    });
    let mut ranking = scored.collect::<Result<Vec<_>, _>>()?;
    rank(&mut ranking);
    Ok(ranking)
}

/// A document's place in a reply; each dialect has its own names for it.
#[derive(Serialize)]
struct RankedReply<'a> {
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relevance_score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<DocumentReply<'a>>,
}

#[derive(Serialize)]
struct DocumentReply<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct RerankReply<'a> {
    id: String,
    object: &'static str,
    model: &'a str,
    created: u64,
    results: Vec<RankedReply<'a>>,
    usage: Usage,
    meta: Meta,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// What Cohere bills; here nothing is.
#[derive(Serialize)]
struct Meta {
    billed_units: BilledUnits,
}

#[derive(Serialize)]
struct BilledUnits {
    search_units: u32,
}

fn text_of(texts: &[Input], ranked: Ranked) -> Option<&str> {
    match usize::try_from(ranked.index).ok().and_then(|index| texts.get(index))? {
        Input::Text(text) => Some(text),
        Input::TokenIds(_) => None,
    }
}

fn tei_reply(ranking: &[Ranked], texts: &[Input]) -> Vec<u8> {
    let one = |ranked: &Ranked| RankedReply {
        index: ranked.index,
        text: text_of(texts, *ranked),
        score: Some(ranked.score),
        relevance_score: None,
        document: None,
    };
    let rows: Vec<_> = ranking.iter().map(one).collect();
    serde_json::to_vec(&rows).expect("numbers and strings serialise")
}

fn cohere_reply(ranking: &[Ranked], texts: &[Input], model: &str, answered: &Answered) -> Vec<u8> {
    let one = |ranked: &Ranked| RankedReply {
        index: ranked.index,
        text: None,
        score: None,
        relevance_score: Some(ranked.score),
        document: text_of(texts, *ranked).map(|text| DocumentReply { text }),
    };
    let tokens = answered.summary.tokens;
    let reply = RerankReply {
        id: answered.summary.request_id.to_string(),
        object: "rerank",
        model,
        created: clock::unix_time().as_secs(),
        results: ranking.iter().map(one).collect(),
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
        meta: Meta { billed_units: BilledUnits { search_units: 1 } },
    };
    serde_json::to_vec(&reply).expect("numbers and strings serialise")
}
