//! Who serves and who loads, among members on loopback.

use shoal_mesh::core::NoRoute;
use shoal_mesh::{ClientError, Encode, MeshState};
use shoal_protocol::message::{Failure, Input, LoadRequest, ModelState, Priority, TaskRequest};
use shoal_protocol::{DeviceIndex, ErrorCode, NodeId, Place, RequestId};
use tokio::task::JoinSet;

use super::faults::copy_of_a_model;
use super::members::{Mesh, stands};
use super::*;

/// Nodes of these configurations that all know of each other's `model`.
pub(super) async fn mesh_of(configs: impl IntoIterator<Item = NodeConfig>, model: &str) -> Mesh {
    let mut mesh = Mesh::new();
    for config in configs {
        mesh.join(config).await;
    }
    let ids: Vec<NodeId> = mesh.nodes.iter().map(Node::id).collect();
    let stored = |mesh: &MeshState| ids.iter().all(|node| stands(mesh, *node, model).is_some());
    mesh.everybody("who has the model", stored).await;
    mesh
}

pub(super) fn cold(model: &str) -> NodeConfig {
    let mut config = golden_config(&[model]);
    config.models.preload.clear();
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_of_a_cold_model_cost_the_mesh_one_load() {
    let mesh = mesh_of([cold("mean"), cold("mean"), cold("mean")], "mean").await;
    let mut calls = JoinSet::new();
    for caller in 0..24 {
        let client = mesh.client(caller % 3).await;
        calls.spawn(async move { client.encode(Encode::new("mean", ["a text"])).await });
    }
    let mut answers = Vec::new();
    while let Some(call) = calls.join_next().await {
        answers.push(f32_of(&call.expect("no panic").expect("encoded").items[0]));
    }
    assert!(answers.len() == 24 && answers.windows(2).all(|pair| pair[0] == pair[1]));
    let loads = mesh.loads().await;
    assert_eq!(loads.iter().sum::<u64>(), 1, "{loads:?}");
}

/// The copies of a model that each of three nodes has for itself.
pub(super) struct Copies(Vec<(tempfile::TempDir, PathBuf, Vec<u8>)>);

impl Copies {
    pub(super) fn new() -> Self {
        Self((0..3).map(|_| copy_of_a_model()).collect())
    }

    pub(super) async fn mesh(&self) -> Mesh {
        mesh_of(self.0.iter().map(|(dir, ..)| config(&[("frail", dir.path())])), "frail").await
    }

    /// Leaves of a node's copy what is refused as soon as anybody looks at it.
    pub(super) fn deface(&self, index: usize) {
        std::fs::write(self.0[index].0.path().join("config.json"), b"{}").expect("written");
    }

    /// Makes it what it was.
    fn repair(&self, index: usize) {
        let sound = golden().join("bare-f16-gamma/config.json");
        std::fs::copy(sound, self.0[index].0.path().join("config.json")).expect("copied");
    }

    /// Leaves of a node's copy what can be described and not loaded.
    pub(super) fn spoil(&self, index: usize) {
        let (_, weights, sound) = &self.0[index];
        std::fs::write(weights, &sound[..sound.len() / 2]).expect("written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_fails_at_its_owner_is_loaded_by_the_next() {
    let copies = Copies::new();
    let mesh = copies.mesh().await;
    let owner = mesh.nodes.iter().position(|node| ask_for(node, "frail", Some(0)).is_ok()).expect("one");
    copies.spoil(owner);
    let client = mesh.client((owner + 1) % 3).await;
    for _ in 0..3 {
        let encoded = client.encode(Encode::new("frail", ["a"])).await.expect("the next owner has it");
        assert_ne!(encoded.served_by.map(|by| by.node), Some(mesh.nodes[owner].id()));
    }
    let loads = mesh.loads().await;
    assert_eq!((loads[owner], loads.iter().sum::<u64>()), (0, 1), "{loads:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_whose_files_are_refused_is_known_everywhere_not_to_be_had_there() {
    let copies = Copies::new();
    let mesh = copies.mesh().await;
    let owner = mesh.nodes.iter().position(|node| ask_for(node, "frail", Some(0)).is_ok()).expect("one");
    copies.deface(owner);
    let client = mesh.client((owner + 1) % 3).await;
    client.encode(Encode::new("frail", ["a"])).await.expect("the next owner has it");
    let at = mesh.nodes[owner].id();
    let told = |state| move |mesh: &MeshState| stands(mesh, at, "frail") == Some(state);
    mesh.everybody("it is refused there", told(ModelState::Failed)).await;
    let status = mesh.nodes[owner].service.status(false).await;
    let why = status.models.iter().find(|model| model.name == "frail").and_then(|model| model.error.clone());
    assert!(why.as_ref().is_some_and(|why| why.contains("config.json")), "{why:?}");
    let redirected = ask_for(&mesh.nodes[owner], "frail", Some(0)).expect_err("another has it");
    assert_eq!(redirected.code, ErrorCode::Redirect);
    copies.repair(owner);
    mesh.ask_only(owner, "frail").await;
    mesh.everybody("it is sound again", told(ModelState::Ready)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_loads_nowhere_is_said_so_with_the_cause() {
    let copies = Copies::new();
    let mesh = copies.mesh().await;
    (0..3).for_each(|index| copies.spoil(index));
    let client = mesh.client(0).await;
    let error = client.encode(Encode::new("frail", ["a"])).await.expect_err("nowhere");
    let ClientError::NeverLoads { nodes: 3, cause } = error else { panic!("{error}") };
    assert!(cause.contains("model.safetensors"), "{cause}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_fits_nowhere_is_said_so_at_once() {
    let mut small = cold("mean");
    small.device.resident_bytes_max = 1000;
    let mesh = mesh_of([small.clone(), small], "mean").await;
    let client = mesh.client(0).await;
    let error = client.encode(Encode::new("mean", ["a"])).await.expect_err("no room");
    assert!(matches!(error, ClientError::NoRoute { why: NoRoute::FitsNowhere { .. }, .. }), "{error}");
}

/// What the node says to an attempt, before it does anything.
fn ask(node: &Node, redirects: Option<u8>) -> Result<(), Failure> {
    ask_for(node, "mean-alias", redirects)
}

fn ask_for(node: &Node, model: &str, redirects: Option<u8>) -> Result<(), Failure> {
    let request = TaskRequest {
        request_id: RequestId::new(1),
        part: 0,
        attempt: 0,
        to: redirects.map(|_| Place { node: node.id(), device: DeviceIndex(0) }),
        redirects: redirects.unwrap_or(0),
        model: model.to_owned(),
        items: vec![Input::Text("a".to_owned())],
        task: Default::default(),
        deadline_us: None,
        priority: Priority::Interactive,
        decision: Vec::new(),
        trace: None,
    };
    let service = &node.service;
    // The task that follows the mesh may be a moment behind.
    service.handle_mesh(&service.mesh.get().expect("a member").borrow().clone());
    service.check_place(&service.placing(&request, clock::now()))
}

#[tokio::test]
async fn a_cold_model_is_loaded_by_one_owner_and_everybody_else_says_whom() {
    let mesh = mesh_of([cold("mean"), cold("mean"), cold("mean")], "mean").await;
    let takes = |node: &&Node| ask(node, Some(0)).is_ok();
    let owners: Vec<NodeId> = mesh.nodes.iter().filter(takes).map(Node::id).collect();
    let [owner] = owners[..] else { panic!("{owners:?}") };
    let others: Vec<usize> = (0..3).filter(|index| mesh.nodes[*index].id() != owner).collect();
    for node in others.iter().map(|index| &mesh.nodes[*index]) {
        let told = ask(node, Some(0)).expect_err("not its to load");
        assert_eq!((told.code, told.alternatives[0].node), (ErrorCode::Redirect, owner));
        assert_eq!((ask(node, Some(2)), ask(node, None)), (Ok(()), Ok(())));
    }
    // It is loaded where it was asked for, and from then on all name the holder.
    mesh.ask_only(others[0], "mean").await;
    let (first, last) = (&mesh.nodes[others[0]], &mesh.nodes[others[1]]);
    let held = |mesh: &MeshState| stands(mesh, first.id(), "mean") == Some(ModelState::Ready);
    mesh.everybody("a holder", held).await;
    assert_eq!(ask(last, Some(0)).expect_err("it is held").alternatives[0].node, first.id());
    assert_eq!(ask(first, Some(0)), Ok(()));
}

#[tokio::test]
async fn a_member_loads_what_another_asks_for() {
    let mesh = mesh_of([cold("mean"), cold("mean")], "mean").await;
    let (asks, loads) = (&mesh.nodes[0], mesh.nodes[1].id());
    let request = |model: &str| LoadRequest { model: model.to_owned(), device: DeviceIndex(0) };
    let member = asks.mesh.as_ref().expect("a member");
    // What is not to be had harms nobody.
    member.request_load(loads, request("nothing of this name")).await;
    member.request_load(loads, request("mean")).await;
    let held = |mesh: &MeshState| stands(mesh, loads, "mean") == Some(ModelState::Ready);
    mesh.everybody("the further holder", held).await;
    assert_eq!(gauges(&mesh.nodes[1]).await.1.loads, 1);
    assert_eq!(gauges(asks).await.1.loads, 0);
}
