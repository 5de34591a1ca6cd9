//! The nodes under load: real ones with their HTTP ports, in this process, and a client over QUIC.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shoal::config::{Environment, Machine, MeshConfig, NodeConfig, Overrides, resolve};
use shoal::edge::{EdgeOptions, HttpEdge};
use shoal::node::Node;
use shoal_mesh::{Authority, Client, ConnectOptions, Issuer, NetThread};
use shoal_protocol::message::Role;
use tempfile::TempDir;

use crate::pipeline::{AnyError, Work};

/// The name under which the model is served.
pub(super) const MODEL: &str = "bench";
/// For all nodes to hear of each other and of the model.
const MEET_WAIT: Duration = Duration::from_secs(10);
const LOOK_PERIOD: Duration = Duration::from_millis(10);

/// How the nodes are set up.
pub(super) struct Plan<'a> {
    pub(super) work: &'a Work,
    pub(super) nodes: usize,
    /// Threads of each node.
    pub(super) threads: usize,
    /// Ceiling of each node; `None`: as fast as it goes.
    pub(super) tokens_per_s_max: Option<u32>,
}

/// Dropping it stops everything at once.
pub(super) struct Ground {
    pub(super) client: Client,
    pub(super) nodes: Vec<Node>,
    /// How long a batch is meant to take.
    pub(super) batch: Duration,
    edges: Vec<HttpEdge>,
    _nets: Vec<NetThread>,
    _scratch: TempDir,
}

impl Ground {
    pub(super) async fn start(plan: &Plan<'_>) -> Result<Self, AnyError> {
        let scratch = tempfile::tempdir()?;
        let issuer = Authority::create()?.issuer()?;
        let (mut nodes, mut edges, mut nets) = (Vec::new(), Vec::new(), Vec::new());
        let mut batch = Duration::ZERO;
        for number in 0..plan.nodes {
            let seeds = nodes.first().and_then(Node::mesh_addr).into_iter().collect();
            let config = config(plan, &issuer, &scratch.path().join(number.to_string()), seeds)?;
            batch = config.device.batch_target;
            let http = config.http.as_ref().ok_or("no HTTP port")?;
            let options = EdgeOptions::from_config(http, &config.models);
            let net = NetThread::start()?;
            let node = Node::start_with_net(config, net.net()).await?;
            edges.push(HttpEdge::bind(options, node.client(), Arc::new(node.view())).await?);
            nodes.push(node);
            nets.push(net);
        }
        let entries: Vec<SocketAddr> = nodes.iter().filter_map(Node::quic_addr).collect();
        let client =
            Client::connect(ConnectOptions::new(entries, issuer.issue(Role::Client, "bench")?)).await?;
        let ground = Self { client, nodes, batch, edges, _nets: nets, _scratch: scratch };
        tokio::time::timeout(MEET_WAIT, ground.meet())
            .await
            .map_err(|_| "the nodes do not find each other")?;
        Ok(ground)
    }

    async fn meet(&self) {
        let sees_all = |client: &Client| client.nodes().len() == self.nodes.len();
        while !(sees_all(&self.client) && self.nodes.iter().all(|node| sees_all(&node.client()))) {
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    /// Where the HTTP ports are.
    pub(super) fn http(&self) -> Vec<SocketAddr> {
        self.edges.iter().map(HttpEdge::local_addr).collect()
    }
}

fn config(
    plan: &Plan<'_>,
    issuer: &Issuer,
    home: &Path,
    seeds: Vec<SocketAddr>,
) -> Result<NodeConfig, AnyError> {
    issuer.issue(Role::Node, "bench-node")?.save(&home.join("node"))?;
    let flags = Overrides {
        data_dir: Some(home.to_path_buf()),
        http: Some("127.0.0.1:0".to_owned()),
        quic: Some("127.0.0.1:0".to_owned()),
        identity_dir: Some(home.join("node")),
        preload: vec![plan.work.model.display().to_string()],
        dtype: Some(plan.work.dtype),
        threads: Some(plan.threads),
        offline: true,
        ..Overrides::default()
    };
    let mut config = resolve(None, &flags, &Environment::of_process(), Machine::detect())?;
    for model in &mut config.models.store.local {
        model.aliases.push(MODEL.to_owned());
    }
    config.device.tokens_per_s_max = plan.tokens_per_s_max;
    let seeds = seeds.iter().map(ToString::to_string).collect();
    config.mesh = Some(MeshConfig { addr: "127.0.0.1:0".parse()?, advertise: None, seeds });
    Ok(config)
}
