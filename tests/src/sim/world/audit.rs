//! The audits: rules that must hold at any time, and those that hold when all is over.

use shoal_mesh::simulation::{node_id, node_number};
use shoal_protocol::message::ModelState;

use super::super::client::Client;
use super::super::machine::model_bytes;
use super::super::policy::Policy;
use super::super::rules::{CONVERGED_WITHIN, disagreement, lag, version};
use super::super::scenario::Fault;
use super::clients::DEAD_TO_ALL;
use super::{Life, Process, World};

/// Devices that may load one model at once where nobody holds it: its owner, the second owner, and one that was
/// chosen by a view that is a moment old.
const LOADS_AFTER_MISS_MAX: usize = 3;

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
            let declared = process.node.machine().core_config();
            let bounds = [
                ("admitted bytes", gauges.admitted_bytes.0, declared.admitted_bytes_max),
                ("queued tokens", load.queue_tokens, declared.queue_tokens_max),
                ("resident bytes", gauges.resident_bytes.0, declared.resident_bytes_max),
                ("requests", u64::from(load.requests), declared.requests_max.into()),
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

    /// Counts the loads of models that nobody holds.
    pub(super) fn audit_loads(&mut self, number: u16) {
        let begun = std::mem::take(&mut self.processes[usize::from(number)].node.loads_begun);
        // Baselines know no owners.
        if self.timeline.now() < self.opens_at || self.scenario.policy != Policy::Router {
            return;
        }
        for key in begun {
            let model = key.index() as u16;
            let running = self.processes.iter().filter(|process| process.is_running());
            let states = running.map(|process| process.node.state(model));
            let (mut loading, mut ready) = (0, false);
            for state in states {
                loading += usize::from(state == ModelState::Loading);
                ready |= state == ModelState::Ready;
            }
            if !ready && loading > LOADS_AFTER_MISS_MAX {
                let what = format!("{loading} loads of model {model} at once, which nobody holds");
                self.history.violated(self.timeline.now(), what);
            }
        }
    }

    /// A node that leaves before it must has nothing left to do, and nobody loses a model with it that could be elsewhere.
    pub(super) fn audit_leaving(&mut self, number: u16) {
        let now = self.now();
        let process = &self.processes[usize::from(number)];
        let local = process.clock.local(now);
        if process.leaves_by.is_none_or(|by| now >= by) {
            return;
        }
        let jobs = process.node.jobs_len();
        // Where loads fail and packets are lost it may have been tried in vain.
        let is_calm = self.scenario.faults.iter().all(|(_, fault)| matches!(fault, Fault::Drain(..)));
        let sole: Vec<_> = process.node.sole_copies(local).filter(|_| is_calm).take(1).collect();
        if jobs > 0 {
            self.history.violated(now, format!("node {number} leaves with {jobs} requests unanswered"));
        }
        for model in sole {
            self.history.violated(now, format!("node {number} leaves with the only copy of {model}"));
        }
    }

    /// A copy is given back only where memory is short and others hold the model.
    pub(super) fn audit_given_back(&mut self, number: u16, model: u16) {
        let now = self.now();
        // Who just died is not known to be dead.
        let is_there = |life: &Life| match life {
            Life::Dead(since) => now.saturating_duration_since(*since) < DEAD_TO_ALL,
            Life::Running | Life::Stopped(_) => true,
        };
        let holds =
            |process: &Process| is_there(&process.life) && process.node.state(model) == ModelState::Ready;
        let others = self.processes.iter().filter(|process| process.node.number != number && holds(process));
        let gauges = self.processes[usize::from(number)].node.core().gauges(now);
        let free = gauges.resident_bytes_max.0 - gauges.resident_bytes.0;
        // Where packets are lost others may be gone that were there for longer.
        let is_sole = others.count() == 0 && !self.is_lossy();
        if is_sole || free >= model_bytes().0 {
            let what = format!("node {number} gives model {model} back with {free} bytes free");
            self.history.violated(now, what);
        }
    }

    /// Whether it is a bad day: packets are lost.
    pub(super) fn is_lossy(&self) -> bool {
        self.scenario.weather.loss > 0.0
    }

    /// Looks whether everybody who could know knows what each node said of itself some time ago.
    pub(super) fn audit_convergence(&mut self) {
        let now = self.now();
        let is_parted = self.parted_until.is_some_and(|until| now < until);
        if !self.has_members() || is_parted || !self.converging.is_time(now) {
            return;
        }
        let settled = |number: u16| {
            let since = self.processes[usize::from(number)].well_since;
            since.is_some_and(|since| now.saturating_duration_since(since) > CONVERGED_WITHIN)
        };
        let mut due = self.converging.due(now);
        due.retain(|said| settled(node_number(said.node)));
        let mut late = None;
        for (number, client) in (0..).zip(&self.clients) {
            let (node, since) = self.followed_since(number);
            if settled(node) && now.saturating_duration_since(since) > CONVERGED_WITHIN {
                late = late.or_else(|| lag(&format!("client {number}"), &due, &client.digest().entries));
            }
        }
        for number in (0..self.scenario.nodes).filter(|number| settled(*number)) {
            let held: Vec<_> = self.members.records(number).map(|record| version(record)).collect();
            late = late.or_else(|| lag(&format!("node {number}"), &due, &held));
        }
        late.into_iter().for_each(|what| self.history.violated(now, what));
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
