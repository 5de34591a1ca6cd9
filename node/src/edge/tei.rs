//! The dialect of Hugging Face's text-embeddings-inference: `POST /embed`, `/embed_sparse` and `GET /info`
//! (`router/src/http/{server,types}.rs` there). It has no model field, so the model is taken from the path
//! (`/m/{model}/embed`), the body (`model`), the header `x-model`, or is the default one, in this order.

use axum::RequestExt;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde::de::{Error, MapAccess};
use shoal_mesh::{Answer, Vector, Vectors};
use shoal_protocol::limits::DENSE_DIMS_MAX;
use shoal_protocol::message::{EncodeOptions, Truncate, VectorSet};

use super::app::App;
use super::counters::Route;
use super::error::EdgeError;
use super::exchange::{Exchange, Reply, Served, text_value};
use super::inputs::{Inputs, InputsSeed};
use super::object::{Fields, optional, read_object};
use super::render;
use super::task::{Answered, Job, misanswered, run};

const X_MODEL: HeaderName = HeaderName::from_static("x-model");

/// What the body asks for.
struct EmbedFields {
    seed: InputsSeed,
    inputs: Option<Inputs>,
    model: Option<String>,
    truncate: Option<bool>,
    cut_left: bool,
    normalize: Option<bool>,
    prompt_name: Option<String>,
    dimensions: Option<u32>,
}

impl Fields for EmbedFields {
    const NAMES: &'static [&'static str] = &[
        "inputs",
        "model",
        "truncate",
        "truncation_direction",
        "normalize",
        "prompt_name",
        "dimensions",
        "encoding_format",
    ];

    fn read<'de, A: MapAccess<'de>>(&mut self, name: &'static str, map: &mut A) -> Result<(), A::Error> {
        let word = |map: &mut A| optional::<String, _>(map);
        match name {
            "inputs" => self.inputs = Some(map.next_value_seed(self.seed)?),
            "model" => self.model = word(map)?,
            "truncate" => self.truncate = optional(map)?,
            "normalize" => self.normalize = optional(map)?,
            "prompt_name" => self.prompt_name = word(map)?,
            "dimensions" => self.dimensions = optional(map)?,
            "truncation_direction" => self.cut_left = cut_left(map)?,
            _ => {
                if let Some(other) = word(map)?.filter(|format| format != "float") {
                    let what =
                        format!("`{other}`: this route answers \"float\"; /v1/embeddings has \"base64\"");
                    return Err(A::Error::custom(what));
                }
            }
        }
        Ok(())
    }
}

/// Which end is cut, in either case of TEI's clients.
pub(super) fn cut_left<'de, A: MapAccess<'de>>(map: &mut A) -> Result<bool, A::Error> {
    match optional::<String, _>(map)?.as_deref() {
        None | Some("right" | "Right") => Ok(false),
        Some("left" | "Left") => Ok(true),
        Some(other) => Err(A::Error::custom(format!("`{other}` is neither \"left\" nor \"right\""))),
    }
}

/// What becomes of long texts.
pub(super) fn truncate_of(cuts: bool, left: bool) -> Truncate {
    match (cuts, left) {
        (false, _) => Truncate::Refuse,
        (true, false) => Truncate::Right,
        (true, true) => Truncate::Left,
    }
}

/// The model in `/m/{model}` or `/m/{model}/embed`; the name may hold slashes, plain or as `%2F`. Who tries to name a
/// model must not get the default one's vectors.
async fn model_of_path(request: &mut Request) -> Result<Option<String>, EdgeError> {
    if !request.uri().path().starts_with("/m/") {
        return Ok(None);
    }
    let path = request.extract_parts::<Path<String>>().await.ok();
    let model = path.map(|Path(path)| path.strip_suffix("/embed").unwrap_or(&path).to_owned());
    match model.filter(|model| !model.is_empty()) {
        Some(model) => Ok(Some(model)),
        None => Err(unnamed("the path holds no name that is UTF-8")),
    }
}

fn unnamed(what: &str) -> EdgeError {
    EdgeError::Invalid { message: format!("{what}, so no model is named"), param: Some("model") }
}

/// Serves `POST /embed` and `/embed_sparse`.
pub(super) async fn embed(
    app: &App,
    exchange: &Exchange<'_>,
    mut request: Request,
) -> Result<Reply, EdgeError> {
    let path_model = model_of_path(&mut request).await?;
    let (parts, body) = request.into_parts();
    let mut held = app.bodies.read_json(&parts.headers, body).await?;
    let mut fields = EmbedFields {
        seed: app.inputs_seed(),
        inputs: None,
        model: None,
        truncate: None,
        cut_left: false,
        normalize: None,
        prompt_name: None,
        dimensions: None,
    };
    read_object(&held.take(), &mut fields)?;
    let mut options = options(app, &mut fields)?;
    let is_sparse = exchange.route == Route::TeiEmbedSparse;
    if is_sparse {
        options.outputs = VectorSet::SPARSE;
    }
    let model = match path_model.or(fields.model) {
        Some(model) => model,
        None => model_of_headers(app, &parts.headers).await?,
    };
    let inputs = fields.inputs.ok_or_else(|| EdgeError::Invalid {
        message: "`inputs` is missing".to_owned(),
        param: Some("inputs"),
    })?;
    let characters = inputs.characters();
    let parse = exchange.elapsed();
    let job =
        Job { model, inputs, task: options.into(), param: "inputs", remedy: ", or send \"truncate\": true" };
    let answer = run(app, exchange, &parts.headers, job).await?;
    let body = if is_sparse { render_sparse(&answer)? } else { render_rows(&answer.vectors()?) };
    let mut reply = Reply::json(body);
    push_headers(&mut reply, &answer, exchange, characters);
    reply.served =
        Some(Served { parse, render: exchange.elapsed().saturating_sub(answer.at), summary: answer.summary });
    Ok(reply)
}

