//! What membership says about a node.

use shoal_protocol::NodeId;
pub use shoal_protocol::message::MemberState;

/// One life of a node: a restart is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// The node.
    pub node: NodeId,
    /// Rises with every start.
    pub generation: u64,
}
