//! What nodes tell clients unasked, and datagrams.

use std::sync::Arc;
use std::time::Duration;

use super::super::network::Peer;
use super::super::policy::Policy;
use super::{Event, Gossip, Packet, World};

/// Between two publications of a node's facts.
const PUBLISH_PERIOD_MIN: Duration = Duration::from_millis(100);
/// Between two records of a node's load, in a mesh of up to [`LOAD_NODES`] nodes; beyond it, in proportion.
const LOAD_PERIOD: Duration = Duration::from_secs(1);
const LOAD_NODES: f64 = 64.0;

impl World {
    /// A node's first words.
    pub(super) fn start_gossip(&mut self, number: u16) {
        self.plan_publication(number);
        if self.scenario.load_gossip {
            self.plan_gossip(number, Gossip::Load, Duration::ZERO);
        }
    }

    /// The node has something to say about itself.
    pub(super) fn plan_publication(&mut self, number: u16) {
        let now = self.now();
        let process = &mut self.processes[usize::from(number)];
        if !process.is_publishing && self.scenario.policy == Policy::Router {
            process.is_publishing = true;
            let wait = process.publish_after.saturating_duration_since(now);
            self.plan_gossip(number, Gossip::Facts, wait);
        }
    }

    fn plan_gossip(&mut self, number: u16, what: Gossip, wait: Duration) {
        let generation = self.processes[usize::from(number)].generation;
        self.timeline.plan(self.now() + wait, Event::Gossip { node: number, generation, what });
    }

    /// The node tells every client.
    pub(super) fn tell(&mut self, number: u16, what: Gossip) {
        let now = self.now();
        let process = &mut self.processes[usize::from(number)];
        let local = process.clock.local(now);
        match what {
            Gossip::Facts => {
                process.is_publishing = false;
                process.publish_after = now + PUBLISH_PERIOD_MIN;
                process.version += 1;
                let facts = Arc::new(process.node.facts(process.generation, process.version, local));
                for client in 0..self.scenario.clients {
                    self.send_reliably(
                        Peer::Node(number),
                        Peer::Client(client),
                        Packet::Facts(facts.clone()),
                    );
                }
            }
            Gossip::Load => {
                let load = process.node.load_record(local);
                for client in 0..self.scenario.clients {
                    self.send_datagram(Peer::Node(number), Peer::Client(client), Packet::Load(load));
                }
                let period = LOAD_PERIOD.mul_f64((f64::from(self.scenario.nodes) / LOAD_NODES).max(1.0));
                self.plan_gossip(number, Gossip::Load, period);
            }
        }
    }

    /// The node goes on under another generation, and says so.
    pub(super) fn renew(&mut self, number: u16) {
        self.processes[usize::from(number)].is_publishing = false;
        self.start_gossip(number);
    }

    /// Arrives some time, unless the link is cut.
    pub(super) fn send_reliably(&mut self, from: Peer, to: Peer, packet: Packet) {
        if let Some(delay) = self.network.stream(from, to) {
            let event = Event::Packet { from, to, packet: Box::new(packet) };
            self.timeline.plan(self.now() + delay, event);
        }
    }

    /// Arrives never, once or twice.
    pub(super) fn send_datagram(&mut self, from: Peer, to: Peer, packet: Packet) {
        let is_probe = matches!(packet, Packet::Probe(_));
        let delays = self.network.datagram(from, to, is_probe);
        for delay in delays.into_iter().flatten() {
            let copy = match &packet {
                Packet::Load(load) => Packet::Load(*load),
                Packet::Probe(probe) => Packet::Probe(probe.clone()),
                Packet::Reply(reply) => Packet::Reply(*reply),
                Packet::Swim(bytes) => Packet::Swim(bytes.clone()),
                // Streams carry all others.
                _ => return,
            };
            self.timeline.plan(self.now() + delay, Event::Packet { from, to, packet: Box::new(copy) });
        }
    }
}
