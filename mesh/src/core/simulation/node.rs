//! One process: the machines, wired as a shell wires them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use shoal_protocol::NodeId;
use shoal_protocol::message::ModelState;

use crate::core::fleet::{load, model};
use crate::core::{
    Facts, Life, LoadGossip, LoadSequence, MemberSeen, MemberState, Membership, MembershipEvent,
    MembershipOptions, OwnFacts,
};

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
    pub(super) facts: Facts,
    pub(super) load: LoadGossip,
    /// When each other node's load came last.
    pub(super) loads: BTreeMap<usize, Instant>,
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
        let life = Life { node: id(index), generation };
        let options = MembershipOptions { life, address: address(index), seeds: vec![address(0)], chance };
        let mut node = Self {
            membership: Membership::new(options, now),
            facts: Facts::new(Some(life), chance, now),
            load: LoadGossip::new(LoadSequence::new(now), chance),
            loads: BTreeMap::new(),
            log: Vec::new(),
            generation,
            alive: true,
            asleep: false,
        };
        node.load.handle_load(load(0, 0), now);
        node.hold(&[&format!("first-of-{index}")], now);
        node
    }

    /// The node's models are these now.
    pub(super) fn hold(&mut self, names: &[&str], now: Instant) {
        let models = names.iter().map(|name| model(name, ModelState::Ready)).collect();
        let own = OwnFacts { models, ..OwnFacts::default() };
        self.facts.handle_own(own, now).expect("within the limits");
    }

    /// When the process wants to run next.
    pub(super) fn next(&self) -> Option<Instant> {
        let timeouts = [self.membership.poll_timeout(), self.facts.poll_timeout(), self.load.poll_timeout()];
        let next = timeouts.into_iter().flatten().map(|(at, _)| at).min();
        next.filter(|_| self.alive && !self.asleep)
    }

    /// Takes the machine's events; returns what changed.
    pub(super) fn take_events(&mut self, now: Instant) -> Vec<MemberSeen> {
        let mut changed = Vec::new();
        while let Some(event) = self.membership.poll_event() {
            match event {
                MembershipEvent::Member(seen) => {
                    self.log.push((now, seen));
                    if seen.state == MemberState::Down {
                        self.facts.handle_down(seen.life, now);
                    }
                    changed.push(seen);
                }
                MembershipEvent::Renewed(life) => {
                    self.generation = life.generation;
                    self.facts.handle_renewed(life, now);
                }
            }
        }
        changed
    }

    pub(super) fn state_of(&self, other: usize) -> Option<(u64, MemberState)> {
        let seen = self.membership.member(id(other))?;
        Some((seen.life.generation, seen.state))
    }
}
