//! A mesh of members in virtual time: the machines that a member drives in production, over a network with delay, loss,
//! duplicates, reordering and cuts, on processes that die, stop, start again and have clocks of their own. One thread, one
//! clock, one seed: a run can be repeated to the event.
//!
//! [`Members`] owns connections and decides nothing. [`Network`], [`Timeline`] and [`Clock`] serve any other process of
//! a simulated world as well.

mod agreement;
mod clock;
mod connection;
mod faults;
mod member;
mod members;
mod network;
mod timeline;
mod wires;

use std::net::{Ipv4Addr, SocketAddr};

use shoal_protocol::NodeId;

pub use clock::Clock;
pub use members::{MemberStart, Members, Traffic};
pub use network::{Network, Peer, Weather, exponential};
pub use timeline::Timeline;

/// Ports of the members' addresses begin here.
const PORT_FIRST: u16 = 7000;

/// The id of a node, spread as hashes are: rendezvous hashing wants it so.
#[must_use]
pub fn node_id(number: u16) -> NodeId {
    let high = u128::from(number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    NodeId((high & !0xffff | u128::from(number)).to_be_bytes())
}

/// The number that is in an id.
#[must_use]
pub fn node_number(id: NodeId) -> u16 {
    u16::from_be_bytes([id.0[14], id.0[15]])
}

/// Where members reach a node.
#[must_use]
pub fn address(number: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), PORT_FIRST + number)
}

fn number_at(address: SocketAddr) -> u16 {
    address.port() - PORT_FIRST
}

#[cfg(test)]
mod tests;
