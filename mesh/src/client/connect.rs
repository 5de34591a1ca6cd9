//! Reaching a mesh over QUIC, or from inside of one of its nodes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use shoal_protocol::NodeId;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::api::{Client, Inner};
use super::entries::Entries;
use super::follow::{Entry, Follower, follow_home};
use super::shared::SharedCore;
use crate::core::{ClientCore, Following, View};
use crate::identity::LiveIdentity;
use crate::link::{
    BindError, ConnectError, Links, MemoryLink, Net, Renewing, RenewingOptions, Service, net_or_callers,
    random,
};

/// How long a new client waits to be told of the mesh. Without that it asks its entry node about everything.
const SETTLE_WAIT: Duration = Duration::from_secs(1);

/// Whom to reach, and as whom.
pub struct ConnectOptions {
    addresses: Vec<String>,
    identity: LiveIdentity,
    renewed_in: Option<PathBuf>,
    net: Option<Arc<dyn Net>>,
}

impl ConnectOptions {
    /// Addresses (`host:port`, tried in order) of one or more nodes, and the identity to show.
    #[must_use]
    pub fn new<A: ToString>(
        addresses: impl IntoIterator<Item = A>,
        identity: impl Into<LiveIdentity>,
    ) -> Self {
        Self {
            addresses: addresses.into_iter().map(|address| address.to_string()).collect(),
            identity: identity.into(),
            renewed_in: None,
            net: None,
        }
    }

    /// Keeps the identity's certificate renewed for as long as the client lives, and stores each in `dir`, where the
    /// identity came from.
    #[must_use]
    pub fn renewed_in(mut self, dir: impl Into<PathBuf>) -> Self {
        self.renewed_in = Some(dir.into());
        self
    }

    /// Where sockets and tasks come from; by default the operating system and the caller's runtime.
    #[must_use]
    pub fn net(mut self, net: impl Net) -> Self {
        self.net = Some(Arc::new(net));
        self
    }
}

/// How the client inside of a member reaches the other nodes.
pub struct MemberClientOptions {
    node: NodeId,
    identity: LiveIdentity,
    net: Option<Arc<dyn Net>>,
}

impl MemberClientOptions {
    /// As the node itself.
    #[must_use]
    pub fn new(identity: impl Into<LiveIdentity>) -> Self {
        let identity = identity.into();
        Self { node: identity.current().node_id(), identity, net: None }
    }

    /// Where sockets and tasks come from; by default the operating system and the caller's runtime.
    #[must_use]
    pub fn net(mut self, net: impl Net) -> Self {
        self.net = Some(Arc::new(net));
        self
    }
}

impl Client {
    /// Reaches a mesh through one of its nodes: follows it, learns of the others, and finds another one when it is gone.
    /// Connections are dialed when they are needed, and again when they were lost.
    ///
    /// # Errors
    /// When no address leads to a node of the identity's mesh that takes it: see [`ConnectError`].
    pub async fn connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        let ConnectOptions { addresses, identity, renewed_in, net } = options;
        if addresses.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        let local = |error: BindError| ConnectError::Local(error.to_string());
        let net = net_or_callers(net).map_err(local)?;
        let renewing = renewed_in.map(|dir| {
            let options = RenewingOptions::new(identity.clone(), dir).shared_net(net.clone());
            Renewing::start(options).map_err(local)
        });
        let renewing = renewing.transpose()?;
        let shared = Arc::new(SharedCore::new(ClientCore::new(View::default(), random())));
        let hearing = shared.clone();
        let hearing = Box::new(move |heard| hearing.handle_heard(heard));
        let links = Links::new(identity, net.clone(), random(), hearing)?;
        let linked = links.meet(&addresses).await?;
        let node = linked.node();
        *shared.core() = ClientCore::new(View::of_entry(node), random());
        let entry = Arc::new(watch::Sender::new(Entry { node, addresses: addresses.clone() }));
        let (settled, told) = oneshot::channel();
        let follower = Follower {
            links: links.clone(),
            shared: shared.clone(),
            given: addresses,
            entry: entry.clone(),
            entries: Entries::new(random()),
            following: Following::default(),
            settled: Some(settled),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn_on(follower.run(linked), &net.tasks());
        let unique = AtomicU64::new(random());
        let inner = Inner {
            home: None,
            links: Some(links),
            entry,
            shared,
            unique,
            _renewing: renewing,
            _tasks: tasks,
        };
        // Late or never, it is a client of its entry node.
        let _ = timeout(SETTLE_WAIT, told).await;
        Ok(Self::new(inner))
    }

    /// The client inside of a member: what runs best here stays in the process, everything else goes where it runs best.
    /// It knows what [`Service::mesh`] tells, which must be set by now.
    ///
    /// # Errors
    /// As of a member's other endpoints: no runtime, or an identity that TLS does not take.
    pub fn of_member(service: Arc<dyn Service>, options: MemberClientOptions) -> Result<Self, BindError> {
        let MemberClientOptions { node, identity, net } = options;
        let net = net_or_callers(net)?;
        let shared = Arc::new(SharedCore::new(ClientCore::new(View::of_home(node), random())));
        let hearing = shared.clone();
        let hearing = Box::new(move |heard| hearing.handle_heard(heard));
        let links = Links::new(identity, net.clone(), random(), hearing)?;
        let mut tasks = JoinSet::new();
        tasks.spawn_on(follow_home(service.clone(), links.clone(), shared.clone()), &net.tasks());
        Ok(Self::new(Inner {
            home: Some((node, MemoryLink::new(service))),
            links: Some(links),
            entry: Arc::new(watch::Sender::new(Entry { node, addresses: Vec::new() })),
            shared,
            unique: AtomicU64::new(random()),
            _renewing: None, // its node renews it
            _tasks: tasks,
        }))
    }
}
