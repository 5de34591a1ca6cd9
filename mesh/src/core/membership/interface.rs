//! What goes into the machine and what comes out.

use std::net::SocketAddr;

use shoal_protocol::NodeId;

use super::super::member::Life;
use super::codec::MalformedDatagram;
use super::roster::MemberSeen;

/// What a node starts with.
#[derive(Clone, Debug)]
pub struct MembershipOptions {
    /// This node and its generation: milliseconds since 1970 at its start, or one more than the last that it
    /// persisted if that is larger. At most [`GENERATION_MAX`](super::GENERATION_MAX).
    pub life: Life,
    /// Where other members reach it.
    pub address: SocketAddr,
    /// Where to look for company; the first 64 are used.
    pub seeds: Vec<SocketAddr>,
    /// Seed of the machine's choices: whom to probe and to tell.
    pub chance: u64,
}

/// A datagram to send. Where no connection to the node stands, dial it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipTransmit {
    /// The node, which its certificate must name.
    pub to: NodeId,
    /// Where it was last said to be.
    pub address: SocketAddr,
    /// At most [`DATAGRAM_BYTES_MAX`](super::DATAGRAM_BYTES_MAX) bytes.
    pub bytes: Vec<u8>,
}

/// What the owner of the machine must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipEvent {
    /// A member is new or changed.
    Member(MemberSeen),
    /// The mesh held this node for dead, and it goes on under a new generation: persist it before the next start,
    /// and write facts under it.
    Renewed(Life),
}

/// Why a datagram was refused. The machine is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramRefused {
    /// Its source is not the peer that sent it: SWIM believes a source, so a forged one would be believed.
    #[error("{from} sent a datagram that claims to come from {claimed}")]
    Forged {
        /// The authenticated peer.
        from: NodeId,
        /// What the datagram says.
        claimed: NodeId,
    },
    /// Its source is this node itself: another process runs with the same key.
    #[error("a datagram claims to come from this node: is its identity in use twice?")]
    FromSelf,
    /// Not a membership datagram.
    #[error("malformed membership datagram: {0}")]
    Malformed(#[from] MalformedDatagram),
    /// It speaks of a generation that lies more than a year ahead of this node's clock. Clocks of members must agree
    /// to within that: a generation that high could not be followed by another.
    #[error("a generation more than a year ahead: node {}, generation {}; check the clocks", .0.node, .0.generation)]
    Implausible(Life),
    /// Larger than [`DATAGRAM_BYTES_MAX`](super::DATAGRAM_BYTES_MAX), or an indirect probe of its own sender's.
    #[error("the datagram breaks a rule of SWIM")]
    Invalid,
}

/// What happened since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MembershipCounters {
    /// Datagrams refused ([`DatagramRefused`]).
    pub refused: u64,
    /// Rumours about unknown nodes that were not believed because 4096 are known.
    pub rumours_dropped: u64,
    /// Datagrams dropped unsent: the owner did not poll, or a peer asked for one to a stranger.
    pub transmits_dropped: u64,
    /// Times that this node went on under a new generation.
    pub renewals: u64,
    /// Times that its own timers were late, so that nothing was concluded from silence.
    pub stalls: u64,
    /// Errors of foca at its own timers, which it recovers from.
    pub faults: u64,
}
