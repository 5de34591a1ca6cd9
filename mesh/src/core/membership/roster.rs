//! The members as they were last seen, and which of them the owner has yet to be told about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use foca::{Member, State};
use shoal_protocol::NodeId;

use super::super::member::{Life, MemberState};
use super::codec::Datagram;
use super::member_id::MemberId;

/// A member as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberSeen {
    /// Which life of the node; it replaces every lower generation.
    pub life: Life,
    /// Where that life is reached.
    pub address: SocketAddr,
    /// How it is.
    pub state: MemberState,
}

impl From<&Member<MemberId>> for MemberSeen {
    fn from(member: &Member<MemberId>) -> Self {
        let state = match member.state() {
            State::Alive => MemberState::Alive,
            State::Suspect => MemberState::Suspect,
            State::Down => MemberState::Down,
        };
        Self { life: member.id().life, address: member.id().address, state }
    }
}

/// One entry a node. What changes twice before it is told is told once, as it is then: the memory of untold
/// changes is bounded by the members.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<NodeId, MemberSeen>,
    untold: BTreeSet<NodeId>,
}

impl Roster {
    pub(super) fn see(&mut self, seen: MemberSeen) {
        let node = seen.life.node;
        if self.members.insert(node, seen) != Some(seen) {
            self.untold.insert(node);
        }
    }

    /// The dead that nobody remembers any more.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.members.remove(&node);
        self.untold.remove(&node);
    }

    /// Whether a datagram says something else of a node, among that a suspicion or its end; of its sender by being there.
    pub(super) fn is_contradicted_by(&self, datagram: &Datagram<'_>) -> bool {
        let differs = |seen: MemberSeen| self.get(seen.life.node).is_some_and(|known| *known != seen);
        let source = self.get(datagram.header.src.life.node);
        source.is_some_and(|seen| seen.state == MemberState::Suspect)
            || datagram.rumours().iter().map(MemberSeen::from).any(differs)
    }

    pub(super) fn poll(&mut self) -> Option<MemberSeen> {
        let node = self.untold.pop_first()?;
        self.members.get(&node).copied()
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&MemberSeen> {
        self.members.get(&node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &MemberSeen> {
        self.members.values()
    }
}
