//! Who serves and who loads, among members on loopback.

use shoal_mesh::{Encode, MeshState};
use shoal_protocol::message::{EncodeRequest, Failure, Input, LoadRequest, ModelState, Priority};
use shoal_protocol::{DeviceIndex, ErrorCode, NodeId, Place, RequestId};

use super::members::{Mesh, stands};
use super::*;

async fn mesh_of(count: usize) -> Mesh {
    let mut config = golden_config(&["mean"]);
    config.models.preload.clear();
    let mut mesh = Mesh::new();
    for _ in 0..count {
        mesh.join(config.clone()).await;
    }
    let ids: Vec<NodeId> = mesh.nodes.iter().map(Node::id).collect();
    let stored = |mesh: &MeshState| ids.iter().all(|node| stands(mesh, *node, "mean").is_some());
    mesh.everybody("who has the model", stored).await;
    mesh
}

/// What the node says to an attempt, before it does anything.
fn ask(node: &Node, redirects: Option<u8>) -> Result<(), Failure> {
    let request = EncodeRequest {
        request_id: RequestId::new(1),
        part: 0,
        attempt: 0,
        to: redirects.map(|_| Place { node: node.id(), device: DeviceIndex(0) }),
        redirects: redirects.unwrap_or(0),
        model: "mean-alias".to_owned(),
        items: vec![Input::Text("a".to_owned())],
        options: Default::default(),
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
    let mesh = mesh_of(3).await;
    let takes = |node: &&Node| ask(node, Some(0)).is_ok();
    let owners: Vec<NodeId> = mesh.nodes.iter().filter(takes).map(Node::id).collect();
    let [owner] = owners[..] else { panic!("{owners:?}") };
    let others = || mesh.nodes.iter().filter(|node| node.id() != owner);
    for node in others() {
        let told = ask(node, Some(0)).expect_err("not its to load");
        assert_eq!((told.code, told.alternatives[0].node), (ErrorCode::Redirect, owner));
        assert_eq!((ask(node, Some(2)), ask(node, None)), (Ok(()), Ok(())));
    }
    // It is loaded where it was asked for, and from then on all name the holder.
    let first = others().next().expect("two");
    assert_eq!(vectors(first, Encode::new("mean", ["a"])).await.len(), 1);
    let held = |mesh: &MeshState| stands(mesh, first.id(), "mean") == Some(ModelState::Ready);
    mesh.everybody("a holder", held).await;
    let last = others().nth(1).expect("two");
    assert_eq!(ask(last, Some(0)).expect_err("it is held").alternatives[0].node, first.id());
    assert_eq!(ask(first, Some(0)), Ok(()));
}

#[tokio::test]
async fn a_member_loads_what_another_asks_for() {
    let mesh = mesh_of(2).await;
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
