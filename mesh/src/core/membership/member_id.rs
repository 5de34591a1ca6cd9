//! Who a member is to SWIM.

use std::net::SocketAddr;

use super::super::member::Life;

/// One life of a node, and where that life is reached. Two ids are equal when the lives are: the address is what a
/// life says about itself and never tells members apart, because spot machines reuse addresses.
#[derive(Clone, Debug)]
pub(super) struct MemberId {
    pub(super) life: Life,
    pub(super) address: SocketAddr,
}

impl PartialEq for MemberId {
    fn eq(&self, other: &Self) -> bool {
        self.life == other.life
    }
}

impl Eq for MemberId {}

impl foca::Identity for MemberId {
    type Addr = shoal_protocol::NodeId;

    /// Never: `Membership` renews, because it knows how often it did so lately and what others claim about us.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> Self::Addr {
        self.life.node
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.life.generation > other.life.generation
    }
}
