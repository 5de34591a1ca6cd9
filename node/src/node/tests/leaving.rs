//! What becomes of a model that only a leaving node holds.

use shoal_mesh::core::Elsewhere;
use shoal_mesh::{Encode, MeshState};
use shoal_protocol::message::ModelState;

use super::members::{Mesh, stands};
use super::placing::{Copies, cold, mesh_of};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_copy_goes_to_the_next_owner_where_the_first_cannot_load_it() {
    goes_past_the_first_owner(Copies::spoil).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_copy_goes_to_the_next_owner_where_the_files_of_the_first_are_refused() {
    goes_past_the_first_owner(Copies::deface).await;
}

/// Ruins the copy of the node that is asked first.
async fn goes_past_the_first_owner(ruin: fn(&Copies, usize)) {
    let copies = Copies::new();
    let mut mesh = copies.mesh().await;
    mesh.ask_only(0, "frail").await;
    let now = clock::now();
    let asked = mesh.nodes[0].service.place().elsewhere("frail", &[], now);
    let Elsewhere::Stored(first) = asked else { panic!("{asked:?}") };
    let index = |node| mesh.nodes.iter().position(|other| other.id() == node).expect("one of them");
    ruin(&copies, index(first.node));
    let second = mesh.nodes[3 - index(first.node)].id();
    let leaving = mesh.nodes.remove(0);
    let held = |mesh: &MeshState| stands(mesh, leaving.id(), "frail") == Some(ModelState::Ready);
    mesh.everybody("it is held", held).await;
    let began = clock::now();
    leaving.drain(PATIENCE).await;
    let took = clock::now() - began;
    assert!(took < Duration::from_secs(20), "half of the grace would be 30 s: {took:?}");
    let held = |mesh: &MeshState| stands(mesh, second, "frail") == Some(ModelState::Ready);
    mesh.everybody("the next owner holds it", held).await;
}

#[tokio::test]
async fn every_model_of_a_mesh_is_listed_wherever_one_asks() {
    let mut mesh = Mesh::new();
    for model in ["mean", "dense-f16"] {
        mesh.join(cold(model)).await;
    }
    let ids: Vec<_> = mesh.nodes.iter().map(Node::id).collect();
    for node in &mesh.nodes {
        let listed = async {
            while node.client().models().len() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, listed).await.expect("both are known");
        let told: Vec<_> =
            node.client().models().into_iter().map(|model| (model.name, model.places)).collect();
        for ((name, places), (expected, id)) in told.iter().zip([("dense-f16", ids[1]), ("mean", ids[0])]) {
            assert_eq!((name.as_str(), places.len(), places[0].place.node), (expected, 1, id));
        }
    }
}
