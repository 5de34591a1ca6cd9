//! What the edge asks of the node that it stands in front of, beside serving requests.

use std::sync::Arc;

use shoal_mesh::BoxFuture;
use shoal_protocol::NodeId;
use shoal_protocol::message::{Input, Truncate};

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

/// The node beside its service.
pub trait NodeView: Send + Sync + 'static {
    /// The node's id, sent with every reply.
    fn node(&self) -> NodeId;

    /// Whether new work may be sent here. Asked by every probe, so it answers from memory.
    fn readiness(&self) -> Readiness;

    /// Tokens that `model` would see, counted without encoding, up to the first count over `tokens_max`; texts that
    /// fail count nothing. Asked only for requests that could hold more. `None`: not known now, and
    /// the request itself will say why.
    fn count_tokens(
        &self,
        model: &str,
        items: Arc<[Input]>,
        truncate: Truncate,
        tokens_max: u64,
    ) -> BoxFuture<'static, Option<u64>>;
}
