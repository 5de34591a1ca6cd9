//! TEI's `POST /predict`: labels of texts, best first.

use axum::extract::Request;
use serde::de::MapAccess;
use serde::{Deserialize, Serialize};
use shoal_mesh::Answer;
use shoal_protocol::message::{ExtractOptions, Input};

use super::app::App;
use super::error::EdgeError;
use super::exchange::{Exchange, Reply, Served};
use super::inputs::Inputs;
use super::object::{Fields, optional, read_object};
use super::task::{Job, misanswered, run};
use super::tei::{cut_left, model_of_headers, push_headers, truncate_of};

#[derive(Default)]
struct PredictFields {
    inputs: Option<PredictInputs>,
    model: Option<String>,
    truncate: Option<bool>,
    cut_left: bool,
    raw_scores: Option<bool>,
}

/// A text, two texts that are a pair, or several of either.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text, a pair of texts, or a list of lists of them")]
enum PredictInputs {
    One(String),
    Pair(Vec<String>),
    Many(Vec<Vec<String>>),
}

impl Fields for PredictFields {
    const NAMES: &'static [&'static str] =
        &["inputs", "model", "truncate", "truncation_direction", "raw_scores"];

    fn read<'de, A: MapAccess<'de>>(&mut self, name: &'static str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "inputs" => self.inputs = optional(map)?,
            "model" => self.model = optional(map)?,
            "truncate" => self.truncate = optional(map)?,
            "truncation_direction" => self.cut_left = cut_left(map)?,
            _ => self.raw_scores = optional(map)?,
        }
        Ok(())
    }
}

fn invalid(message: &str) -> EdgeError {
    EdgeError::Invalid { message: message.to_owned(), param: Some("inputs") }
}

/// The texts, and whether the reply is a list of lists.
fn texts_of(inputs: PredictInputs) -> Result<(Vec<Input>, bool), EdgeError> {
    let single = |texts: Vec<String>| match <[String; 1]>::try_from(texts) {
        Ok([text]) => Ok(Input::Text(text)),
        Err(texts) if texts.len() == 2 => {
            Err(invalid("pairs of texts are not classified here: send single texts"))
        }
        Err(_) => Err(invalid("an input is a text or a list of one")),
    };
    match inputs {
        PredictInputs::One(text) => Ok((vec![Input::Text(text)], false)),
        PredictInputs::Pair(texts) => Ok((vec![single(texts)?], false)),
        PredictInputs::Many(many) => {
            let texts: Result<Vec<_>, _> = many.into_iter().map(single).collect();
            Ok((texts?, true))
        }
    }
}

/// Serves one request.
pub(super) async fn predict(
    app: &App,
    exchange: &Exchange<'_>,
    request: Request,
) -> Result<Reply, EdgeError> {
    let (parts, body) = request.into_parts();
    let mut held = app.bodies.read_json(&parts.headers, body).await?;
    let mut fields = PredictFields::default();
    read_object(&held.take(), &mut fields)?;
    let (items, is_many) = texts_of(fields.inputs.ok_or_else(|| invalid("`inputs` is missing"))?)?;
    let model = match fields.model {
        Some(model) => model,
        None => model_of_headers(app, &parts.headers).await?,
    };
    let cuts = fields.truncate.unwrap_or(app.options.tei_auto_truncate);
    let truncate = truncate_of(cuts, fields.cut_left);
    let inputs = Inputs { count: items.len(), items, ..Inputs::default() };
    let characters = inputs.characters();
    let raw = fields.raw_scores.unwrap_or(false);
    let task = ExtractOptions { raw, truncate, ..ExtractOptions::default() }.into();
    let parse = exchange.elapsed();
    let job = Job { model, inputs, task, param: "inputs", remedy: ", or send \"truncate\": true" };
    let answered = run(app, exchange, &parts.headers, job).await?;
    let rows = answered.items.iter().map(classes_of).collect::<Result<Vec<_>, _>>()?;
    let body = if is_many { serde_json::to_vec(&rows) } else { serde_json::to_vec(&rows.concat()) };
    let mut reply = Reply::json(body.expect("numbers and strings serialise"));
    push_headers(&mut reply, &answered, exchange, characters);
    let render = exchange.elapsed().saturating_sub(answered.at);
    reply.served = Some(Served { parse, render, summary: answered.summary });
    Ok(reply)
}

#[derive(Clone, Serialize)]
struct ClassReply<'a> {
    score: f32,
    label: &'a str,
}

fn classes_of(answer: &Answer) -> Result<Vec<ClassReply<'_>>, EdgeError> {
    match answer {
        Answer::Classes(classes) => {
            Ok(classes.iter().map(|class| ClassReply { score: class.score, label: &class.label }).collect())
        }
        Answer::Spans(_) => Err(EdgeError::Invalid {
            message: "the model labels spans, not texts: /v1/extract gives them".to_owned(),
            param: Some("model"),
        }),
        Answer::Vectors(_) | Answer::Chunks(_) | Answer::Score(_) => Err(misanswered()),
    }
}
