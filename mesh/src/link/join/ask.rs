//! The asking side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, EndpointConfig};
use shoal_protocol::message::{JoinGrant, RefusalReason, Role};
use shoal_protocol::wire::VersionRange;
use shoal_protocol::{Frame, Message, NodeId};
use tokio::time::timeout;

use super::super::codes::Code;
use super::super::dial::{
    ConnectError, DIAL_WAIT, certified_node, endpoint_for, handshake, refused, resolve,
};
use super::super::frames::{FrameError, FrameSink, FrameSource};
use super::super::net::Net;
use super::super::server::{BindError, CLOSE_WAIT, net_or_callers};
use super::super::transport::endpoint_config;
use super::transport::{member_config, newcomer_config};
use crate::identity::{Identity, IdentityError, LiveIdentity, Newcomer, Token, unix_time_s};

/// For one address: a handshake, a question, and a disk that records the use of a token.
const ASK_WAIT: Duration = Duration::from_secs(10);
/// Rounds over all addresses of a newcomer, and the pause between them.
const JOIN_ROUNDS: usize = 3;
const JOIN_PAUSE: Duration = Duration::from_secs(2);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No connection to the issuer.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The issuer says no. The token is not used up by it.
    #[error("{address}: {message}")]
    Refused {
        /// Who was asked.
        address: SocketAddr,
        /// For machines.
        reason: RefusalReason,
        /// The issuer's words: what to do.
        message: String,
    },
    /// What came back is no answer, or only half of one. The same key may ask again at no cost.
    #[error("{address}: no answer to the request for a certificate: {what}")]
    Answer {
        /// Who was asked.
        address: SocketAddr,
        /// What came.
        what: String,
    },
    /// No key could be made, or the issuer gave something else than was asked for.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl JoinError {
    /// Whether the same question may be answered otherwise at another address.
    fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Answer { .. } => true,
            Self::Refused { reason, .. } => matches!(
                reason,
                RefusalReason::WrongIssuer | RefusalReason::Overloaded | RefusalReason::Internal
            ),
            Self::Identity(_) => false,
        }
    }

    /// Whether it is worth while to ask everybody again in a moment: somebody was there.
    fn is_brief(&self) -> bool {
        match self {
            Self::Connect(error) => {
                matches!(error, ConnectError::Overloaded { .. } | ConnectError::Broken { .. })
            }
            Self::Refused { reason, .. } => {
                matches!(reason, RefusalReason::Overloaded | RefusalReason::Internal)
            }
            Self::Answer { .. } => true,
            Self::Identity(_) => false,
        }
    }
}

/// How a newcomer joins.
pub struct JoinOptions {
    addresses: Vec<String>,
    token: Token,
    role: Role,
    net: Option<Arc<dyn Net>>,
}

impl JoinOptions {
    /// Asks at `address` (`host:port`), then at the one that the token names, to become `role`.
    #[must_use]
    pub fn new(address: &str, token: Token, role: Role) -> Self {
        let mut addresses = vec![address.to_owned(), token.issuer_address().to_owned()];
        addresses.dedup();
        Self { addresses, token, role, net: None }
    }

    /// Where sockets and tasks come from; by default the operating system and the caller's runtime.
    #[must_use]
    pub fn net(mut self, net: impl Net) -> Self {
        self.net = Some(Arc::new(net));
        self
    }
}

/// Makes a key and gets it a certificate. A lost answer is asked for again with the same key, which uses the token only
/// once.
///
/// # Errors
/// See [`JoinError`]; nothing was stored.
pub async fn join(options: JoinOptions) -> Result<Identity, JoinError> {
    let JoinOptions { addresses, token, role, net } = options;
    let net = net_or_callers(net).map_err(local)?;
    let newcomer = Newcomer::new(token, role)?;
    let mut last = JoinError::Connect(ConnectError::NoAddress);
    for round in 0..JOIN_ROUNDS {
        if round > 0 {
            tokio::time::sleep(JOIN_PAUSE).await;
        }
        for name in &addresses {
            match join_at(name, &newcomer, &*net).await {
                Ok(identity) => return Ok(identity),
                Err(error) if !error.may_pass() => return Err(error),
                Err(error) => last = error,
            }
            tracing::debug!(issuer = name, error = %last, "no certificate yet");
        }
        if !last.is_brief() {
            break;
        }
    }
    Err(last)
}

