//! One process: the machines, wired as a shell wires them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use shoal_protocol::NodeId;

use crate::core::{Life, MemberSeen, MemberState, Membership, MembershipEvent, MembershipOptions};

/// Nodes are numbers; number 0 is everybody's seed.
pub(super) fn id(index: usize) -> NodeId {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&(index as u64).to_be_bytes());
    NodeId(bytes)
}

pub(super) fn index(node: NodeId) -> usize {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&node.0[..8]);
    usize::try_from(u64::from_be_bytes(bytes)).expect("an id of this world")
}

pub(super) fn address(index: usize) -> SocketAddr {
    let port = u16::try_from(7000 + index).expect("a small world");
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), port)
}

pub(super) struct Node {
    pub(super) membership: Membership,
    /// Every change that was told, with its time.
    pub(super) log: Vec<(Instant, MemberSeen)>,
    /// What a real shell keeps on disk.
    pub(super) generation: u64,
    pub(super) alive: bool,
    /// Stopped (`SIGSTOP`): nothing is handled, what arrives waits.
    pub(super) asleep: bool,
}

impl Node {
    pub(super) fn start(index: usize, generation: u64, chance: u64, now: Instant) -> Self {
        let options = MembershipOptions {
            life: Life { node: id(index), generation },
            address: address(index),
            seeds: vec![address(0)],
            chance,
        };
        Self {
            membership: Membership::new(options, now),
            log: Vec::new(),
            generation,
            alive: true,
            asleep: false,
        }
    }

    /// When the process wants to run next.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.alive && !self.asleep { self.membership.poll_timeout().map(|(at, _)| at) } else { None }
    }

    /// Takes the machine's events; returns what changed.
    pub(super) fn take_events(&mut self, now: Instant) -> Vec<MemberSeen> {
        let mut changed = Vec::new();
        while let Some(event) = self.membership.poll_event() {
            match event {
                MembershipEvent::Member(seen) => {
                    self.log.push((now, seen));
                    changed.push(seen);
                }
                MembershipEvent::Renewed(life) => self.generation = life.generation,
            }
        }
        changed
    }

    pub(super) fn state_of(&self, other: usize) -> Option<(u64, MemberState)> {
        let seen = self.membership.members().find(|seen| seen.life.node == id(other))?;
        Some((seen.life.generation, seen.state))
    }
}
