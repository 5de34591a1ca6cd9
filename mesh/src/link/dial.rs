//! The dialing end of a connection to a node's port for clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig};
use shoal_protocol::message::Role;
use shoal_protocol::{ErrorCode, Frame, Message, NodeId, encode};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use super::accept::certified;
use super::codes::Code;
use super::frames::Exchange;
use super::hello::{self, Agreed, HelloError, Own};
use super::net::Net;
use super::transport::{Door, SetupError, client_config, endpoint_config};
use crate::core::AttemptFailure;
use crate::identity::{LiveIdentity, NODE_SERVER_NAME, Subject};

/// For one address: handshake and hello are two round trips, with room for two lost packets.
pub(super) const DIAL_WAIT: Duration = Duration::from_secs(3);

/// Why no connection to a node could be made. Nothing was sent to it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address was given.
    #[error("no address to connect to")]
    NoAddress,
    /// A name could not be resolved to an address.
    #[error("{address}: {what}")]
    Resolve {
        /// What was to be resolved.
        address: String,
        /// Why it was not.
        what: String,
    },
    /// No local socket or no runtime for it.
    #[error("no local endpoint: {0}")]
    Local(String),
    /// TLS refuses the own identity.
    #[error("{0}")]
    Setup(String),
    /// Nobody answered in time.
    #[error("{address}: no answer")]
    NoAnswer {
        /// Who was asked.
        address: SocketAddr,
    },
    /// The other end's certificate is not a node's of the own authority.
    #[error("{address}: not a node of this mesh: {what}")]
    Untrusted {
        /// Who was asked.
        address: SocketAddr,
        /// What is wrong with its certificate.
        what: String,
    },
    /// The node does not take the own certificate.
    #[error("{address}: this identity was refused: {what}")]
    Forbidden {
        /// Who was asked.
        address: SocketAddr,
        /// Its words.
        what: String,
    },
    /// No wire version in common: one end must be upgraded.
    #[error("{address}: {what}")]
    Version {
        /// Who was asked.
        address: SocketAddr,
        /// Both ranges.
        what: String,
    },
    /// The node takes no further connections now.
    #[error("{address}: the node takes no further connections now")]
    Overloaded {
        /// Who was asked.
        address: SocketAddr,
    },
    /// Another node is there than the one that is looked for: an address that was given to somebody else.
    #[error("{address}: node {node} is there now")]
    OtherNode {
        /// Who was asked.
        address: SocketAddr,
        /// Who answered.
        node: NodeId,
    },
    /// As many connections as may be are in use.
    #[error("as many connections as may be are in use")]
    Full,
    /// The connection broke while it was being made.
    #[error("{address}: {what}")]
    Broken {
        /// Who was asked.
        address: SocketAddr,
        /// How.
        what: String,
    },
}

impl From<SetupError> for ConnectError {
    fn from(error: SetupError) -> Self {
        Self::Setup(error.to_string())
    }
}

impl From<ConnectError> for AttemptFailure {
    fn from(error: ConnectError) -> Self {
        let what = error.to_string();
        match error {
            ConnectError::Forbidden { .. } | ConnectError::Setup(_) => {
                Self::Refused(ErrorCode::Forbidden, what)
            }
            ConnectError::Overloaded { .. } => Self::Refused(ErrorCode::Overloaded, what),
            ConnectError::NoAddress
            | ConnectError::Resolve { .. }
            | ConnectError::Local(_)
            | ConnectError::NoAnswer { .. }
            // A stranger at a node's address, or a node of another age, is one node less and not the end of a call.
            | ConnectError::OtherNode { .. }
            | ConnectError::Untrusted { .. }
            | ConnectError::Version { .. }
            | ConnectError::Full
            | ConnectError::Broken { .. } => Self::Unreachable(what),
        }
    }
}

/// A connection that is up. Its endpoint ends with it.
#[derive(Debug)]
pub(crate) struct Linked {
    connection: Connection,
    version: u16,
    node: NodeId,
    /// Its drop tells whoever watches that nothing new will be sent.
    held: watch::Sender<()>,
}

