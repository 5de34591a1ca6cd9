//! Events at nodes, and what nodes do to the world.

use std::time::Duration;

use shoal_mesh::simulation::{Peer, node_number};
use shoal_protocol::Message;
use shoal_protocol::message::LoadRequest;

use super::super::client::client_of;
use super::super::node::Deed;
use super::super::policy::Policy;
use super::{Event, Life, Packet, World};

/// A connection without a word from the other end is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

impl World {
    /// An event reaches a node: if it lives, is not stopped, and as soon as its CPU comes to it.
    pub(super) fn at_node(&mut self, number: u16, event: Event) {
        let process = &mut self.processes[usize::from(number)];
        match &mut process.life {
            Life::Dead(_) => {}
            Life::Stopped(waiting) => waiting.push(event),
            Life::Running if process.node.ailments.lag.is_zero() => self.in_node(number, event),
            Life::Running => {
                let at = self.timeline.now() + process.node.ailments.lag;
                self.timeline.plan(at, Event::Late(Box::new(event)));
            }
        }
    }

    /// The node handles an event.
    pub(super) fn in_node(&mut self, number: u16, event: Event) {
        let world_now = self.now();
        let process = &mut self.processes[usize::from(number)];
        match &mut process.life {
            Life::Running => {}
            Life::Stopped(waiting) => return waiting.push(event),
            Life::Dead(_) => return,
        }
        let now = process.clock.local(world_now);
        let node = &mut process.node;
        match event {
            Event::Packet { from, packet, .. } => match *packet {
                Packet::Request { stream, request } => {
                    let is_same_life = |stream: &super::Stream| stream.generation == process.generation;
                    if self.streams.get(&stream).is_some_and(is_same_life) {
                        let model = super::super::answer::model_number(&request.model);
                        if self.scenario.policy == Policy::Router
                            && model.is_some_and(|model| node.wants_loads(model, now))
                        {
                            node.handle_loads(self.members.loads(number), now);
                        }
                        node.handle_request(stream, request, now);
                    }
                }
                Packet::Stop { stream } => node.handle_stop(stream, now),
                Packet::Probe(probe) => {
                    let reply = Packet::Reply(node.reply(&probe, now));
                    return self.send_datagram(Peer::Node(number), from, reply); // it changes nothing
                }
                Packet::Follow { stream, holds } => {
                    if let Peer::Client(client) = from {
                        self.followed(number, client, stream, &holds);
                    }
                }
                Packet::Told { .. } | Packet::Frame { .. } | Packet::Broken { .. } | Packet::Reply(_) => {}
            },
            Event::Work { life, work, .. } if life == node.life() => node.handle_work(work, now),
            // One that was planned before an earlier one took its place says nothing.
            Event::Wake(_) if process.wake_at.is_none_or(|at| at > world_now) => return,
            Event::Wake(_) => {
                process.wake_at = None;
                if node.wants_loads_to_judge(now) {
                    node.handle_loads(self.members.loads(number), now);
                }
                node.handle_timeout(now);
            }
            _ => return,
        }
        self.after_node(number);
    }

    /// Does what a node wants done, and arms its timer.
    pub(super) fn after_node(&mut self, number: u16) {
        let process = &mut self.processes[usize::from(number)];
        for deed in process.node.take_deeds() {
            match deed {
                Deed::Begin(work, took) => {
                    let life = self.processes[usize::from(number)].node.life();
                    self.timeline.plan(self.now() + took, Event::Work { node: number, life, work });
                }
                Deed::Send(stream, message) => self.send_frame(number, stream, message),
                Deed::Changed => self.publish(number),
                Deed::Ask(to, model) => {
                    let ask = Message::LoadRequest(LoadRequest { model, device: to.device });
                    self.members.send(number, node_number(to.node), ask);
                }
                Deed::GiveBack(model) => self.give_back(number, model),
                Deed::Leave => self.leave(number),
            }
        }
        self.audit_loads(number);
        self.measure(number);
        let process = &mut self.processes[usize::from(number)];
        let local_now = process.clock.local(self.timeline.now());
        let Some(local) = process.node.poll_timeout(local_now) else {
            return;
        };
        let at = process.clock.world(local);
        if process.wake_at.is_none_or(|planned| at < planned) {
            process.wake_at = Some(at);
            self.timeline.plan(at, Event::Wake(Peer::Node(number)));
        }
    }

    /// A node gives a copy of a model back, as others hold it.
    fn give_back(&mut self, number: u16, model: u16) {
        self.audit_given_back(number, model);
        let now = self.processes[usize::from(number)].clock.local(self.now());
        self.processes[usize::from(number)].node.give_back(model, now);
    }

    /// A frame goes to the client, behind the ones before it. Where it cannot, its stream breaks for good.
    fn send_frame(&mut self, number: u16, stream: u64, message: Message) {
        let (from, to) = (Peer::Node(number), Peer::Client(client_of(stream)));
        let Some(state) = self.streams.get_mut(&stream).filter(|state| !state.is_broken) else {
            return;
        };
        let now = self.timeline.now();
        let packet = match self.members.network.stream(from, to) {
            Some(delay) => {
                state.arrives_after = state.arrives_after.max(now + delay) + Duration::from_nanos(1);
                Packet::Frame { stream, message }
            }
            None => {
                state.is_broken = true;
                state.arrives_after = now + IDLE_TIMEOUT;
                Packet::Broken { stream, reached: true }
            }
        };
        let packet = Box::new(packet);
        self.timeline.plan(state.arrives_after, Event::Packet { from, to, packet });
    }
}
