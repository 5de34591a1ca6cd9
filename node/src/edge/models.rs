//! `GET /v1/models`: what is served here or elsewhere in the mesh, with what clients ignore and people ask for. Asking wakes
//! no model.

use axum::RequestExt;
use axum::extract::{Path, Request};
use serde::Serialize;
use shoal_mesh::core::{ListedModel, ListedPlace};
use shoal_protocol::Bytes;
use shoal_protocol::message::{ModelState, ModelStatus, Numerics, Status};

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
    /// Where it is in the mesh, those that hold it first; empty for a node that is in none.
    nodes: Vec<At>,
}

/// A model on a device of a node.
#[derive(Serialize)]
struct At {
    node: String,
    device: u16,
    status: &'static str,
    resident_bytes: u64,
}

impl At {
    fn of(listed: &ListedPlace) -> Self {
        let ListedPlace { place, state, bytes, .. } = listed;
        let is_held = matches!(state, ModelState::Ready);
        Self {
            node: place.node.to_string(),
            device: place.device.0,
            status: state_name(*state),
            resident_bytes: if is_held { bytes.0 } else { 0 },
        }
    }
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

/// Adds what is known of the whole mesh to a node's own models, which stay first: a request goes to where its model is best.
pub(super) fn add_elsewhere(models: &mut Vec<ModelStatus>, mesh: Vec<ListedModel>) {
    // A load that failed is told only where there is nothing better.
    let rank = |state: ModelState| (state != ModelState::Failed, state);
    for listed in mesh {
        let states = listed.places.iter().map(|at| at.state);
        let Some(best) = states.max_by_key(|state| rank(*state)) else {
            continue;
        };
        match models.iter_mut().find(|model| model.name == listed.name) {
            Some(model) if rank(best) > rank(model.state) => model.state = best,
            Some(_) => {}
            None => models.push(elsewhere(listed, best)),
        }
    }
}

/// A model that only other nodes have: no more is known than they tell everybody.
fn elsewhere(listed: ListedModel, state: ModelState) -> ModelStatus {
    ModelStatus {
        numerics: listed.places.first().map_or(Numerics::Any, |at| at.numerics),
        name: listed.name,
        aliases: listed.aliases,
        state,
        bytes: Bytes::ZERO,
        device: None,
        pinned: false,
        tokens_max: 0,
        dims: 0,
        matryoshka: false,
        pooling: String::new(),
        dtype: String::new(),
        placed: String::new(),
        error: None,
        requests: 0,
        tokens: 0,
    }
}

pub(super) const fn state_name(state: ModelState) -> &'static str {
    match state {
        ModelState::Stored => "stored",
        ModelState::Loading => "loading",
        ModelState::Ready => "ready",
        ModelState::Failed => "failed",
    }
}

fn model<'a>(app: &App, status: &'a Status, mesh: &[ListedModel], model: &'a ModelStatus) -> Model<'a> {
    let listed = mesh.iter().find(|listed| listed.name == model.name);
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
        nodes: listed.into_iter().flat_map(|listed| listed.places.iter().map(At::of)).collect(),
    }
}

/// Serves `GET /v1/models` and `GET /v1/models/{id}`; an id may hold slashes.
pub(super) async fn models(app: &App, mut request: Request) -> Result<Reply, EdgeError> {
    let wanted = match request.uri().path().strip_prefix("/v1/models/").map(str::to_owned) {
        // What does not decode to UTF-8 is looked up as it is written, and is nobody's.
        Some(written) => Some(request.extract_parts().await.map_or(written, |Path(id)| id)),
        None => None,
    };
    let (status, mesh) = (app.status().await?, app.client.models());
    let body = match wanted {
        Some(id) => serde_json::to_vec(&model(app, &status, &mesh, app.find_model(&status, &id)?)),
        None => serde_json::to_vec(&List {
            object: "list",
            data: status.models.iter().map(|each| model(app, &status, &mesh, each)).collect(),
        }),
    };
    Ok(Reply::json(body.expect("strings and numbers serialise")))
}

#[cfg(test)]
mod tests {
    use shoal_protocol::{DeviceIndex, NodeId, Place};

    use super::*;

    fn listed(name: &str, states: &[ModelState]) -> ListedModel {
        let at = |(number, state): (u8, &ModelState)| ListedPlace {
            place: Place { node: NodeId([number; 16]), device: DeviceIndex(0) },
            state: *state,
            numerics: Numerics::F32,
            bytes: Bytes(1),
        };
        ListedModel {
            name: name.to_owned(),
            aliases: Vec::new(),
            places: (0..).zip(states).map(at).collect(),
        }
    }

    #[test]
    fn a_model_is_told_as_it_stands_where_it_stands_best() {
        use ModelState::{Failed, Ready, Stored};
        let own = |name: &str, state| elsewhere(listed(name, &[]), state);
        let mut models = vec![own("hot", Stored), own("own", Ready), own("sick", Failed)];
        let mesh = [
            listed("far", &[Failed, Stored]),
            listed("hot", &[Stored, Ready]),
            listed("own", &[Ready, Stored]),
            listed("sick", &[Failed]),
        ];
        add_elsewhere(&mut models, mesh.into());
        let told: Vec<_> = models.iter().map(|model| (model.name.as_str(), model.state)).collect();
        assert_eq!(told, [("hot", Ready), ("own", Ready), ("sick", Failed), ("far", Stored)]);
    }
}
