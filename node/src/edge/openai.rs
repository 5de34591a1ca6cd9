//! `POST /v1/embeddings` as OpenAI's clients speak it (openai/openai-openapi, `CreateEmbeddingRequest`).

use axum::extract::Request;
use serde::de::{Error, MapAccess};
use shoal_mesh::Vector;
use shoal_protocol::limits::DENSE_DIMS_MAX;
use shoal_protocol::message::EncodeOptions;

use super::app::App;
use super::error::EdgeError;
use super::exchange::{Exchange, Reply, Served};
use super::inputs::{Inputs, InputsSeed};
use super::object::{Fields, optional, read_object};
use super::render;
use super::task::{Job, run};

/// What the body asks for. `user` and whatever else it holds is ignored.
struct EmbeddingsFields {
    seed: InputsSeed,
    input: Option<Inputs>,
    model: Option<String>,
    base64: bool,
    dimensions: Option<u32>,
}

impl Fields for EmbeddingsFields {
    const NAMES: &'static [&'static str] = &["input", "model", "encoding_format", "dimensions"];

    fn read<'de, A: MapAccess<'de>>(&mut self, name: &'static str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "input" => self.input = Some(map.next_value_seed(self.seed)?),
            "model" => self.model = optional(map)?,
            "dimensions" => self.dimensions = optional(map)?,
            _ => {
                self.base64 = match optional::<String, _>(map)?.as_deref() {
                    None | Some("float") => false,
                    Some("base64") => true,
                    Some(other) => {
                        let what = format!("`{other}` is neither \"float\" nor \"base64\"");
                        return Err(A::Error::custom(what));
                    }
                }
            }
        }
        Ok(())
    }
}

fn missing(param: &'static str) -> EdgeError {
    EdgeError::Invalid { message: format!("`{param}` is missing"), param: Some(param) }
}

/// Serves one request.
pub(super) async fn embeddings(
    app: &App,
    exchange: &Exchange<'_>,
    request: Request,
) -> Result<Reply, EdgeError> {
    let (parts, body) = request.into_parts();
    let mut held = app.bodies.read_json(&parts.headers, body).await?;
    let mut fields = EmbeddingsFields {
        seed: app.inputs_seed(),
        input: None,
        model: None,
        base64: false,
        dimensions: None,
    };
    read_object(&held.take(), &mut fields)?;
    let inputs = fields.input.ok_or_else(|| missing("input"))?;
    let model = fields.model.ok_or_else(|| missing("model"))?;
    if fields.dimensions.is_some_and(|dims| !(1..=DENSE_DIMS_MAX).contains(&dims)) {
        return Err(EdgeError::Invalid {
            message: format!("`dimensions` must be from 1 to {DENSE_DIMS_MAX}"),
            param: Some("dimensions"),
        });
    }
    let parse = exchange.elapsed();
    let job = Job {
        model: model.clone(),
        inputs,
        task: EncodeOptions { dims: fields.dimensions, ..EncodeOptions::default() }.into(),
        param: "input",
        remedy: "",
    };
    let answer = run(app, exchange, &parts.headers, job).await?;
    let body = render_list(&answer.vectors()?, &model, answer.summary.tokens, fields.base64);
    let mut reply = Reply::json(body);
    reply.served =
        Some(Served { parse, render: exchange.elapsed().saturating_sub(answer.at), summary: answer.summary });
    Ok(reply)
}

fn render_list(vectors: &[&Vector], model: &str, tokens: u64, base64: bool) -> Vec<u8> {
    let row_bytes = if base64 { render::base64_bytes } else { render::json_bytes };
    let rows: usize = vectors.iter().map(|vector| row_bytes(vector) + 64).sum();
    let mut out = Vec::with_capacity(rows + model.len() + 128);
    out.extend_from_slice(br#"{"object":"list","data":["#);
    for (index, vector) in vectors.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"object":"embedding","index":"#);
        render::number(&mut out, index as u64);
        out.extend_from_slice(br#","embedding":"#);
        if base64 {
            render::base64(&mut out, vector);
        } else {
            render::json(&mut out, vector);
        }
        out.push(b'}');
    }
    out.extend_from_slice(br#"],"model":"#);
    render::text(&mut out, model);
    out.extend_from_slice(br#","usage":{"prompt_tokens":"#);
    render::number(&mut out, tokens);
    out.extend_from_slice(br#","total_tokens":"#);
    render::number(&mut out, tokens);
    out.extend_from_slice(b"}}");
    out
}
