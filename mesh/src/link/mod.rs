//! Frames between a client and a node, over QUIC or in memory.

mod codes;
mod frames;
mod memory;
mod reply;

pub(crate) use frames::{Exchange, FrameError};
pub(crate) use memory::MemoryLink;
pub use reply::{BoxFuture, LinkError, Peer, Reply, Service};
