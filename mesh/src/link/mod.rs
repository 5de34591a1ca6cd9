//! Frames between a client and a node, over QUIC or in memory.

mod accept;
mod codes;
mod dial;
mod frames;
mod hello;
mod join;
mod memory;
mod net;
mod reply;
mod server;
mod transport;

pub use dial::ConnectError;
pub(crate) use dial::QuicLink;
pub(crate) use frames::{Exchange, FrameError};
pub use join::{
    JoinError, JoinOptions, JoinServer, JoinServerOptions, Renewing, RenewingOptions, join, renew,
};
pub(crate) use memory::MemoryLink;
pub use net::{Net, NetThread, TokioNet};
pub use reply::{BoxFuture, LinkError, Peer, Reply, Service};
pub use server::{BindError, LinkLimits, QuicServer, QuicServerOptions};
pub use transport::{Door, SetupError};

#[cfg(test)]
mod tests;
