//! What the node gives a member and what it gets back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use shoal_protocol::message::{LoadRecord, LoadRequest, NodeFacts};
use shoal_protocol::{DeviceIndex, NodeId};

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
    /// The load of each device, this node's own included, as its node said it last: nobody speaks for another.
    pub loads: BTreeMap<(NodeId, DeviceIndex), HeardLoad>,
}

/// A device's load, as its node told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeardLoad {
    /// What it said.
    pub record: LoadRecord,
    /// When that came: clocks of others are never compared.
    pub at: Instant,
}

/// Something about the mesh that was not known before. Loads are not told one by one: see [`MeshState::loads`].
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
    /// A member asks this node to load a model.
    LoadRequested {
        /// Who asks.
        from: NodeId,
        /// What.
        request: LoadRequest,
    },
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
    /// Load records sent, to all members together.
    pub loads_sent: u64,
}
