//! The node's end: a QUIC endpoint that gives every attempt to the service.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::Endpoint;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::accept;
use super::codes::Code;
use super::hello::Own;
use super::links::Links;
use super::net::{Net, TokioNet, random};
use super::reply::Service;
use super::transport::{Door, SetupError, endpoint_config, server_config};
use crate::identity::LiveIdentity;

/// How long the last packets (the closing ones) may take once everything is over.
pub(super) const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Bounds of what clients can make a node hold. Beyond them the answer is a typed overload, at once.
#[derive(Clone, Copy, Debug)]
pub struct LinkLimits {
    /// Connections at a time.
    pub connections_max: usize,
    /// Handshakes at a time; from a quarter of them on, a client must prove its address first.
    pub handshakes_max: usize,
    /// Attempts being served at a time.
    pub attempts_max: usize,
    /// Attempts of one connection being served at a time.
    pub attempts_per_connection_max: usize,
    /// Bytes of requests being received at a time, as their headers announce them.
    pub receiving_bytes_max: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            handshakes_max: 256,
            attempts_max: 4096,
            attempts_per_connection_max: 1024,
            receiving_bytes_max: 64 << 20,
        }
    }
}

/// How a node listens.
pub struct QuicServerOptions {
    addr: SocketAddr,
    identity: LiveIdentity,
    door: Door,
    limits: LinkLimits,
    generation: u64,
    net: Option<Arc<dyn Net>>,
}

impl QuicServerOptions {
    /// Listens on `addr` (port 0: any free one) as `identity`, which must be a node's, for clients.
    #[must_use]
    pub fn new(addr: SocketAddr, identity: impl Into<LiveIdentity>) -> Self {
        Self {
            addr,
            identity: identity.into(),
            door: Door::Clients,
            limits: LinkLimits::default(),
            generation: 0,
            net: None,
        }
    }

    /// For whom it listens.
    #[must_use]
    pub fn door(mut self, door: Door) -> Self {
        self.door = door;
        self
    }

    /// Other limits than the default ones.
    #[must_use]
    pub fn limits(mut self, limits: LinkLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The node's generation, told in the hello.
    #[must_use]
    pub fn generation(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }

    /// Where sockets and tasks come from; by default the operating system and the caller's runtime.
    #[must_use]
    pub fn net(mut self, net: impl Net) -> Self {
        self.net = Some(Arc::new(net));
        self
    }
}

/// Why a node cannot listen. Nothing is left open.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had: in use, not of this machine, or not allowed.
    #[error("{addr}: {source}")]
    Socket {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate does not allow to be a node.
    #[error("identity has role {0:?}, a server needs a node's")]
    Role(shoal_protocol::message::Role),
    /// TLS refuses the identity.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The system has no thread for the issuer.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// There is no tokio runtime to run on.
    #[error("there is no tokio runtime here")]
    NoRuntime,
}

/// The operating system's network on the caller's runtime, where no other was named.
pub(crate) fn net_or_callers(net: Option<Arc<dyn Net>>) -> Result<Arc<dyn Net>, BindError> {
    match net {
        Some(net) => Ok(net),
        None => {
            let runtime = tokio::runtime::Handle::try_current().map_err(|_| BindError::NoRuntime)?;
            Ok(Arc::new(TokioNet::new(runtime)))
        }
    }
}

/// A listening node. Dropping it closes its connections at once; [`shutdown`](Self::shutdown) lets work finish.
pub struct QuicServer {
    endpoint: Endpoint,
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

/// What the tasks of one endpoint share.
pub(super) struct Shared {
    pub(super) service: Arc<dyn Service>,
    pub(super) own: Own,
    pub(super) door: Door,
    pub(super) limits: LinkLimits,
    pub(super) connections: Arc<Semaphore>,
    pub(super) handshakes: Arc<Semaphore>,
    pub(super) attempts: Arc<Semaphore>,
    pub(super) receiving: Arc<Semaphore>,
    /// To nodes that some client cannot reach directly.
    pub(super) links: Links,
    /// Turns true when the node leaves.
    pub(super) stopping: watch::Receiver<bool>,
}

impl QuicServer {
    /// Opens the endpoint and starts to accept.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(options: QuicServerOptions, service: Arc<dyn Service>) -> Result<Self, BindError> {
        let QuicServerOptions { addr, identity: live, door, limits, .. } = options;
        let identity = live.current();
        if identity.role() != shoal_protocol::message::Role::Node {
            return Err(BindError::Role(identity.role()));
        }
        let net = net_or_callers(options.net)?;
        let failed = |source| BindError::Socket { addr, source };
        let config = server_config(&live, door)?;
        let socket = net.bind(addr).map_err(failed)?;
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config(&identity),
            Some(config),
            socket,
            net.quic_runtime(),
        )
        .map_err(failed)?;
        let addr = endpoint.local_addr().map_err(failed)?;
        let links = Links::new(live.clone(), net.clone(), random(), Box::new(|_| {}))?;
        let (stop, stopping) = watch::channel(false);
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits));
        let shared = Arc::new(Shared {
            service,
            own: Own { generation: options.generation, ..Own::new(identity.node_id()) },
            door,
            limits,
            connections: semaphore(limits.connections_max),
            handshakes: semaphore(limits.handshakes_max),
            attempts: semaphore(limits.attempts_max),
            receiving: semaphore(limits.receiving_bytes_max),
            links,
            stopping,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn_on(accept::run(endpoint.clone(), shared.clone()), &net.tasks());
        Ok(Self { endpoint, addr, stop, shared, tasks: Mutex::new(tasks) })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Attempts being served now.
    #[must_use]
    pub fn serving(&self) -> usize {
        let free = self.shared.attempts.available_permits();
        self.shared.limits.attempts_max.saturating_sub(free)
    }

    /// Takes no new work (the answer is `draining`), lets what is being served finish for up to `grace`, then closes
    /// every connection. Gives back how many attempts were cut off.
    pub async fn shutdown(self, grace: Duration) -> usize {
        // The receivers live in the tasks; where all are over already there is nobody to tell.
        let _ = self.stop.send(true);
        let mut tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        let finished = tokio::time::timeout(grace, async { while tasks.join_next().await.is_some() {} });
        let cut = match finished.await {
            Ok(()) => 0,
            Err(_) => self.serving(),
        };
        self.endpoint.close(Code::Leaving.into(), b"node is leaving");
        // Services see that their callers are gone and end by themselves.
        tasks.detach_all();
        let _ = tokio::time::timeout(CLOSE_WAIT, self.endpoint.wait_idle()).await;
        cut
    }
}

impl Drop for QuicServer {
    fn drop(&mut self) {
        self.endpoint.close(Code::Leaving.into(), b"node is gone");
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.detach_all();
    }
}
