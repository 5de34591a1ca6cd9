//! A member of the mesh: one QUIC endpoint (`shoal-node/1`, nodes only), one connection for each pair of members, and
//! one task that owns the machines and decides nothing.
//!
//! ```text
//! datagrams   membership (first byte 1) and load frames; what is lost is said again
//! one stream  in either direction: facts frames and requests to load a model, in order
//! hello       the first and only exchange, as on the clients' port
//! ```
//!
//! Everything that comes passes the protocol's door. A peer that breaks a rule loses its connection with a code, and is
//! dialed again after a pause that grows.

pub(crate) mod dial;
mod driver;
mod interface;
mod line;
pub(crate) mod links;
pub(crate) mod loads;
pub(crate) mod machines;
mod server;
mod wires;

pub use interface::{HeardLoad, MeshState, News, PeerCounters};
pub use server::{PeerOptions, PeerServer};

#[cfg(test)]
mod tests;
