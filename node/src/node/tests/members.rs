//! Nodes that are members of one mesh, on loopback.

use std::net::{Ipv4Addr, SocketAddr};

use shoal_mesh::{Authority, Client, ConnectOptions, Encode, MeshState};
use shoal_protocol::message::{LoadProbe, ModelFact, ModelState, Role};
use shoal_protocol::{DeviceIndex, Micros, NodeId};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::config::{MeshConfig, QuicConfig};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Nodes of one authority, each with its identity's directory.
pub(super) struct Mesh {
    authority: Authority,
    dirs: Vec<TempDir>,
    pub(super) nodes: Vec<Node>,
}

impl Mesh {
    pub(super) fn new() -> Self {
        Self { authority: Authority::create().expect("an authority"), dirs: Vec::new(), nodes: Vec::new() }
    }

    /// Starts one more node; the first is everybody's seed.
    pub(super) async fn join(&mut self, mut config: NodeConfig) -> &Node {
        let dir = tempfile::tempdir().expect("a directory");
        let issuer = self.authority.issuer().expect("an issuer");
        let identity = issuer.issue(Role::Node, "node").expect("an identity");
        identity.save(dir.path()).expect("written");
        config.quic = Some(QuicConfig {
            addr: LOOPBACK,
            advertise: None,
            join_addr: LOOPBACK,
            identity_dir: dir.path().to_owned(),
            connections_max: 64,
            streams_max: 64,
        });
        let seeds = self.nodes.first().and_then(Node::mesh_addr);
        config.mesh = Some(MeshConfig {
            addr: LOOPBACK,
            advertise: None,
            seeds: seeds.into_iter().map(|seed| seed.to_string()).collect(),
        });
        self.nodes.push(start(config).await);
        self.dirs.push(dir);
        self.nodes.last().expect("just started")
    }

    /// A client of the mesh that enters it at this node.
    pub(super) async fn client(&self, entry: usize) -> Client {
        let issuer = self.authority.issuer().expect("an issuer");
        let identity = issuer.issue(Role::Client, "client").expect("an identity");
        let address = self.nodes[entry].quic_addr().expect("it listens");
        Client::connect(ConnectOptions::new([address], identity)).await.expect("connected")
    }

    /// Has a node serve what it is asked, as a caller does that knows no other node.
    pub(super) async fn ask_only(&self, index: usize, model: &str) {
        let client = Client::in_process(self.nodes[index].service());
        let encoded = client.encode(Encode::new(model, ["a"])).await.expect("encoded");
        assert_eq!(encoded.items.len(), 1);
    }

    /// Loads since the start, of each node.
    pub(super) async fn loads(&self) -> Vec<u64> {
        let mut loads = Vec::new();
        for node in &self.nodes {
            loads.push(gauges(node).await.1.loads);
        }
        loads
    }

    /// Waits until what every node knows is what is wanted.
    pub(super) async fn everybody(&self, what: &str, holds: impl Fn(&MeshState) -> bool) {
        for (index, node) in self.nodes.iter().enumerate() {
            let mut state = node.service.mesh.get().expect("a member").clone();
            let reached =
                timeout(PATIENCE, state.wait_for(|mesh| holds(mesh))).await.map(|state| state.is_ok());
            assert_eq!(reached, Ok(true), "never at node {index}: {what}");
        }
    }
}

/// Where a node's record says that a model stands.
pub(super) fn stands(mesh: &MeshState, node: NodeId, model: &str) -> Option<ModelState> {
    let facts = mesh.facts.get(&node)?;
    facts.models.iter().find(|fact| fact.name == model).map(|fact: &ModelFact| fact.state)
}

#[tokio::test]
async fn a_loaded_model_and_its_nodes_load_are_known_everywhere_at_once() {
    let mut config = golden_config(&["mean"]);
    config.models.preload.clear();
    let mut mesh = Mesh::new();
    for _ in 0..3 {
        mesh.join(config.clone()).await;
    }
    let who = mesh.nodes[2].id();
    let stored = |mesh: &MeshState| stands(mesh, who, "mean") == Some(ModelState::Stored);
    mesh.everybody("on disk", stored).await;
    // Not an hour, by a speed that nobody has told.
    let soon = |mesh: &MeshState| mesh.facts[&who].models.iter().all(|fact| fact.load_us.0 < 60_000_000);
    mesh.everybody("how long a load would take", soon).await;
    mesh.ask_only(2, "mean").await;
    let ready = |mesh: &MeshState| stands(mesh, who, "mean") == Some(ModelState::Ready);
    mesh.everybody("loaded", ready).await;
    let load = |mesh: &MeshState| {
        mesh.loads.iter().any(|((node, _), load)| *node == who && load.record.tokens_per_s > 0)
    };
    mesh.everybody("its measured speed", load).await;
    let loaded = mesh.nodes[0].service.mesh.get().expect("a member").borrow().facts[&who].models[0].clone();
    assert!(loaded.bytes.0 > 0 && loaded.load_us.0 > 0, "measured: {loaded:?}");
}

#[tokio::test]
async fn a_probe_is_answered_from_memory() {
    let mut config = golden_config(&["mean"]);
    config.models.preload.clear();
    let node = start(config).await;
    let probe = |model: &str, device| {
        let probe = LoadProbe { nonce: 7, device: DeviceIndex(device), model: model.to_owned() };
        node.service().probe(&probe)
    };
    let before = probe("mean-alias", 0).expect("its device");
    assert_eq!((before.nonce, before.model), (7, Some(ModelState::Stored)));
    assert_eq!((probe("nothing", 0).expect("its device").model, probe("mean", 1)), (None, None));
    assert_eq!(vectors(&node, Encode::new("mean", ["a"])).await.len(), 1);
    let after = probe("mean-alias", 0).expect("its device");
    assert_eq!((after.model, after.ready_in_us), (Some(ModelState::Ready), Micros::ZERO));
    assert!(after.load.tokens_per_s > 0 && after.load.batches_done > 0, "{after:?}");
}
