//! `GET /v1/models`: what is served here, with what clients ignore and people ask for. Asking wakes no model.

use axum::RequestExt;
use axum::extract::{Path, Request};
use serde::Serialize;
use shoal_protocol::message::{ModelState, ModelStatus, Status};

use super::app::App;
use super::error::EdgeError;
use super::exchange::Reply;

/// OpenAI's `Model`, then ours.
#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    /// When this node began to offer it, in Unix seconds.
    created: u64,
    owned_by: &'static str,
    status: &'static str,
    aliases: &'a [String],
    device: Option<&'a str>,
    resident_bytes: u64,
    pinned: bool,
    dtype: Option<&'a str>,
    pooling: Option<&'a str>,
    dims: Option<u32>,
    matryoshka: bool,
    tokens_max: Option<u32>,
    requests: u64,
    tokens: u64,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

pub(super) const fn state_name(state: ModelState) -> &'static str {
    match state {
        ModelState::Stored => "stored",
        ModelState::Loading => "loading",
        ModelState::Ready => "ready",
        ModelState::Failed => "failed",
    }
}

fn model<'a>(app: &App, status: &'a Status, model: &'a ModelStatus) -> Model<'a> {
    let device = status.devices.iter().find(|device| Some(device.device) == model.device);
    let known = |value: u32| (value > 0).then_some(value);
    let named = |value: &'a String| Some(value.as_str()).filter(|value| !value.is_empty());
    Model {
        id: &model.name,
        object: "model",
        created: app.started_unix_s,
        owned_by: "shoal",
        status: state_name(model.state),
        aliases: &model.aliases,
        device: device.map(|device| device.name.as_str()),
        resident_bytes: model.bytes.0,
        pinned: model.pinned,
        dtype: named(&model.dtype),
        pooling: named(&model.pooling),
        dims: known(model.dims),
        matryoshka: model.matryoshka,
        tokens_max: known(model.tokens_max),
        requests: model.requests,
        tokens: model.tokens,
        error: model.error.as_deref(),
    }
}

/// Serves `GET /v1/models` and `GET /v1/models/{id}`; an id may hold slashes.
pub(super) async fn models(app: &App, mut request: Request) -> Result<Reply, EdgeError> {
    let wanted = match request.uri().path().strip_prefix("/v1/models/").map(str::to_owned) {
        // What does not decode to UTF-8 is looked up as it is written, and is nobody's.
        Some(written) => Some(request.extract_parts().await.map_or(written, |Path(id)| id)),
        None => None,
    };
    let status = app.client.status(false).await?;
    let body = match wanted {
        Some(id) => serde_json::to_vec(&model(app, &status, app.find_model(&status, &id)?)),
        None => serde_json::to_vec(&List {
            object: "list",
            data: status.models.iter().map(|each| model(app, &status, each)).collect(),
        }),
    };
    Ok(Reply::json(body.expect("strings and numbers serialise")))
}
