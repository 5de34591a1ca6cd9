//! Frames between a client and a node, over QUIC or in memory.

pub(crate) mod accept;
pub(crate) mod codes;
pub(crate) mod dial;
mod feed;
mod forward;
pub(crate) mod frames;
pub(crate) mod hello;
mod join;
mod links;
mod memory;
mod net;
mod probes;
mod reply;
mod server;
pub(crate) mod transport;

pub use dial::ConnectError;
pub(crate) use dial::Linked;
pub(crate) use feed::{GATHER, tell};
pub(crate) use frames::{Exchange, FrameError};
pub(crate) use join::Sources;
pub use join::{
    JoinError, JoinOptions, JoinServer, JoinServerOptions, Renewing, RenewingOptions, join, renew,
};
pub(crate) use links::{Heard, Links};
pub(crate) use memory::MemoryLink;
pub use net::{Net, NetThread, TokioNet};
pub(crate) use net::{now, random};
pub use reply::{BoxFuture, LinkError, Peer, Reply, Service};
pub(crate) use server::net_or_callers;
pub use server::{BindError, LinkLimits, QuicServer, QuicServerOptions};
pub use transport::{Door, SetupError};

#[cfg(test)]
mod tests;
