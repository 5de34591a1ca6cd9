//! Nodes for tests: one model, preloaded, on a free QUIC port of the loopback; or members of one mesh that have it on disk.

use std::net::SocketAddr;
use std::path::Path;

use shoal::config::{Environment, Machine, MeshConfig, NodeConfig, Overrides, TokenIdsPolicy, resolve};
use shoal_kernels::DtypePolicy;
use shoal_mesh::{Authority, Client, ConnectOptions, Issuer};
use shoal_protocol::message::Role;
use tempfile::TempDir;

/// The name under which the model is served.
pub const MODEL: &str = "served";

/// What a node needs, and an authority whose clients it takes.
pub struct Ground {
    /// Resolved as the command line would.
    pub config: NodeConfig,
    issuer: Issuer,
    scratch: TempDir,
}

/// Prepares a node that serves the model in `dir` as [`MODEL`] and takes token ids.
///
/// # Panics
/// When the machine has no room for a few small files.
#[must_use]
pub fn ground(dir: &Path, dtype: DtypePolicy) -> Ground {
    let scratch = tempfile::tempdir().expect("a directory");
    let identity_dir = scratch.path().join("identity");
    let issuer = Authority::create().and_then(|root| root.issuer()).expect("an issuer");
    let identity = issuer.issue(Role::Node, "node").expect("an identity");
    identity.save(&identity_dir).expect("saved");
    let flags = Overrides {
        data_dir: Some(scratch.path().to_path_buf()),
        http: Some("off".to_owned()),
        quic: Some("127.0.0.1:0".to_owned()),
        identity_dir: Some(identity_dir),
        preload: vec![dir.display().to_string()],
        dtype: Some(dtype),
        threads: Some(2),
        offline: true,
        ..Overrides::default()
    };
    let mut config =
        resolve(None, &flags, &Environment::of_process(), Machine::detect()).expect("the flags are sound");
    for model in &mut config.models.store.local {
        model.aliases.push(MODEL.to_owned());
    }
    config.models.token_ids = TokenIdsPolicy::Model;
    Ground { config, issuer, scratch }
}

impl Ground {
    /// A node of this name in the mesh of those at `seeds`, that holds nothing at its start.
    ///
    /// # Panics
    /// As [`ground`].
    #[must_use]
    pub fn member(&self, name: &str, seeds: Option<SocketAddr>) -> NodeConfig {
        let mut config = self.config.clone();
        config.models.preload.clear();
        let identity_dir = self.scratch.path().join(name);
        let identity = self.issuer.issue(Role::Node, name).expect("an identity");
        identity.save(&identity_dir).expect("saved");
        config.quic.as_mut().expect("it listens").identity_dir = identity_dir;
        let addr = "127.0.0.1:0".parse().expect("an address");
        let seeds = seeds.iter().map(ToString::to_string).collect();
        config.mesh = Some(MeshConfig { addr, advertise: None, seeds });
        config
    }

    /// A client over QUIC, with an identity of its own.
    ///
    /// # Panics
    /// When the node does not take it.
    pub async fn connect(&self, node: &shoal::node::Node) -> Client {
        let identity = self.issuer.issue(Role::Client, "client").expect("an identity");
        let address = node.quic_addr().expect("it listens");
        let connected = Client::connect(ConnectOptions::new([address], identity)).await;
        connected.expect("the node takes its authority's clients")
    }
}
