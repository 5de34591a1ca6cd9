//! Membership between nodes, and what it tells the clients that follow them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use shoal_mesh::core::{Life, MemberSeen, MemberState, Membership, MembershipEvent, MembershipOptions};

use super::super::answer::{node_id, node_number};
use super::super::network::Peer;
use super::super::policy::Policy;
use super::{Event, Packet, World};

/// From a node's death until a client that follows it follows another: three keep-alives of its connection.
const UNFOLLOW_WAIT: Duration = Duration::from_millis(4500);
/// Ports of the nodes' addresses begin here.
const PORT_FIRST: u16 = 7000;

fn address(node: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), PORT_FIRST + node)
}

impl World {
    /// The machine of a node that knows the first three.
    pub(super) fn membership_of(&self, number: u16, generation: u64, now: Instant) -> Membership {
        let options = MembershipOptions {
            life: Life { node: node_id(number), generation },
            address: address(number),
            seeds: (0..self.scenario.nodes.min(3)).map(address).collect(),
            chance: self.scenario.seed ^ u64::from(number) << 32 ^ generation << 48,
        };
        Membership::new(options, now)
    }

    /// Whether membership matters in this run: baselines know better.
    pub(super) fn has_membership(&self) -> bool {
        self.scenario.policy == Policy::Router
    }

    /// A datagram came from another node.
    pub(super) fn swim(&mut self, number: u16, from: Peer, bytes: &[u8], now: Instant) {
        let Peer::Node(from) = from else {
            return;
        };
        let membership = &mut self.processes[usize::from(number)].membership;
        if let Err(refused) = membership.handle_datagram(node_id(from), bytes, now) {
            self.history
                .violated(self.timeline.now(), format!("node {number} refused node {from}: {refused}"));
        }
    }

    /// Does what a node's membership wants done.
    pub(super) fn after_membership(&mut self, number: u16) {
        if !self.has_membership() {
            return;
        }
        while let Some(event) = self.processes[usize::from(number)].membership.poll_event() {
            match event {
                MembershipEvent::Member(seen) => self.seen(number, seen),
                MembershipEvent::Renewed(life) => {
                    self.processes[usize::from(number)].generation = life.generation;
                    self.renew(number);
                }
            }
        }
        while let Some(seed) = self.processes[usize::from(number)].membership.poll_dial() {
            self.dial(number, seed.port() - PORT_FIRST);
        }
        while let Some(transmit) = self.processes[usize::from(number)].membership.poll_transmit() {
            let to = node_number(transmit.to);
            self.dial(number, to);
            self.send_datagram(Peer::Node(number), Peer::Node(to), Packet::Swim(transmit.bytes));
        }
    }

    /// A node learnt something about another: so do the clients that follow it.
    fn seen(&mut self, number: u16, seen: MemberSeen) {
        let other = node_number(seen.life.node);
        match seen.state {
            MemberState::Alive if number < other => self.dial(number, other),
            MemberState::Down => self.disconnect(number, other),
            MemberState::Alive | MemberState::Suspect => {}
        }
        for client in 0..self.scenario.clients {
            if self.followed[usize::from(client)] == number {
                self.send_reliably(Peer::Node(number), Peer::Client(client), Packet::Member(seen));
            }
        }
    }

    /// The client follows the next node that runs, which tells it all that it knows.
    pub(super) fn follow(&mut self, client: u16) {
        let nodes = self.scenario.nodes;
        let former = self.followed[usize::from(client)];
        if self.processes[usize::from(former)].is_running() {
            return;
        }
        let next = (1..nodes).map(|step| (former + step) % nodes);
        let Some(next) = next.into_iter().find(|node| self.processes[usize::from(*node)].is_running()) else {
            return self.unfollow(former);
        };
        self.followed[usize::from(client)] = next;
        let members: Vec<_> = self.processes[usize::from(next)].membership.members().copied().collect();
        for seen in members {
            self.send_reliably(Peer::Node(next), Peer::Client(client), Packet::Member(seen));
        }
    }

    /// A node is gone, and those that follow it will notice.
    pub(super) fn unfollow(&mut self, number: u16) {
        for client in 0..self.scenario.clients {
            if self.followed[usize::from(client)] == number {
                self.timeline.plan(self.now() + UNFOLLOW_WAIT, Event::Follow(client));
            }
        }
    }

    /// A handshake, which needs both ends; nothing where the connection stands.
    fn dial(&mut self, from: u16, to: u16) {
        let link = (from.min(to), from.max(to));
        let ends = [(from, to), (to, from)].map(|(from, to)| (Peer::Node(from), Peer::Node(to)));
        let reaches = ends.iter().all(|(from, to)| self.network.is_open(*from, *to));
        if from == to
            || self.links.contains(&link)
            || !reaches
            || !self.processes[usize::from(to)].is_running()
        {
            return;
        }
        self.links.insert(link);
        for (from, to) in ends {
            if let (Peer::Node(sender), Some(delay)) = (from, self.network.stream(from, to)) {
                let life = self.processes[usize::from(sender)].membership.life();
                let packet = Box::new(Packet::Connected(life));
                self.timeline.plan(self.now() + 2 * delay, Event::Packet { from, to, packet });
            }
        }
    }

    /// A handshake with another node is over.
    pub(super) fn connected(&mut self, number: u16, life: Life, now: Instant) {
        let membership = &mut self.processes[usize::from(number)].membership;
        membership.handle_connected(life, address(node_number(life.node)), now);
    }

    pub(super) fn disconnect(&mut self, a: u16, b: u16) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            self.processes[usize::from(a)].membership.handle_disconnected(node_id(b));
            self.processes[usize::from(b)].membership.handle_disconnected(node_id(a));
        }
    }
}
