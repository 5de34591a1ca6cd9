//! Reaching a node over QUIC.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::api::{Client, Link};
use crate::identity::LiveIdentity;
use crate::link::{ConnectError, Net, QuicLink, TokioNet};

/// Whom to reach, and as whom.
pub struct ConnectOptions {
    addresses: Vec<String>,
    identity: LiveIdentity,
    net: Option<Arc<dyn Net>>,
}

impl ConnectOptions {
    /// Addresses (`host:port`, tried in order) and the identity to show.
    #[must_use]
    pub fn new<A: ToString>(
        addresses: impl IntoIterator<Item = A>,
        identity: impl Into<LiveIdentity>,
    ) -> Self {
        Self {
            addresses: addresses.into_iter().map(|address| address.to_string()).collect(),
            identity: identity.into(),
            net: None,
        }
    }

    /// Where sockets and tasks come from; by default the operating system and the caller's runtime.
    #[must_use]
    pub fn net(mut self, net: impl Net) -> Self {
        self.net = Some(Arc::new(net));
        self
    }
}

impl Client {
    /// Reaches a node. The connection is dialed again by itself when a later call finds it lost.
    ///
    /// # Errors
    /// When no address leads to a node of the identity's mesh that takes it: see [`ConnectError`].
    pub async fn connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        let net = match options.net {
            Some(net) => net,
            None => {
                let none = |error: tokio::runtime::TryCurrentError| ConnectError::Local(error.to_string());
                Arc::new(TokioNet::new(Handle::try_current().map_err(none)?))
            }
        };
        let link = QuicLink::new(options.addresses, options.identity, net)?;
        let entry = link.linked().await?.node();
        Ok(Self::new(Link::Quic(link), entry))
    }
}
