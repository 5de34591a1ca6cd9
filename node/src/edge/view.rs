//! What the edge asks of the node that it stands in front of, beside serving requests.

use shoal_protocol::NodeId;

/// Whether new work may be sent here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Why not, one sentence each; empty when warm, self-tested and not draining.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// Whether there is no reason against it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// The node as probes see it. Called for every probe, so it answers from memory and never waits.
pub trait NodeView: Send + Sync + 'static {
    /// The node's id, sent with every reply.
    fn node(&self) -> NodeId;

    /// Whether new work may be sent here.
    fn readiness(&self) -> Readiness;
}
