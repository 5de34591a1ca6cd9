//! What goes wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_mesh::simulation::{Peer, node_id};

use super::super::client::client_of;
use super::super::scenario::Fault;
use super::{Event, Life, Packet, World};

/// Members that did not hear each other know everything after this time: the dead are renewed, and digests compared.
const HEALED_WITHIN: Duration = Duration::from_secs(40);

impl World {
    /// The fault at this place of the scenario.
    pub(super) fn suffer(&mut self, place: usize) {
        let (_, fault) = self.scenario.faults[place].clone();
        let now = self.now();
        match fault {
            Fault::Kill(node) => {
                self.die(node);
                self.members.kill(node);
                self.drop_feeds(node);
                self.doubt_entries();
            }
            Fault::Restart(node) => self.restart(node),
            Fault::Stop(node) => {
                self.set_life(node, Life::Stopped(Vec::new()));
                self.members.stop(node);
                self.doubt_entries();
            }
            Fault::Continue(node) => {
                let process = &mut self.processes[usize::from(node)];
                if let Life::Stopped(waiting) = &mut process.life {
                    let waiting = std::mem::take(waiting);
                    process.life = Life::Running;
                    process.well_since = Some(now);
                    self.members.resume(node);
                    self.wake_feeds(node);
                    waiting.into_iter().for_each(|event| self.in_node(node, event));
                }
            }
            Fault::Drain(node, time) => {
                let process = &mut self.processes[usize::from(node)];
                process.well_since = None;
                process.leaves_by = Some(now + time);
                let local = process.clock.local(now);
                process.node.handle_drain(time, local);
                self.after_node(node);
            }
            Fault::Ail(node, ailments) => {
                let process = &mut self.processes[usize::from(node)];
                process.node.ailments = ailments;
                self.members.set_lag(node, ailments.lag);
                process.well_since = (ailments == super::super::node::Ailments::default()).then_some(now);
            }
            Fault::Cut(from, to) => {
                self.members.cut(from, to);
                if let (Peer::Node(_), Peer::Node(_)) = (from, to) {
                    self.parted_until = Some(self.ends_at);
                }
                self.doubt_entries();
            }
            Fault::Heal => {
                self.members.heal();
                self.parted_until = self.parted_until.map(|_| now + HEALED_WITHIN);
                // Whoever was cut off can be counted on only from now.
                for process in &mut self.processes {
                    process.well_since = process.well_since.map(|_| now);
                }
            }
        }
    }

    /// The process ends.
    fn die(&mut self, number: u16) {
        let now = self.now();
        self.set_life(number, Life::Dead(now));
        let waiting: BTreeSet<u16> = self
            .streams
            .iter()
            .filter(|(_, state)| state.node == number)
            .map(|(id, _)| client_of(*id))
            .collect();
        self.deaths.handle_death(number, self.scenario.clients, |client| waiting.contains(&client), now);
    }

    /// Nothing keeps a node any more: it says farewell to the members, and to those whose streams are open.
    pub(super) fn leave(&mut self, number: u16) {
        if !self.processes[usize::from(number)].is_running() {
            return;
        }
        self.audit_leaving(number);
        self.members.leave(number);
        self.set_life(number, Life::Dead(self.now()));
        self.processes[usize::from(number)].has_left = true;
        self.drop_feeds(number);
        self.doubt_entries();
        self.break_streams(number);
    }

    fn set_life(&mut self, node: u16, life: Life) {
        let process = &mut self.processes[usize::from(node)];
        process.life = life;
        process.well_since = None;
        self.converging.handle_gone(node_id(node));
    }

    /// A new life. The streams of the former one are reset as soon as their clients are heard of.
    fn restart(&mut self, number: u16) {
        let generation = self.processes[usize::from(number)].generation + 1;
        self.processes[usize::from(number)] = self.start_process(number, generation);
        self.deaths.handle_start(number);
        self.break_streams(number);
        self.start_member(number);
        self.after_node(number);
    }

    /// Those who wait for a node that is gone hear that it is.
    fn break_streams(&mut self, number: u16) {
        let now = self.now();
        let from = Peer::Node(number);
        let of_former = self.streams.iter().filter(|(_, state)| state.node == number);
        let former: Vec<u64> = of_former.map(|(stream, _)| *stream).collect();
        for stream in former {
            let to = Peer::Client(client_of(stream));
            if let Some(delay) = self.members.network.stream(from, to) {
                let packet = Box::new(Packet::Broken { stream, reached: true });
                self.timeline.plan(now + delay, Event::Packet { from, to, packet });
            }
        }
    }
}
