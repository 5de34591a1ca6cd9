//! A serving node: the machines, their threads and their links, started and stopped together.

mod devices;
mod error;
mod identity;
mod leaving;
mod membership;
mod placement;
mod reach;
mod seeds;
mod self_test;
mod view;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ractor::{Actor, ActorRef};
use sha2::{Digest, Sha256};
use shoal_mesh::{
    BindError, Client, Identity, LinkLimits, LiveIdentity, LoadSequence, MemberClientOptions, Net,
    QuicServer, QuicServerOptions, Service, TokioNet,
};
use shoal_protocol::message::Status;
use shoal_protocol::{DeviceIndex, NodeId, Place};

#[cfg(test)]
use crate::actors::backend::Backend;
use crate::actors::backend::on_own_thread;
use crate::actors::device::{Bells, Carried, DeviceArguments, Published};
use crate::actors::front::{Front, FrontRules, Fronts, Homes};
use crate::actors::service::{DrainBell, NodeDevice, NodeFacts, NodeService, Twins};
use crate::actors::supervisor::{DeviceSlot, NodeSupervisor, Supervised, SupervisorMsg};
use crate::clock;
use crate::config::{NodeConfig, QuicConfig};
use crate::core::Placement;
use crate::decisions::Decisions;
use crate::metrics::Metrics;
use crate::store::ModelStore;
use crate::tasks::pool::TokenizerPool;

use devices::Found;
pub use error::StartError;
use identity::NodeIdentity;
use membership::{NodeMembership, clock_generation};
pub use view::View;

/// What the connections may take to close beyond the grace.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// A running node. [`shutdown`](Self::shutdown) hands over and lets work finish; dropping it stops everything at once.
pub struct Node {
    service: Arc<NodeService>,
    /// Of this node alone, until it is warm; then of its mesh.
    client: Client,
    supervisor: ActorRef<SupervisorMsg>,
    quic: Option<QuicServer>,
    /// Where callers reach it.
    callers: Option<SocketAddr>,
    identity: Option<NodeIdentity>,
    mesh: Option<NodeMembership>,
}

/// A device of a node, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// For example `cpu avx512-bf16`.
    pub name: String,
    /// Why this device and not a better one.
    pub reason: String,
}