impl Linked {
    /// Who is at the other end, by its certificate.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// Tells connections apart.
    pub(crate) fn id(&self) -> usize {
        self.connection.stable_id()
    }

    /// Whether it is not over.
    pub(crate) fn is_up(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Resolves when it is over.
    pub(crate) async fn closed(&self) {
        self.connection.closed().await;
    }

    /// For a task that reads its datagrams as long as it is held.
    pub(super) fn watched(&self) -> (Connection, watch::Receiver<()>) {
        (self.connection.clone(), self.held.subscribe())
    }

    /// Opens a stream and sends a request on it.
    pub(crate) async fn request(self: Arc<Self>, frame: Frame) -> Result<Exchange, AttemptFailure> {
        let lost = |error: ConnectionError| AttemptFailure::Lost(format!("connection lost: {error}"));
        let stream = self.connection.open_bi().await.map_err(lost)?;
        let version = self.version;
        Ok(Exchange::request(self, stream, version, frame).await?)
    }

    /// Sends a datagram, if there is room and a way for it.
    pub(super) fn send_datagram(&self, message: Message) {
        let mut bytes = Vec::new();
        if encode(&message.into(), self.version, &mut bytes).is_ok() {
            // One that is not sent is one that is not answered.
            let _ = self.connection.send_datagram(bytes.into());
        }
    }
}

/// Makes connections as one identity.
pub(super) struct Dialer {
    identity: LiveIdentity,
    config: ClientConfig,
    own: Own,
    net: Arc<dyn Net>,
}

impl Dialer {
    pub(super) fn new(identity: LiveIdentity, net: Arc<dyn Net>) -> Result<Self, SetupError> {
        let config = client_config(&identity, Door::Clients)?;
        let own = Own::new(identity.current().node_id());
        Ok(Self { identity, config, own, net })
    }

    /// Where tasks run.
    pub(super) fn tasks(&self) -> Handle {
        self.net.tasks()
    }

    /// Tries every address in turn, until `node` answers, or anybody where none is named.
    pub(super) async fn dial(
        &self,
        addresses: &[String],
        node: Option<NodeId>,
    ) -> Result<Linked, ConnectError> {
        let mut last = ConnectError::NoAddress;
        for name in addresses {
            let resolved = resolve(name).await;
            let addresses = match resolved {
                Ok(addresses) => addresses,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            for address in addresses {
                match timeout(DIAL_WAIT, self.dial_one(address, node)).await {
                    Ok(Ok(linked)) => return Ok(linked),
                    Ok(Err(error)) => last = error,
                    Err(_) => last = ConnectError::NoAnswer { address },
                }
                tracing::debug!(%address, error = %last, "dial failed");
            }
        }
        Err(last)
    }

    async fn dial_one(&self, address: SocketAddr, node: Option<NodeId>) -> Result<Linked, ConnectError> {
        let endpoint = endpoint_for(address, endpoint_config(&self.identity.current()), &*self.net)?;
        let connection = handshake(&endpoint, self.config.clone(), address).await?;
        let found = certified_node(&connection, address)?.key_id;
        if node.is_some_and(|node| node != found) {
            connection.close(Code::Done.into(), b"looking for another node");
            return Err(ConnectError::OtherNode { address, node: found });
        }
        let agreed = greet(&connection, &self.own, address, found).await?;
        Ok(Linked { connection, version: agreed.version, node: found, held: watch::Sender::new(()) })
    }
}

/// The hellos, from the dialing end; the connection is closed where they lead to nothing.
pub(crate) async fn greet(
    connection: &Connection,
    own: &Own,
    address: SocketAddr,
    node: NodeId,
) -> Result<Agreed, ConnectError> {
    let error = match hello::say(connection, own, node).await {
        Ok(agreed) => return Ok(agreed),
        Err(error) => error,
    };
    // A node that refuses this one says so by closing the connection, after the handshake looked done.
    if let Some(reason) = connection.close_reason() {
        return Err(refused(address, &reason));
    }
    connection.close(error.code().into(), error.to_string().as_bytes());
    let what = error.to_string();
    Err(match error {
        HelloError::Version { .. } => ConnectError::Version { address, what },
        HelloError::Impostor { .. } => ConnectError::Untrusted { address, what },
        HelloError::Frame(_) | HelloError::Lost(_) if error.code() == Code::Version => {
            ConnectError::Version { address, what }
        }
        HelloError::Frame(_) | HelloError::Lost(_) => ConnectError::Broken { address, what },
    })
}

/// The addresses of `host:port`.
pub(crate) async fn resolve(name: &str) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let failed = |what: String| ConnectError::Resolve { address: name.to_owned(), what };
    let found = tokio::net::lookup_host(name).await;
    let found: Vec<_> = found.map_err(|error| failed(error.to_string()))?.collect();
    if found.is_empty() {
        return Err(failed("has no address".to_owned()));
    }
    Ok(found)
}

/// An endpoint of its own for one connection.
pub(super) fn endpoint_for(
    address: SocketAddr,
    config: EndpointConfig,
    net: &dyn Net,
) -> Result<Endpoint, ConnectError> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let local = |error: std::io::Error| ConnectError::Local(error.to_string());
    let socket = net.bind(SocketAddr::new(any, 0)).map_err(local)?;
    Endpoint::new_with_abstract_socket(config, None, socket, net.quic_runtime()).map_err(local)
}

