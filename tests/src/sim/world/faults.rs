//! What goes wrong, and the audits that look whether it showed.

use super::super::client::client_of;
use super::super::network::Peer;
use super::super::scenario::Fault;
use super::{Event, Life, Packet, World};

impl World {
    /// The fault at this place of the scenario.
    pub(super) fn suffer(&mut self, place: usize) {
        let (_, fault) = self.scenario.faults[place].clone();
        let now = self.now();
        match fault {
            Fault::Kill(node) => {
                self.set_life(node, Life::Dead(now));
                self.unfollow(node);
            }
            Fault::Restart(node) => self.restart(node),
            Fault::Stop(node) => self.set_life(node, Life::Stopped(Vec::new())),
            Fault::Continue(node) => {
                let process = &mut self.processes[usize::from(node)];
                if let Life::Stopped(waiting) = &mut process.life {
                    let waiting = std::mem::take(waiting);
                    process.life = Life::Running;
                    process.well_since = Some(now);
                    waiting.into_iter().for_each(|event| self.in_node(node, event));
                }
            }
            Fault::Drain(node, time) => {
                let process = &mut self.processes[usize::from(node)];
                process.well_since = None;
                let local = process.clock.local(now);
                process.node.handle_drain(time, local);
                self.after_node(node);
            }
            Fault::Ail(node, ailments) => {
                let process = &mut self.processes[usize::from(node)];
                process.node.ailments = ailments;
                process.well_since = (ailments == super::super::node::Ailments::default()).then_some(now);
            }
            Fault::Cut(from, to) => self.network.cut(from, to),
            Fault::Heal => {
                self.network.heal();
                // Whoever was cut off can be counted on only from now.
                for process in &mut self.processes {
                    process.well_since = process.well_since.map(|_| now);
                }
                // What was lost at a cut is said again.
                (0..self.scenario.nodes).for_each(|node| self.plan_publication(node));
            }
        }
    }

    fn set_life(&mut self, node: u16, life: Life) {
        let process = &mut self.processes[usize::from(node)];
        process.life = life;
        process.well_since = None;
    }

    /// A new life. The streams of the former one are reset as soon as their clients are heard of.
    fn restart(&mut self, number: u16) {
        let now = self.now();
        (0..self.scenario.nodes).for_each(|other| self.disconnect(number, other));
        let generation = self.processes[usize::from(number)].generation + 1;
        self.processes[usize::from(number)] = self.start_process(number, generation);
        self.evidence.retain(|(_, node), _| *node != number);
        let from = Peer::Node(number);
        let of_former = self.streams.iter().filter(|(_, state)| state.node == number);
        let former: Vec<u64> = of_former.map(|(stream, _)| *stream).collect();
        for stream in former {
            let to = Peer::Client(client_of(stream));
            if let Some(delay) = self.network.stream(from, to) {
                let packet = Box::new(Packet::Broken { stream, reached: true });
                self.timeline.plan(now + delay, Event::Packet { from, to, packet });
            }
        }
        self.after_node(number);
        self.start_gossip(number);
    }

    /// Looks at everything that must hold at any time.
    pub(super) fn audit(&mut self) {
        let now = self.now();
        self.history.audit(now);
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
        let clients: usize = self.clients.iter().map(super::Client::in_flight).sum();
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
}
