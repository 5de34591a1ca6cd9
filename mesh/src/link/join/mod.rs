//! Certificates over QUIC: a newcomer asks an issuer for its first one with a token, a member for its next one with the
//! certificate that it has. A port and an ALPN of its own, because strangers may knock; one question a connection.

mod ask;
mod renew;
mod server;
mod sources;
mod transport;

pub use ask::{JoinError, JoinOptions, join, renew};
pub use renew::{Renewing, RenewingOptions};
pub use server::{JoinServer, JoinServerOptions};
pub(crate) use sources::Sources;

#[cfg(test)]
mod tests;