impl Node {
    /// Starts a node on the caller's runtime and waits until its preloaded models have answered.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        Self::start_found(config, None).await
    }

    /// As [`start`](Self::start), with its QUIC endpoint, its connections and its actors on `net`, which must outlive
    /// it.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start_with_net(config: NodeConfig, net: TokioNet) -> Result<Self, StartError> {
        Self::start_found(config, Some(net)).await
    }

    async fn start_found(config: NodeConfig, net: Option<TokioNet>) -> Result<Self, StartError> {
        let searched = config.clone();
        let found = on_own_thread("find", move || devices::find(&searched)).await??;
        Self::assemble(config, found, net).await
    }

    /// As [`start`](Self::start), on a device of the caller's.
    #[cfg(test)]
    pub(crate) async fn start_on(config: NodeConfig, backend: Arc<dyn Backend>) -> Result<Self, StartError> {
        let found = vec![devices::around(&config.device, backend)];
        Self::assemble(config, found, None).await
    }

    async fn assemble(
        config: NodeConfig,
        found: Vec<Found>,
        net: Option<TokioNet>,
    ) -> Result<Self, StartError> {
        let start = |quic| NodeIdentity::start(quic, net.as_ref());
        let identity = config.quic.as_ref().map(start).transpose()?;
        let store = ModelStore::open(config.models.store.clone())?;
        let facts = facts_of(&config, &store, identity.as_ref());
        for found in &found {
            tracing::info!(node = %facts.node, device = %found.name, reason = %found.reason, "starting");
        }
        let fronts = Fronts::start(front_rules(&config, store, &found))?;
        let preload = fronts_of(&fronts, &config.models.preload).await?;
        let bells = Bells::default();
        let tokenizers = Arc::new(TokenizerPool::start(config.device.tokenizer_threads)?);
        let devices: Vec<_> = found.iter().map(|found| device_of(found, &bells)).collect();
        let supervised = found
            .into_iter()
            .zip(&devices)
            .map(|(found, device)| supervised(found, device, &tokenizers, &preload));
        let supervisor = supervise(supervised.collect(), net.as_ref()).await?;
        let service = Arc::new(NodeService {
            sequence: LoadSequence::new(facts.started_at),
            twins: Twins::default(),
            placement: Mutex::new(Placement::new(Place { node: facts.node, device: DeviceIndex(0) })),
            facts,
            devices,
            bells,
            fronts,
            tokenizers,
            metrics: Metrics::default(),
            decisions: Decisions::default(),
            is_warm: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            drain_bell: DrainBell::default(),
            standing: identity.as_ref().map(NodeIdentity::standing),
            mesh: OnceLock::new(),
        });
        let mut node = Self {
            client: Client::in_process(Arc::clone(&service) as Arc<dyn Service>),
            service,
            supervisor,
            quic: None,
            callers: None,
            identity: None,
            mesh: None,
        };
        let of_mesh = match config.quic.as_ref().zip(identity) {
            Some((quic, identity)) => node.enter_mesh(&config, quic, identity, net).await?,
            None => None,
        };
        node.warm_up(&config.models.preload).await?;
        of_mesh.into_iter().for_each(|client| node.client = client);
        Ok(node)
    }

    /// Has every preloaded model answer, here and not elsewhere.
    async fn warm_up(&self, preload: &[String]) -> Result<(), StartError> {
        for name in preload {
            self.self_test(name).await?;
        }
        self.service.is_warm.store(true, Ordering::Release);
        Ok(())
    }

    /// Opens the ports of a node with an identity: for callers, for members, and for newcomers where it is an issuer.
    /// With a client of the mesh, if it is a member of one.
    async fn enter_mesh(
        &mut self,
        config: &NodeConfig,
        quic: &QuicConfig,
        identity: NodeIdentity,
        net: Option<TokioNet>,
    ) -> Result<Option<Client>, StartError> {
        let server = self.listen(quic, identity.live(), net.clone())?;
        let reach = identity.reach(config.mesh.as_ref());
        let callers = reach.of(server.local_addr(), quic.advertise);
        Identity::save_listening(&quic.identity_dir, reach::nearby(server.local_addr()))?;
        (self.quic, self.callers) = (Some(server), Some(callers));
        let (live, service) = (identity.live(), Arc::clone(&self.service));
        self.mesh = NodeMembership::start(config, live, service, callers, reach, net.clone()).await?;
        let options = MemberClientOptions::new(identity.live());
        let options = net.iter().fold(options, |options, net| options.net(net.clone()));
        self.identity = Some(identity.listening(quic, reach, self.mesh.as_ref(), net)?);
        let of_mesh = self.mesh.as_ref().map(|_| Client::of_member(self.service(), options));
        Ok(of_mesh.transpose()?)
    }

    fn listen(
        &self,
        quic: &QuicConfig,
        identity: LiveIdentity,
        net: Option<TokioNet>,
    ) -> Result<QuicServer, BindError> {
        let limits = LinkLimits {
            connections_max: quic.connections_max as usize,
            attempts_per_connection_max: quic.streams_max as usize,
            ..LinkLimits::default()
        };
        let options = QuicServerOptions::new(quic.addr, identity)
            .limits(limits)
            .generation(self.service.facts.generation);
        let options = match net {
            Some(net) => options.net(net),
            None => options,
        };
        QuicServer::bind(options, self.service())
    }

    /// What links serve: the node as its callers reach it.
    #[must_use]
    pub fn service(&self) -> Arc<dyn Service> {
        Arc::clone(&self.service) as Arc<dyn Service>
    }

    /// A client in this process: the same frames, no socket where this node serves them; to the other nodes of its mesh,
    /// if it is in one, as any client.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.service.facts.node
    }

    /// The address of the QUIC endpoint, with its real port.
    #[must_use]
    pub fn quic_addr(&self) -> Option<SocketAddr> {
        self.quic.as_ref().map(QuicServer::local_addr)
    }

    /// Where callers elsewhere should dial it, if it has a QUIC endpoint.
    #[must_use]
    pub fn callers_addr(&self) -> Option<SocketAddr> {
        self.callers
    }

    /// Where newcomers get certificates, with its real port, if the node is an issuer.
    #[must_use]
    pub fn join_addr(&self) -> Option<SocketAddr> {
        self.identity.as_ref().and_then(NodeIdentity::join_addr)
    }

    /// Where members reach it, with its real port, if it is one.
    #[must_use]
    pub fn mesh_addr(&self) -> Option<SocketAddr> {
        self.mesh.as_ref().map(NodeMembership::local_addr)
    }

    /// Its devices and why these.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let info =
            |device: &NodeDevice| DeviceInfo { name: device.name.clone(), reason: device.reason.clone() };
        self.service.devices.iter().map(info).collect()
    }

    /// The node as it sees itself.
    pub async fn status(&self, histograms: bool) -> Status {
        self.service.status(histograms).await
    }

    /// What probes ask; stays valid as long as somebody holds it.
    #[must_use]
    pub fn view(&self) -> View {
        View { service: Arc::clone(&self.service) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Its device is linked to it and ends with it; the threads end when their channels close.
        self.supervisor.stop(None);
    }
}

