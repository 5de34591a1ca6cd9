//! What goes into the machine and what comes out.

use std::sync::Arc;

use shoal_protocol::message::{DeviceFact, FactsDelta, FactsDigest, FactsPull, ModelFact, NodeFacts};
use shoal_protocol::{DecodeError, NodeId};

use super::super::member::Life;

/// What a node says about itself; the machine adds who it is and the version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnFacts {
    /// Where members reach it (`host:port`, in order of preference).
    pub peer_addresses: Vec<String>,
    /// Where clients reach it.
    pub client_addresses: Vec<String>,
    /// Whether it takes no new work because it is leaving.
    pub draining: bool,
    /// Its devices.
    pub devices: Vec<DeviceFact>,
    /// Its models.
    pub models: Vec<ModelFact>,
}

impl OwnFacts {
    /// As a record of `life`.
    #[must_use]
    pub fn into_record(self, life: Life, version: u64) -> NodeFacts {
        NodeFacts {
            node: life.node,
            generation: life.generation,
            version,
            peer_addresses: self.peer_addresses,
            client_addresses: self.client_addresses,
            draining: self.draining,
            devices: self.devices,
            models: self.models,
        }
    }
}

/// What is sent, in order and reliably, as long as a connection stands. Shared, because many peers get the same:
/// encode it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactsMessage {
    /// A whole record.
    Record(Arc<NodeFacts>),
    /// A change of one.
    Delta(Arc<FactsDelta>),
    /// Versions of everybody's.
    Digest(Arc<FactsDigest>),
    /// Asks for a record.
    Pull(FactsPull),
}

/// One message to several peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactsSend {
    /// The receivers.
    pub to: Vec<NodeId>,
    /// What they get.
    pub message: FactsMessage,
}

/// Why something was refused. Nothing of it was used.
#[derive(Debug, thiserror::Error)]
pub enum FactsRefused {
    /// A member speaks for itself only.
    #[error("{from} may not speak about the facts of {about}")]
    NotOwner {
        /// The authenticated peer.
        from: NodeId,
        /// Whose facts it sent.
        about: NodeId,
    },
    /// The life was declared dead; its owner goes on under a higher generation.
    #[error("node {} was declared dead at generation {}", .0.node, .0.generation)]
    Dead(Life),
    /// Not a connected peer.
    #[error("{0} is no peer")]
    Stranger(NodeId),
    /// A named bound is reached; neither the record nor a former state of it is held.
    #[error("no room: {0}")]
    Full(&'static str),
    /// The record breaks a limit of the wire.
    #[error(transparent)]
    Limit(#[from] DecodeError),
}

/// What happened since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FactsCounters {
    /// Messages refused ([`FactsRefused`]).
    pub refused: u64,
    /// Versions of the own record published.
    pub published: u64,
    /// Records asked for because a change was missed.
    pub pulls: u64,
    /// Pulls of peers not answered because they came too fast.
    pub pulls_dropped: u64,
    /// Times that a peer has to be sent the own record again.
    pub resyncs: u64,
}