fn options(app: &App, fields: &mut EmbedFields) -> Result<EncodeOptions, EdgeError> {
    if fields.dimensions.is_some_and(|dims| !(1..=DENSE_DIMS_MAX).contains(&dims)) {
        return Err(EdgeError::Invalid {
            message: format!("`dimensions` must be from 1 to {DENSE_DIMS_MAX}"),
            param: Some("dimensions"),
        });
    }
    let truncate = truncate_of(fields.truncate.unwrap_or(app.options.tei_auto_truncate), fields.cut_left);
    Ok(EncodeOptions {
        dims: fields.dimensions,
        // TEI normalises unless told otherwise, whatever the model's own pipeline does.
        normalize: Some(fields.normalize.unwrap_or(true)),
        prompt_name: fields.prompt_name.take(),
        truncate,
        ..EncodeOptions::default()
    })
}

/// The model that the headers name, or the default one.
pub(super) async fn model_of_headers(app: &App, headers: &HeaderMap) -> Result<String, EdgeError> {
    let Some(value) = headers.get(X_MODEL).filter(|value| !value.is_empty()) else {
        return app.default_model().await;
    };
    let model = value.to_str().map_err(|_| unnamed("the header x-model is not plain ASCII"))?;
    Ok(model.trim().to_owned())
}

/// An entry of a sparse vector.
#[derive(Serialize)]
struct SparseEntry {
    index: u32,
    value: f32,
}

fn render_sparse(answer: &Answered) -> Result<Vec<u8>, EdgeError> {
    let row = |answer: &Answer| match answer {
        Answer::Vectors(Vectors { sparse: Some(sparse), .. }) => {
            let entries = sparse.indices().iter().zip(sparse.values());
            Ok(entries.map(|(index, value)| SparseEntry { index: *index, value: *value }).collect::<Vec<_>>())
        }
        _ => Err(misanswered()),
    };
    let rows = answer.items.iter().map(row).collect::<Result<Vec<_>, _>>()?;
    Ok(serde_json::to_vec(&rows).expect("numbers serialise"))
}

fn render_rows(vectors: &[&Vector]) -> Vec<u8> {
    let rows: usize = vectors.iter().map(|vector| render::json_bytes(vector) + 1).sum();
    let mut out = Vec::with_capacity(rows + 2);
    out.push(b'[');
    for (index, vector) in vectors.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        render::json(&mut out, vector);
    }
    out.push(b']');
    out
}

/// TEI's headers, in its whole milliseconds: `Server-Timing` has the fractions.
pub(super) fn push_headers(reply: &mut Reply, answer: &Answered, exchange: &Exchange<'_>, characters: usize) {
    let timings = &answer.summary.timings;
    let device = answer.summary.served_by.as_ref().map(|served_by| served_by.device_name.clone());
    let total_ms = exchange.elapsed().as_millis().to_string();
    for (name, value) in [
        ("x-compute-type", device.unwrap_or_default()),
        ("x-compute-time", total_ms.clone()),
        ("x-compute-characters", characters.to_string()),
        ("x-compute-tokens", answer.summary.tokens.to_string()),
        ("x-total-time", total_ms),
        ("x-tokenization-time", (timings.tokenize_us.0 / 1000).to_string()),
        ("x-queue-time", (timings.queue_us.0 / 1000).to_string()),
        ("x-inference-time", (timings.compute_us.0 / 1000).to_string()),
    ] {
        reply.push(HeaderName::from_static(name), text_value(value));
    }
    if answer.truncated > 0 {
        let count = HeaderValue::from(answer.truncated);
        reply.push(HeaderName::from_static("x-truncated-inputs"), count);
    }
}

/// Serves `GET /info`, never waking a model: what is not known of a model that was never loaded is null.
pub(super) async fn info(app: &App, headers: &HeaderMap) -> Result<Reply, EdgeError> {
    let model = model_of_headers(app, headers).await?;
    let status = app.status().await?;
    let model = app.find_model(&status, &model)?;
    let known = |value: u32| (value > 0).then_some(value);
    let named = |value: &String| Some(value.clone()).filter(|value| !value.is_empty());
    let limits = &app.options.limits;
    let queue_tokens_max = status.devices.first().map(|device| device.gauges.queue_tokens_max.0);
    let info = serde_json::json!({
        "model_id": model.name,
        "model_sha": null,
        "model_dtype": named(&model.dtype).map(|dtype| tei_dtype(&dtype)),
        "served_model_name": model.name,
        "model_type": {"embedding": {"pooling": named(&model.pooling)}},
        "max_concurrent_requests": limits.requests_max,
        "max_input_length": known(model.tokens_max),
        "max_batch_tokens": queue_tokens_max,
        "max_batch_requests": null,
        "max_client_batch_size": limits.items_max,
        "auto_truncate": app.options.tei_auto_truncate,
        "tokenization_workers": status.devices.first().map(|device| device.threads),
        "version": env!("CARGO_PKG_VERSION"),
        "sha": null,
        "docker_label": null,
    });
    Ok(Reply::json(info.to_string().into_bytes()))
}

/// Number formats as TEI spells them.
fn tei_dtype(dtype: &str) -> String {
    match dtype {
        "f32" => "float32".to_owned(),
        "f16" => "float16".to_owned(),
        "bf16" => "bfloat16".to_owned(),
        other => other.to_owned(),
    }
}