async fn join_at(name: &str, newcomer: &Newcomer, net: &dyn Net) -> Result<Identity, JoinError> {
    let request = newcomer.request(unix_time_s())?;
    let config = newcomer_config(newcomer.token().message()).map_err(ConnectError::from)?;
    let (issuer, message) = (Some(newcomer.token().issuer()), Message::JoinRequest(Box::new(request)));
    let grant = ask_any(name, &EndpointConfig::default(), &config, issuer, &message, net).await?;
    let identity = newcomer.handle_grant(grant)?;
    // Where one certificate was got, the next one is asked for first.
    let others = identity.issuers().iter().filter(|issuer| *issuer != name).cloned();
    let issuers: Vec<_> = std::iter::once(name.to_owned()).chain(others).collect();
    Ok(identity.with_issuers(issuers))
}

/// Gets the next certificate of an identity from the issuer at `address` (`host:port`).
///
/// # Errors
/// See [`JoinError`]; the identity is as good as it was.
pub async fn renew(
    identity: &LiveIdentity,
    address: &str,
    net: Option<Arc<dyn Net>>,
) -> Result<Identity, JoinError> {
    let net = net_or_callers(net).map_err(local)?;
    let current = identity.current();
    let message = Message::RenewRequest(current.renew_request(unix_time_s())?);
    let config = member_config(identity).map_err(ConnectError::from)?;
    let grant = ask_any(address, &endpoint_config(&current), &config, None, &message, &*net).await?;
    Ok(current.handle_grant(grant)?)
}

fn local(error: BindError) -> JoinError {
    ConnectError::Local(error.to_string()).into()
}

/// Asks at every address of a name until one answers.
async fn ask_any(
    name: &str,
    endpoint: &EndpointConfig,
    config: &ClientConfig,
    issuer: Option<NodeId>,
    message: &Message,
    net: &dyn Net,
) -> Result<JoinGrant, JoinError> {
    let mut last = JoinError::Connect(ConnectError::NoAddress);
    for address in resolve(name).await? {
        let asked = ask(address, endpoint.clone(), config.clone(), issuer, message.clone(), net);
        match timeout(ASK_WAIT, asked).await {
            Ok(Ok(grant)) => return Ok(grant),
            Ok(Err(error)) if !error.may_pass() => return Err(error),
            Ok(Err(error)) => last = error,
            Err(_) => last = ConnectError::NoAnswer { address }.into(),
        }
    }
    Err(last)
}

/// One question on a connection of its own, in the oldest wire version: there is no hello to agree on another. Only
/// `issuer` is asked, where one is named.
pub(super) async fn ask(
    address: SocketAddr,
    endpoint: EndpointConfig,
    config: ClientConfig,
    issuer: Option<NodeId>,
    message: Message,
    net: &dyn Net,
) -> Result<JoinGrant, JoinError> {
    let endpoint = endpoint_for(address, endpoint, net)?;
    let connected = timeout(DIAL_WAIT, handshake(&endpoint, config, address)).await;
    let connection = connected.map_err(|_| ConnectError::NoAnswer { address })??;
    let node = certified_node(&connection, address)?.key_id;
    if let Some(issuer) = issuer.filter(|issuer| *issuer != node) {
        let what = format!("is node {node}; the token is for node {issuer} and is shown to no other");
        connection.close(Code::Forbidden.into(), b"not the issuer");
        return Err(ConnectError::Untrusted { address, what }.into());
    }
    let exchange = async {
        let (send, recv) = connection.open_bi().await.map_err(|error| FrameError::Lost(error.to_string()))?;
        let mut sink = FrameSink::quic(send, VersionRange::OURS.min);
        // An issuer that stops reading has said why, or is gone: the answer tells.
        let _ = sink.write(message.into()).await;
        sink.finish();
        FrameSource::Quic(recv).read().await
    };
    let answer = exchange.await;
    let result = match answer {
        Ok(Frame { message: Message::JoinGrant(grant), .. }) => Ok(*grant),
        Ok(Frame { message: Message::JoinRefusal(refusal), .. }) => {
            Err(JoinError::Refused { address, reason: refusal.reason, message: refusal.message })
        }
        Ok(Frame { message, .. }) => {
            Err(JoinError::Answer { address, what: format!("a {:?}", message.kind()) })
        }
        Err(error) => match connection.close_reason() {
            Some(reason) => Err(refused(address, &reason).into()),
            None => Err(JoinError::Answer { address, what: error.to_string() }),
        },
    };
    connection.close(Code::Done.into(), b"");
    // So that the issuer hears of it; the answer does not depend on it.
    let _ = timeout(CLOSE_WAIT, endpoint.wait_idle()).await;
    result
}
