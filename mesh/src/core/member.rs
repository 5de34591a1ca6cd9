//! What membership says about a node.

use shoal_protocol::NodeId;

/// How a member is seen from here. The names are SWIM's (Das, Gupta, Motivala 2002).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// Answers, or somebody says so.
    Alive,
    /// Did not answer lately: gets no new work, may still refute.
    Suspect,
    /// Gone. It comes back only as a higher generation.
    Down,
}

/// One life of a node: a restart is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// The node.
    pub node: NodeId,
    /// Rises with every start.
    pub generation: u64,
}
