//! What goes wrong.

use shoal_mesh::simulation::Peer;

use super::super::client::client_of;
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
                self.doubt_entries();
            }
            Fault::Heal => {
                self.members.heal();
                // Whoever was cut off can be counted on only from now.
                for process in &mut self.processes {
                    process.well_since = process.well_since.map(|_| now);
                }
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
        let generation = self.processes[usize::from(number)].generation + 1;
        self.processes[usize::from(number)] = self.start_process(number, generation);
        self.evidence.retain(|(_, node), _| *node != number);
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
        self.start_member(number);
        self.after_node(number);
    }
}
