//! What becomes of a model that only a leaving node holds.

use shoal_mesh::Encode;
use shoal_protocol::message::ModelState;

use super::members::stands;
use super::placing::{cold, mesh_of};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_leaving_node_holds_is_held_elsewhere_before_it_goes() {
    let mut mesh = mesh_of([cold("mean"), golden_config(&["mean"]), cold("mean")], "mean").await;
    let leaving = mesh.nodes.remove(1);
    assert_eq!(mesh.loads().await, [0, 0]);
    leaving.drain(PATIENCE).await;
    assert_eq!(mesh.loads().await.iter().sum::<u64>(), 1, "by its next owner, and by nobody else");
    let client = mesh.client(0).await;
    let encoded = client.encode(Encode::new("mean", ["a text"])).await.expect("it is held");
    assert_ne!(encoded.served_by.map(|by| by.node), Some(leaving.id()));
    assert_eq!(mesh.loads().await.iter().sum::<u64>(), 1);
    leaving.close(clock::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_at_risk_has_another_hold_what_it_holds_and_goes_on() {
    let mesh = mesh_of([cold("mean"), golden_config(&["mean"])], "mean").await;
    mesh.nodes[1].spread().await;
    let ids: Vec<_> = mesh.nodes.iter().map(Node::id).collect();
    let both = "two that hold the model";
    mesh.everybody(both, |mesh| {
        ids.iter().all(|node| stands(mesh, *node, "mean") == Some(ModelState::Ready))
    })
    .await;
    assert!(mesh.nodes[1].service.reasons_not_ready().is_empty());
}
