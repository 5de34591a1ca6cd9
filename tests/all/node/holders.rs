//! Who holds a model, under load: more nodes when it is hot, and the next one when its only holder leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shoal::clock;
use shoal::node::Node;
use shoal_kernels::{Dtype, DtypePolicy};
use shoal_mesh::core::ListedModel;
use shoal_mesh::{Client, Encode, ItemResult};
use shoal_protocol::NodeId;
use shoal_protocol::message::ModelState;
use shoal_tests::golden::tiny_bert_dir;
use shoal_tests::serving::{Ground, MODEL, ground};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(60);
/// What a spot machine has, less what its own end takes.
const GRACE: Duration = Duration::from_secs(25);
/// Slow enough for requests to wait for their turn when the node is told to leave.
const TOKENS_PER_S: u32 = 400;
/// Requests of one client at a time.
const IN_FLIGHT: usize = 16;
const NODES: usize = 3;

async fn start_mesh(ground: &Ground) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..NODES {
        let mut config = ground.member(&format!("node-{number}"), nodes.first().and_then(Node::mesh_addr));
        config.device.tokens_per_s_max = Some(TOKENS_PER_S);
        nodes.push(Node::start(config).await.expect("the node starts"));
    }
    for node in &nodes {
        until(&node.client(), "all have it on disk", |model| model.places.len() == NODES).await;
    }
    nodes
}

/// Has this node hold the model, and waits until the clients know that it alone does.
async fn warm(node: &Node, clients: &[Client]) {
    // A caller that names no place is served where it asks.
    let warmed = Client::in_process(node.service()).encode(Encode::new(MODEL, ["a"])).await;
    warmed.expect("it loads");
    for client in clients {
        until(client, "the one holder is known", |_| holders(client) == [node.id()]).await;
    }
}

/// Waits until what a client knows of the model is what is wanted.
async fn until(client: &Client, what: &str, holds: impl Fn(&ListedModel) -> bool) {
    let is_it = |model: &ListedModel| model.aliases.iter().any(|alias| alias == MODEL) && holds(model);
    let reached = async {
        while !client.models().iter().any(is_it) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reached).await.is_ok(), "never: {what}");
}

fn holders(client: &Client) -> Vec<NodeId> {
    let places = client.models().into_iter().flat_map(|model| model.places);
    places.filter(|at| at.state == ModelState::Ready).map(|at| at.place.node).collect()
}

/// What one flow of requests saw.
#[derive(Default)]
struct Seen {
    answered: u64,
    retried: u64,
    failures: Vec<String>,
}

/// Asks one thing after the other until it is told to stop.
async fn flow(client: Client, number: usize, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        match client.encode(Encode::new(MODEL, [format!("moon river {number}")])).await {
            Ok(encoded) if matches!(encoded.items[..], [ItemResult::Answered { .. }]) => {
                seen.answered += 1;
                seen.retried += u64::from(encoded.retries > 0);
            }
            Ok(encoded) => seen.failures.push(format!("{:?}", encoded.items)),
            Err(error) => seen.failures.push(error.to_string()),
        }
    }
    seen
}

/// Flows of requests at several clients.
struct Load {
    stop: Arc<AtomicBool>,
    flows: JoinSet<Seen>,
}

impl Load {
    fn start(clients: &[Client]) -> Self {
        let (stop, mut flows) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for (number, client) in clients.iter().cycle().take(clients.len() * IN_FLIGHT).enumerate() {
            flows.spawn(flow(client.clone(), number, Arc::clone(&stop)));
        }
        Self { stop, flows }
    }

    /// Waits for what is under way. No request has failed.
    async fn stop(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = tokio::time::timeout(PATIENCE, self.flows.join_all()).await.expect("all end");
        let failures: Vec<_> = seen.iter().flat_map(|seen| &seen.failures).collect();
        assert!(failures.is_empty(), "{failures:?}");
        seen
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_hot_copy_moves_on_under_load_and_no_request_fails() {
    let ground = ground(&tiny_bert_dir("mean"), DtypePolicy::Exact(Dtype::F32));
    let mut nodes = start_mesh(&ground).await;
    let leaving = nodes.remove(1);
    let clients = [ground.connect(&nodes[0]).await, ground.connect(&leaving).await];
    warm(&leaving, &clients).await;
    let load = Load::start(&clients);
    let queued = async {
        while leaving.status(false).await.devices[0].load.requests < IN_FLIGHT as u32 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, queued).await.expect("requests wait for their turn");

    let began = clock::now();
    leaving.drain(GRACE).await;
    let mut new = Vec::new();
    for node in &nodes {
        // Its own word: what the others know of it comes a moment later.
        let models = node.status(false).await.models;
        new.extend(models.iter().any(|model| model.state == ModelState::Ready).then(|| node.id()));
    }
    // One that was asked to by the leaving node, or one that callers had load it before: it is soon done.
    assert!(!new.is_empty(), "another one holds it before the node leaves");
    leaving.close(began + GRACE).await;
    assert!(clock::now() < began + GRACE, "it left in time");

    let after = clients[0].encode(Encode::new(MODEL, ["a"])).await.expect("it is held elsewhere");
    let by = after.served_by.expect("somebody answered").node;
    assert!(nodes.iter().any(|node| node.id() == by), "{by:?} is no node that stays");
    let seen = load.stop().await;
    assert!(seen.iter().all(|seen| seen.answered > 0), "every caller was served");
    assert!(seen.iter().any(|seen| seen.retried > 0), "what waited went to the new holder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_model_gets_a_further_holder() {
    let ground = ground(&tiny_bert_dir("mean"), DtypePolicy::Exact(Dtype::F32));
    let nodes = start_mesh(&ground).await;
    let clients = [ground.connect(&nodes[0]).await];
    warm(&nodes[1], &clients).await;
    // Callers that know no other node: those that do would have another one load it as soon as that is less than the wait.
    let load = Load::start(&[Client::in_process(nodes[1].service())]);
    let began = clock::now();
    until(&clients[0], "another holds it", |_| holders(&clients[0]).len() > 1).await;
    // Two windows of 2.5 s must agree, the first of which may have begun before the load; then it is loaded.
    let took = clock::now() - began;
    assert!(took > Duration::from_millis(2400), "one window is bad luck: {took:?}");
    load.stop().await;
}
