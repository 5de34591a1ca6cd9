//! The audits: rules that must hold at any time, and those that hold when all is over.

use shoal_mesh::simulation::node_id;
use shoal_protocol::message::{FactsVersion, NodeFacts};

use super::super::client::Client;
use super::super::rules::disagreement;
use super::World;

impl World {
    /// Looks at everything that must hold at any time.
    pub(super) fn audit(&mut self) {
        let now = self.now();
        self.history.audit(now);
        if let Some(breach) = self.members.breaches().first() {
            self.history.violated(now, breach.clone());
        }
        for process in &self.processes {
            let core = process.node.core();
            let (gauges, load) = (core.gauges(process.clock.local(now)), core.load_record(now));
            let bounds = [
                ("admitted bytes", gauges.admitted_bytes.0, gauges.admitted_bytes_max.0),
                ("queued tokens", load.queue_tokens, gauges.queue_tokens_max.0),
                ("resident bytes", gauges.resident_bytes.0, gauges.resident_bytes_max.0),
                ("requests", u64::from(load.requests), u64::from(core.config().requests_max)),
            ];
            for (what, value, max) in bounds {
                if value > max {
                    let node = process.node.number;
                    self.history.violated(now, format!("node {node} has {value} {what}, at most {max}"));
                }
            }
            if process.node.drained_away > 0 {
                let node = process.node.number;
                self.history.violated(now, format!("node {node} drained away a request that it had taken"));
            }
        }
    }

    /// Looks whether everything that was taken was given back.
    pub(super) fn audit_quiescence(&mut self) {
        let now = self.now();
        let open = self.history.open_len();
        let clients: usize = self.clients.iter().map(Client::in_flight).sum();
        let mut held = vec![("requests without an outcome", open), ("calls and streams at clients", clients)];
        for process in self.processes.iter().filter(|process| process.is_running()) {
            let load = process.node.core().load_record(process.clock.local(now));
            let gauges = process.node.core().gauges(process.clock.local(now));
            held.push(("jobs at a node", process.node.jobs_len()));
            held.push(("requests admitted at a device", load.requests as usize));
            held.push(("tokens queued at a device", load.queue_tokens as usize));
            held.push(("bytes admitted at a device", gauges.admitted_bytes.0 as usize));
            let hangs = process.node.ailments.hangs;
            held.push(("batches on a device", if hangs { 0 } else { usize::from(load.running) }));
        }
        for (what, count) in held {
            if count > 0 {
                self.history.violated(now, format!("{count} {what} when all is over"));
            }
        }
    }

    /// Looks whether everybody who can be reached knows every node's last word on itself, and of nobody else.
    pub(super) fn audit_agreement(&mut self) {
        if !self.has_members() {
            return;
        }
        let running = || (0..self.scenario.nodes).filter(|number| self.members.is_running(*number));
        let version = |record: &NodeFacts| FactsVersion {
            node: record.node,
            generation: record.generation,
            version: record.version,
        };
        let own = |number| self.members.record(number, node_id(number)).map(|record| version(record));
        let truth: Vec<_> = running().filter_map(own).collect();
        let nodes = running().map(|number| {
            let held: Vec<_> = self.members.records(number).map(|record| version(record)).collect();
            disagreement(&format!("node {number}"), &truth, &held)
        });
        // Where nobody is left, nobody can tell.
        let told = self.clients.iter().filter(|_| !truth.is_empty());
        let clients = (0..).zip(told).map(|(number, client): (u16, _)| {
            disagreement(&format!("client {number}"), &truth, &client.digest().entries)
        });
        let found: Vec<_> = nodes.chain(clients).flatten().take(1).collect();
        found.into_iter().for_each(|what| self.history.violated(self.timeline.now(), what));
    }
}