pub(crate) async fn handshake(
    endpoint: &Endpoint,
    config: ClientConfig,
    address: SocketAddr,
) -> Result<Connection, ConnectError> {
    let connecting = endpoint.connect_with(config, address, NODE_SERVER_NAME);
    let connecting = connecting.map_err(|error| ConnectError::Local(error.to_string()))?;
    connecting.await.map_err(|error| refused(address, &error))
}

/// What the certificate of a dialed node says; the connection is closed where it is not a node's.
pub(crate) fn certified_node(connection: &Connection, address: SocketAddr) -> Result<Subject, ConnectError> {
    let subject = certified(connection).and_then(|subject| match subject.role {
        Role::Node => Ok(subject),
        role => Err(format!("its certificate has role {role:?}")),
    });
    subject.map_err(|what| {
        connection.close(Code::Forbidden.into(), what.as_bytes());
        ConnectError::Untrusted { address, what }
    })
}

/// The TLS alert certificate_expired (RFC 8446, section 6.2).
const CERTIFICATE_EXPIRED: u8 = 45;

/// TLS alerts travel as QUIC transport errors 0x100 to 0x1ff (RFC 9001, section 4.8).
fn is_alert(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

/// What a connection error means for the one who dialed.
pub(super) fn refused(address: SocketAddr, error: &ConnectionError) -> ConnectError {
    let what = error.to_string();
    match error {
        // The own TLS refuses the peer.
        ConnectionError::TransportError(error) if is_alert(error.code) => {
            let what = error.reason.clone();
            ConnectError::Untrusted { address, what }
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == quinn::TransportErrorCode::crypto(CERTIFICATE_EXPIRED) =>
        {
            let what = "its certificate has expired: join again with a token".to_owned();
            ConnectError::Forbidden { address, what }
        }
        // The peer's TLS refuses us.
        ConnectionError::ConnectionClosed(close) if is_alert(close.error_code) => {
            ConnectError::Forbidden { address, what }
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
        {
            ConnectError::Overloaded { address }
        }
        ConnectionError::ApplicationClosed(close) => match Code::from(close.error_code) {
            Code::Forbidden => ConnectError::Forbidden { address, what },
            Code::Version => ConnectError::Version { address, what },
            Code::Overloaded => ConnectError::Overloaded { address },
            _ => ConnectError::Broken { address, what },
        },
        ConnectionError::TimedOut => ConnectError::NoAnswer { address },
        _ => ConnectError::Broken { address, what },
    }
}
