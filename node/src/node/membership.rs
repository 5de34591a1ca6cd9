//! The node as a member: publishes what it has, keeps its generation, and leaves.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shoal_mesh::{LiveIdentity, OwnFacts, PeerOptions, PeerServer, TokioNet};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::reach::Reach;
use super::{StartError, seeds};
use crate::actors::service::NodeService;
use crate::clock;
use crate::config::NodeConfig;

/// The last generation, as text, in the identity's directory: it belongs to the key.
const GENERATION_FILE: &str = "generation";
/// How often the node looks whether its facts changed: routers hear of a loaded model within half a second.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

pub(super) struct NodeMembership {
    server: Arc<PeerServer>,
    /// Where members reach it.
    address: SocketAddr,
    tasks: JoinSet<()>,
}

impl NodeMembership {
    /// Listens for members at once, where the configuration says so. `callers` is where clients reach the node, `reach`
    /// where others reach this machine.
    pub(super) async fn start(
        config: &NodeConfig,
        identity: LiveIdentity,
        service: Arc<NodeService>,
        callers: SocketAddr,
        reach: Reach,
        net: Option<TokioNet>,
    ) -> Result<Option<Self>, StartError> {
        let Some((mesh, quic)) = config.mesh.as_ref().zip(config.quic.as_ref()) else {
            return Ok(None);
        };
        let known = identity.current().seeds().to_vec();
        let mut options = PeerOptions::new(mesh.addr, identity, service.facts.generation)
            .seeds(look_up(mesh.seeds.iter().chain(&known)).await)
            .advertise(reach.of(mesh.addr, mesh.advertise));
        if let Some(net) = net {
            options = options.net(net);
        }
        let server = Arc::new(PeerServer::bind(options)?);
        let address = reach.of(server.local_addr(), mesh.advertise);
        // Nobody else sets it.
        let _ = service.mesh.set(server.state());
        let mut tasks = JoinSet::new();
        tasks.spawn(publish(Arc::clone(&server), service, [address, callers]));
        tasks.spawn(keep_generation(server.state(), quic.identity_dir.clone()));
        tasks.spawn(seeds::keep(server.state(), quic.identity_dir.clone(), known));
        Ok(Some(Self { server, address, tasks }))
    }

    /// What to tell newcomers, whenever one asks.
    pub(super) fn seeds(&self) -> impl Fn() -> Vec<String> + Send + Sync + 'static {
        let (address, state) = (self.address, self.server.state());
        move || seeds::with_own(address, &state.borrow())
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Tells the others.
    pub(super) async fn leave(mut self) {
        self.tasks.shutdown().await;
        if let Some(server) = Arc::into_inner(self.server) {
            server.leave().await;
        }
    }
}

/// A seed that has no address now is left out: the others lead to the same mesh.
async fn look_up(seeds: impl Iterator<Item = &String>) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for seed in seeds {
        match tokio::net::lookup_host(seed).await {
            Ok(found) => addresses.extend(found),
            Err(error) => tracing::warn!(seed, %error, "a seed of the mesh has no address"),
        }
    }
    addresses
}

async fn publish(server: Arc<PeerServer>, service: Arc<NodeService>, addresses: [SocketAddr; 2]) {
    let mut looks = tokio::time::interval(LOOK_PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut published = OwnFacts::default();
    loop {
        looks.tick().await;
        let facts = service.own_facts(addresses).await;
        if facts != published {
            server.set_facts(facts.clone()).await;
            published = facts;
        }
    }
}

/// The mesh may have held this node for dead: the next start must be above the generation under which it went on.
async fn keep_generation(
    mut state: tokio::sync::watch::Receiver<Arc<shoal_mesh::MeshState>>,
    dir: std::path::PathBuf,
) {
    let mut kept = state.borrow().life.generation;
    while let Ok(renewed) = state.wait_for(|mesh| mesh.life.generation > kept).await.map(|mesh| mesh.life) {
        kept = renewed.generation;
        if let Err(error) = keep(&dir, kept) {
            tracing::warn!(%error, "the node's generation is not on disk");
        }
    }
}

/// Milliseconds since 1970: rises with every start as long as the clock does.
pub(super) fn clock_generation() -> u64 {
    u64::try_from(clock::unix_time().as_millis()).unwrap_or(u64::MAX)
}

/// A generation above every former one, also where the clock went back; on disk before it is used.
pub(super) fn next_generation(dir: &Path) -> Result<u64, StartError> {
    let former = match std::fs::read_to_string(dir.join(GENERATION_FILE)) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(source) => return Err(StartError::Generation { path: dir.join(GENERATION_FILE), source }),
    };
    let next = clock_generation().max(former + 1);
    keep(dir, next)?;
    Ok(next)
}

/// In place of the former one: a torn write would forget it.
fn keep(dir: &Path, generation: u64) -> Result<(), StartError> {
    let path = dir.join(GENERATION_FILE);
    let next = dir.join(format!("{GENERATION_FILE}.next"));
    let written =
        std::fs::write(&next, format!("{generation}\n")).and_then(|()| std::fs::rename(&next, &path));
    written.map_err(|source| StartError::Generation { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_rises_even_where_the_clock_went_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = next_generation(dir.path()).unwrap();
        assert!(next_generation(dir.path()).unwrap() > first);
        let ahead = first + 1_000_000;
        keep(dir.path(), ahead).unwrap();
        assert_eq!(next_generation(dir.path()).unwrap(), ahead + 1);
        std::fs::write(dir.path().join(GENERATION_FILE), "not a number").unwrap();
        assert!(next_generation(dir.path()).unwrap() >= first, "the clock is left");
        assert!(next_generation(&dir.path().join("gone")).is_err());
    }
}
