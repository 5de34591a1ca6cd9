//! What a client that follows the mesh is told beside facts: who is there, and how loaded each device is.
//!
//! A follower opens a stream with a [`FactsDigest`](crate::message::FactsDigest) of the records that it holds. The node
//! answers with lives, with the records and changes that the follower lacks, and goes on as they change; a
//! [`Failure`](crate::message::Failure) ends it.

use rkyv::{Archive, Deserialize, Serialize};

use crate::header::Kind;
use crate::ids::NodeId;
use crate::limits::{UPDATE_LOADS_MAX, UPDATE_MEMBERS_MAX};
use crate::message::rule;
use crate::message::status::{LoadRecord, MemberState};
use crate::units::Micros;
use crate::wire::{DecodeError, wire_message};

/// One life of a node, as the sender sees it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberLife {
    /// The node.
    pub node: NodeId,
    /// Which of its lives.
    pub generation: u64,
    /// How it is seen.
    pub state: MemberState,
}

/// The last load record that the sender heard of a device.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLoad {
    /// The device's node; its index is the record's.
    pub node: NodeId,
    /// The record.
    pub load: LoadRecord,
    /// How long ago it came: clocks are never compared.
    pub age_us: Micros,
}

/// What changed since the last one.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshUpdate {
    /// Lives that are new or seen otherwise than before.
    pub members: Vec<MemberLife>,
    /// Loads.
    pub loads: Vec<NodeLoad>,
    /// Said once, when all that the follower lacked at first was told: until then what it does not know may exist.
    pub settled: bool,
}

wire_message!(MeshUpdate, Kind::MeshUpdate);

impl MeshUpdate {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        rule(Kind::MeshUpdate, self.members.len() <= UPDATE_MEMBERS_MAX, "too many members")?;
        rule(Kind::MeshUpdate, self.loads.len() <= UPDATE_LOADS_MAX, "too many loads")
    }
}
