//! The node as a member: publishes what it has, keeps its generation, and leaves.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shoal_mesh::{LiveIdentity, MeshState, PeerOptions, PeerServer, TokioNet};
use shoal_protocol::NodeId;
use shoal_protocol::message::{LoadRequest, MemberState};
use tokio::sync::watch;
use tokio::sync::watch::error::RecvError;
use tokio::task::JoinSet;

use super::reach::Reach;
use super::{StartError, placement, seeds};
use crate::actors::service::{NodeService, claimed_speed};
use crate::clock;
use crate::config::NodeConfig;

/// The last generation, as text, in the identity's directory: it belongs to the key.
const GENERATION_FILE: &str = "generation";
/// Between two looks at a load that changes with every batch: often enough for its class to be told soon.
const LOAD_PERIOD: Duration = Duration::from_millis(20);
/// Between two lookups of the seeds while nobody is there: names get other addresses when machines are replaced.
const SEEDS_PERIOD: Duration = Duration::from_secs(10);

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
        let seeds: Vec<String> = mesh.seeds.iter().chain(&known).cloned().collect();
        let (listener, requests) = placement::load_requests();
        let mut options = PeerOptions::new(mesh.addr, identity, service.facts.generation)
            .seeds(look_up(&seeds).await)
            .advertise(reach.of(mesh.addr, mesh.advertise))
            .load_sequence(service.sequence)
            .listener(listener);
        if let Some(net) = net {
            options = options.net(net);
        }
        let server = Arc::new(PeerServer::bind(options)?);
        let address = reach.of(server.local_addr(), mesh.advertise);
        // Nobody else sets it.
        let _ = service.mesh.set(server.state());
        let mut tasks = JoinSet::new();
        tasks.spawn(placement::follow(Arc::clone(&server), Arc::clone(&service)));
        tasks.spawn(placement::load_asked(requests, Arc::clone(&service)));
        tasks.spawn(publish(Arc::clone(&server), service, [address, callers]));
        tasks.spawn(look_for_company(Arc::clone(&server), seeds));
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

    /// What it knows of the mesh.
    pub(super) fn state(&self) -> watch::Receiver<Arc<MeshState>> {
        self.server.state()
    }

    /// Asks a member to load a model; its facts are the answer.
    pub(super) async fn request_load(&self, to: NodeId, request: LoadRequest) {
        self.server.request_load(to, request).await;
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
async fn look_up(seeds: &[String]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for seed in seeds {
        match tokio::net::lookup_host(seed).await {
            Ok(found) => addresses.extend(found),
            Err(error) => tracing::warn!(seed, %error, "a seed of the mesh has no address"),
        }
    }
    addresses
}

/// Looks the seeds up again for as long as the node is alone.
async fn look_for_company(server: Arc<PeerServer>, seeds: Vec<String>) {
    let mut state = server.state();
    let is_alone = |mesh: &Arc<MeshState>| !mesh.members.iter().any(|seen| seen.state == MemberState::Alive);
    // Ends with the member.
    while !seeds.is_empty() && state.wait_for(is_alone).await.is_ok() {
        tokio::time::sleep(SEEDS_PERIOD).await;
        if is_alone(&state.borrow()) {
            server.dial(look_up(&seeds).await).await;
        }
    }
}

/// Tells the mesh at once when a model changed its state, its files are refused or the node began to leave, and how loaded
/// its devices are.
async fn publish(server: Arc<PeerServer>, service: Arc<NodeService>, addresses: [SocketAddr; 2]) {
    let (mut loads, mut shelves) = (service.bells.loads(), service.bells.shelves());
    let mut refusals = service.fronts.refused();
    let (mut claimed, mut told) = (vec![0; service.devices.len()], None);
    loop {
        // What changes while this is told is seen below.
        loads.mark_unchanged();
        shelves.mark_unchanged();
        let refused = refusals.borrow_and_update().clone();
        let mut standing = Vec::with_capacity(service.devices.len());
        for (device, claimed) in service.devices.iter().zip(&mut claimed) {
            let load = service.load_of(device);
            if let Some(load) = load {
                server.set_load(load);
            }
            *claimed = claimed_speed(*claimed, load.map_or(0, |load| load.tokens_per_s));
            standing.push((device.published.shelf(), *claimed, load.map(|load| load.draining)));
        }
        let outline = (refused, standing);
        if told.as_ref() != Some(&outline) {
            server.set_facts(service.own_facts(addresses, &claimed)).await;
            told = Some(outline);
        }
        let load_changed = async {
            loads.changed().await?;
            tokio::time::sleep(LOAD_PERIOD).await;
            Ok::<_, RecvError>(())
        };
        tokio::select! {
            Ok(()) = shelves.changed() => {}
            Ok(()) = refusals.changed() => {}
            Ok(()) = load_changed => {}
            else => return, // the device is gone for good
        }
    }
}

/// The mesh may have held this node for dead: the next start must be above the generation under which it went on.
async fn keep_generation(mut state: watch::Receiver<Arc<MeshState>>, dir: std::path::PathBuf) {
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
