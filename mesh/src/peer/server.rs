//! The handle of a member.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::Endpoint;
use ring::rand::{SecureRandom, SystemRandom};
use shoal_protocol::message::{LoadRecord, LoadRequest, Role};
use shoal_protocol::{DeviceIndex, NodeId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::driver::{Command, Driver, Listener, Ways, now};
use super::interface::{MeshState, News, PeerCounters};
use super::machines::Machines;
use crate::core::{Life, LoadSequence, MembershipOptions, OwnFacts};
use crate::identity::LiveIdentity;
use crate::link::accept::log_panic;
use crate::link::codes::Code;
use crate::link::hello::Own;
use crate::link::transport::{SetupError, client_config, endpoint_config, server_config, setup};
use crate::link::{BindError, Door, Net, net_or_callers};

/// What the node said and the driver has not heard yet. Beyond it [`PeerServer::set_facts`] waits.
const COMMANDS_MAX: usize = 64;
/// How long the last packets (the closing ones) may take once everything is over.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How a node is a member.
pub struct PeerOptions {
    addr: SocketAddr,
    identity: LiveIdentity,
    generation: u64,
    advertise: Option<SocketAddr>,
    seeds: Vec<SocketAddr>,
    chance: Option<u64>,
    sequence: Option<LoadSequence>,
    listener: Listener,
    net: Option<Arc<dyn Net>>,
}

impl PeerOptions {
    /// Listens on `addr` (port 0: any free one) as `identity`, which must be a node's. `generation` must be larger than
    /// every former one of this identity: see [`crate::core::MembershipOptions::life`].
    #[must_use]
    pub fn new(addr: SocketAddr, identity: impl Into<LiveIdentity>, generation: u64) -> Self {
        Self {
            addr,
            identity: identity.into(),
            generation,
            advertise: None,
            seeds: Vec::new(),
            chance: None,
            sequence: None,
            listener: Box::new(|_| {}),
            net: None,
        }
    }

    /// Where others reach it, if that is not where it listens. Port 0: the port on which it listens.
    #[must_use]
    pub fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// Where to look for company.
    #[must_use]
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.seeds = seeds.into_iter().collect();
        self
    }

    /// Who hears of everything that is new, in order: a router's view, for example. It is called on the member's own
    /// task, which waits for it.
    #[must_use]
    pub fn listener(mut self, listener: impl FnMut(&News) + Send + 'static) -> Self {
        self.listener = Box::new(listener);
        self
    }

    /// What numbers the node's load records, where it also answers probes; by default it counts from now.
    #[must_use]
    pub fn load_sequence(mut self, sequence: LoadSequence) -> Self {
        self.sequence = Some(sequence);
        self
    }

    /// The seed of the member's choices, where they must be the same again.
    #[cfg(test)]
    pub(super) fn chance(mut self, seed: u64) -> Self {
        self.chance = Some(seed);
        self
    }

    /// Where sockets and tasks come from; by default the operating system and the caller's runtime.
    #[must_use]
    pub fn net(mut self, net: impl Net) -> Self {
        self.net = Some(Arc::new(net));
        self
    }
}

/// A node's membership. Dropping it is a crash to the others; [`leave`](Self::leave) tells them.
pub struct PeerServer {
    endpoint: Endpoint,
    addr: SocketAddr,
    commands: mpsc::Sender<Command>,
    loads: watch::Sender<BTreeMap<DeviceIndex, LoadRecord>>,
    state: watch::Receiver<Arc<MeshState>>,
    task: JoinSet<()>,
}

impl PeerServer {
    /// Opens the endpoint and starts to look for company.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(options: PeerOptions) -> Result<Self, BindError> {
        let PeerOptions {
            addr,
            identity: live,
            generation,
            advertise,
            seeds,
            chance,
            sequence,
            listener,
            net,
        } = options;
        let identity = live.current();
        if identity.role() != Role::Node {
            return Err(BindError::Role(identity.role()));
        }
        let net = net_or_callers(net)?;
        let failed = |source| BindError::Socket { addr, source };
        let (server, dialing) = (server_config(&live, Door::Members)?, client_config(&live, Door::Members)?);
        let socket = net.bind(addr).map_err(failed)?;
        let config = endpoint_config(&identity);
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, net.quic_runtime())
            .map_err(failed)?;
        let addr = endpoint.local_addr().map_err(failed)?;
        let address = match advertise {
            Some(address) if address.port() == 0 => SocketAddr::new(address.ip(), addr.port()),
            Some(address) => address,
            None => addr,
        };
        let life = Life { node: identity.node_id(), generation };
        let chance = chance.map_or_else(seed, Ok)?;
        let sequence = sequence.unwrap_or_else(|| LoadSequence::new(now()));
        let membership = MembershipOptions { life, address, seeds, chance };
        let mut machines = Machines::new(membership, sequence, now());
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let (loads, measured) = watch::channel(BTreeMap::new());
        let (told, state) = watch::channel(Arc::new(machines.state(now())));
        let own = Own { peer_address: Some(address), ..Own::new(life.node) };
        let ways = Ways { commands: orders, loads: measured, state: told, listener };
        let driver = Driver::new(endpoint.clone(), dialing, own, machines, ways);
        let mut task = JoinSet::new();
        task.spawn_on(driver.run(), &net.tasks());
        Ok(Self { endpoint, addr, commands, loads, state, task })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// What is known of the mesh, now and whenever it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Arc<MeshState>> {
        self.state.clone()
    }

    /// This node's facts are these now; everybody is told what changed.
    pub async fn set_facts(&self, facts: OwnFacts) {
        self.order(Command::Facts(facts)).await;
    }

    /// Looks for company at further addresses.
    pub async fn dial(&self, addresses: Vec<SocketAddr>) {
        self.order(Command::Dial(addresses)).await;
    }

    /// A device's load is this now. The others hear of it soon where its class changed, and now and then. Never waits: what
    /// was not sent yet is replaced. `sequence` is ignored.
    pub fn set_load(&self, record: LoadRecord) {
        self.loads.send_modify(|loads| {
            loads.insert(record.device, record);
        });
    }

    /// Asks a member to load a model. Nobody answers, and a member that is not connected does not hear it: its facts tell
    /// whether it loads.
    pub async fn request_load(&self, to: NodeId, request: LoadRequest) {
        self.order(Command::RequestLoad(to, request)).await;
    }

    /// What happened since the start; `None` once it has left.
    pub async fn counters(&self) -> Option<PeerCounters> {
        let (answer, answered) = oneshot::channel();
        self.order(Command::Counters(answer)).await;
        answered.await.ok()
    }

    /// Tells the others that this node leaves, and closes every connection.
    pub async fn leave(mut self) {
        let (answer, left) = oneshot::channel();
        self.order(Command::Leave(answer)).await;
        // The error says that the driver is over already.
        let _ = left.await;
        while let Some(done) = self.task.join_next().await {
            log_panic(done);
        }
        // A peer that does not acknowledge the end finds out by itself.
        let _ = tokio::time::timeout(CLOSE_WAIT, self.endpoint.wait_idle()).await;
    }

    async fn order(&self, command: Command) {
        // A driver that is over has nobody to tell: its panic is in the log.
        let _ = self.commands.send(command).await;
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        self.endpoint.close(Code::Done.into(), b"member is gone");
    }
}

/// Nodes that start at the same moment shall not choose alike.
fn seed() -> Result<u64, SetupError> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(setup)?;
    Ok(u64::from_le_bytes(bytes))
}
