//! Who is there and who should do it: the pure machines of the mesh, the links that carry their frames, and the
//! client library.
//!
//! With `--no-default-features` only [`core`] builds: decisions without a runtime or a socket. Feature `link`
//! (default) adds QUIC and the in-memory link ([`Service`] is what a node implements) and the [`Client`].

pub mod core;

#[cfg(feature = "link")]
mod client;
#[cfg(feature = "link")]
#[expect(dead_code, reason = "its QUIC half follows")]
mod link;

#[cfg(feature = "link")]
pub use client::{Client, Encode, EncodeStream, Encoded};
pub use core::{ClientError, ItemResult, Vector, WhenOverloaded};
#[cfg(feature = "link")]
pub use link::{BoxFuture, LinkError, Peer, Reply, Service};