/// A node without a key is reached only from its own process; its id must only differ from those of others.
fn id_of_process() -> NodeId {
    let mut hash = Sha256::new();
    hash.update(clock::unix_time().as_nanos().to_le_bytes());
    hash.update(std::process::id().to_le_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut id = NodeId::default();
    id.0.copy_from_slice(&digest[..16]);
    id
}

/// Starts the actors: on `net` if there is one, because the beacons are theirs, and because each hop between threads on
/// a request's way costs more than all that they do for it.
async fn supervise(
    devices: Vec<Supervised>,
    net: Option<&TokioNet>,
) -> Result<ActorRef<SupervisorMsg>, StartError> {
    let spawning = Actor::spawn(None, NodeSupervisor, devices);
    let failed = |message: String| StartError::Device { message };
    let spawned = match net {
        None => spawning.await,
        Some(net) => net.tasks().spawn(spawning).await.map_err(|error| failed(error.to_string()))?,
    };
    spawned.map(|(supervisor, _)| supervisor).map_err(|error| failed(error.to_string()))
}

fn facts_of(config: &NodeConfig, store: &ModelStore, identity: Option<&NodeIdentity>) -> NodeFacts {
    NodeFacts {
        node: identity.map_or_else(id_of_process, NodeIdentity::node_id),
        generation: identity.map_or_else(clock_generation, NodeIdentity::generation),
        placed: config.gpu.placed.clone(),
        isa: config.device.isa(),
        known: store.list(),
        token_ids: config.models.token_ids,
        started_at: clock::now(),
    }
}

fn front_rules(config: &NodeConfig, store: ModelStore, found: &[Found]) -> FrontRules {
    let sites = found.iter().map(Found::site).collect();
    FrontRules {
        store,
        dtype: config.device.dtype,
        pin: config.models.pin.clone(),
        backends: found.iter().map(|found| Arc::clone(&found.backend)).collect(),
        homes: Homes::new(sites, config.gpu.placed.clone(), config.gpu.without_kernel),
    }
}

fn device_of(found: &Found, bells: &Bells) -> NodeDevice {
    NodeDevice {
        index: found.core.device,
        kind: found.name,
        name: found.backend.name(),
        reason: found.reason.clone(),
        threads: found.core.threads,
        resident_bytes_max: found.resident_bytes_max(),
        slot: DeviceSlot::default(),
        published: Arc::new(Published::new(bells.clone())),
    }
}

fn supervised(
    found: Found,
    device: &NodeDevice,
    tokenizers: &Arc<TokenizerPool>,
    preload: &[Arc<Front>],
) -> Supervised {
    let own = preload.iter().filter(|front| front.device == device.index);
    let arguments = DeviceArguments {
        config: found.core,
        backend: found.backend,
        tokenizers: Arc::clone(tokenizers),
        preload: own.cloned().collect(),
        carried: Arc::new(Carried::default()),
        published: Arc::clone(&device.published),
    };
    Supervised { device: arguments, slot: device.slot.clone() }
}

async fn fronts_of(fronts: &Fronts, names: &[String]) -> Result<Vec<Arc<Front>>, StartError> {
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        let front = fronts.make(name).await;
        all.push(
            front.map_err(|error| StartError::Preload { name: name.clone(), message: error.to_string() })?,
        );
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
