//! Dialing a member.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::{ClientConfig, Endpoint};
use tokio::time::timeout;

use crate::link::ConnectError;
use crate::link::accept::Greeted;
use crate::link::dial::{certified_node, greet, handshake};
use crate::link::hello::Own;

/// For handshake and hello: four round trips (the other end has ours proven first) over half the world, or fewer and a
/// lost packet. Longer waits would delay the healing of partitions.
pub(crate) const DIAL_WAIT: Duration = Duration::from_secs(1);

/// Connects to whoever is at `address` and is a node of this mesh.
pub(super) async fn dial(
    endpoint: Endpoint,
    config: ClientConfig,
    own: Own,
    address: SocketAddr,
) -> Result<Greeted, ConnectError> {
    let dialed = async {
        let connection = handshake(&endpoint, config, address).await?;
        let subject = certified_node(&connection, address)?;
        let agreed = greet(&connection, &own, address, subject.key_id).await?;
        Ok(Greeted { connection, subject, agreed, address })
    };
    timeout(DIAL_WAIT, dialed).await.unwrap_or(Err(ConnectError::NoAnswer { address }))
}
