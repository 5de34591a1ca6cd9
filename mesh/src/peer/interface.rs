//! What the node gives a member and what it gets back.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_protocol::NodeId;
use shoal_protocol::message::NodeFacts;

use crate::core::{FactsCounters, Life, MemberSeen, MembershipCounters};

/// The mesh as one member knows it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshState {
    /// The member itself. Its generation rises when the mesh held it for dead: persist it.
    pub life: Life,
    /// Everybody else, the remembered dead included, by node.
    pub members: Vec<MemberSeen>,
    /// What each node says about itself, this one included.
    pub facts: BTreeMap<NodeId, Arc<NodeFacts>>,
}

/// Something about the mesh that was not known before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A member is new or changed.
    Member(MemberSeen),
    /// The mesh held this node for dead, and it goes on as this life.
    Renewed(Life),
    /// A node's record, whole: new or changed. Also the own one.
    Facts(Arc<NodeFacts>),
    /// A node's record is not held any more.
    Forgotten(NodeId),
}

/// What happened since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Of membership.
    pub membership: MembershipCounters,
    /// Of facts.
    pub facts: FactsCounters,
    /// Members connected now.
    pub links: usize,
    /// Times that a peer said what no member may say; each cost it its connection.
    pub breaches: u64,
    /// Handshakes refused because too many came, in all or from one source.
    pub handshakes_refused: u64,
    /// Dials, and datagrams for whom is being dialed, that found no room.
    pub dropped: u64,
    /// Datagrams that a connection did not take.
    pub datagrams_dropped: u64,
}
