//! Events at clients, and what clients do to the world.

use std::time::{Duration, Instant};

use rand::RngExt;
use shoal_mesh::core::{AttemptFailure, CallId, Probe};
use shoal_mesh::simulation::{Network, Peer, node_id, node_number};
use shoal_protocol::message::{Input, TaskRequest};

use super::super::answer::model_number;
use super::super::bug::Bug;
use super::super::client::{Act, NewCall};
use super::super::node::Node;
use super::super::policy::{Cost, cheapest};
use super::super::why::{Reasoned, Sent};
use super::{Event, Life, Packet, Process, Stream, World};

/// A node that died this long ago has no connection any more: it must be dialed.
const CONNECTION_LIFE: Duration = Duration::from_secs(5);
/// A dial that is not answered fails after this time.
const DIAL_WAIT: Duration = Duration::from_millis(300);
/// A client that waits in vain for a dead node sends it nothing new later than this.
const BIND_TO_DEAD_MAX: Duration = Duration::from_secs(1);
/// Nobody does so later than this after the death: the time in which membership finds out and tells, and some.
pub(super) const DEAD_TO_ALL: Duration = Duration::from_secs(8);

impl World {
    /// The next request of a client's application.
    pub(super) fn arrival(&mut self, client: u16) {
        let now = self.now();
        if now >= self.ends_at {
            return;
        }
        let gap = self.workload.gap(&mut self.chance);
        self.timeline.plan(now + gap, Event::Arrival(client));
        let wanted = self.workload.request(&mut self.chance);
        self.calls_made += 1;
        let (id, deadline) = (self.calls_made, now + self.scenario.deadline);
        self.history.invoked(id, wanted.items.len(), deadline, now);
        if now >= self.opens_at + self.scenario.warm_up
            && let Some(ledger) = &mut self.ledger
        {
            ledger.made(id, wanted.shape, now);
        }
        let seed = self.chance.random();
        let call = NewCall { id, model: wanted.model, items: wanted.items, deadline, seed };
        let call = self.clients[usize::from(client)].handle_call(call, now);
        self.poll_client(client, call);
    }

    /// A packet reaches a client.
    pub(super) fn at_client(&mut self, client: u16, from: Peer, packet: Packet) {
        let now = self.now();
        let driver = &mut self.clients[usize::from(client)];
        let Peer::Node(node) = from else {
            return;
        };
        let calls = match packet {
            Packet::Frame { stream, message } => {
                self.deaths.handle_used(client, node, now);
                if message.kind().is_terminal() {
                    self.streams.remove(&stream);
                }
                Vec::from_iter(driver.handle_frame(stream, message, now))
            }
            Packet::Broken { stream, reached } => {
                let failure = match reached {
                    true => AttemptFailure::Lost("connection lost".to_owned()),
                    false => AttemptFailure::Unreachable("no answer to the dial".to_owned()),
                };
                self.streams.remove(&stream);
                Vec::from_iter(self.clients[usize::from(client)].handle_broken(stream, failure, now))
            }
            Packet::Told { stream, message } => match self.told(client, stream, message) {
                true => self.clients[usize::from(client)].calls(),
                false => Vec::new(),
            },
            Packet::Reply(reply) => {
                driver.handle_reply(node, &reply, now);
                driver.placing()
            }
            Packet::Request { .. } | Packet::Stop { .. } | Packet::Probe(_) | Packet::Follow { .. } => {
                Vec::new()
            }
        };
        for call in calls {
            self.poll_client(client, call);
        }
    }

    pub(super) fn client_timeout(&mut self, client: u16) {
        // One that was planned before an earlier one took its place says nothing.
        if self.client_wakes[usize::from(client)].take_if(|at| *at <= self.timeline.now()).is_none() {
            return;
        }
        while let Some(call) = self.clients[usize::from(client)].handle_timeout(self.timeline.now()) {
            self.poll_client(client, call);
        }
        self.arm_client(client);
    }

    /// Does what a client's call wants done.
    fn poll_client(&mut self, client: u16, call: CallId) {
        let now = self.now();
        let policy = self.scenario.policy;
        let misled = self.misled(client);
        let (processes, network) = (&self.processes, &self.members.network);
        let choose = |request: &TaskRequest| {
            let open = open_nodes(processes, network, client, now);
            let model = model_number(&request.model)?;
            misled.or_else(|| policy.choose(open, model, tokens_of(request)))
        };
        for act in self.clients[usize::from(client)].poll(call, now, choose) {
            self.act(client, act);
        }
        self.arm_client(client);
    }

    /// Where a planted fault sends the attempts of a client: to the first of those that died.
    fn misled(&self, client: u16) -> Option<u16> {
        let (bug, now) = (self.scenario.bug?, self.now());
        let is_it = |process: &&Process| match (bug, &process.life) {
            (Bug::BindsToTheDead, Life::Dead(since)) => now.saturating_duration_since(*since) > DEAD_TO_ALL,
            (Bug::NeverDoubts, Life::Dead(_)) => {
                self.clients[usize::from(client)].nodes().contains(&node_id(process.node.number))
            }
            _ => false,
        };
        self.processes.iter().find(is_it).map(|process| process.node.number)
    }

    /// Compares a choice with the best ones, where somebody wants to know.
    fn note_choice(&mut self, client: u16, node: u16, request: &TaskRequest) {
        let at = self.now();
        let (Some(ledger), Some(model)) = (&mut self.ledger, model_number(&request.model)) else {
            return;
        };
        let tokens = tokens_of(request);
        let open = || open_nodes(&self.processes, &self.members.network, client, at);
        let process = &self.processes[usize::from(node)];
        let chosen = Cost::at(&process.node, model, tokens, process.clock.local(at));
        let Some((best, _)) = cheapest(open(), model, tokens, false) else {
            return;
        };
        let holder = cheapest(open(), model, tokens, true).map_or(best, |(cost, _)| cost);
        let id = u128::from_be_bytes(request.request_id.0) as u64;
        let reason = Reasoned::decode(&request.decision);
        ledger.sent(id, Sent { at, chosen, holder, best, reason });
    }

    fn arm_client(&mut self, client: u16) {
        let planned = &mut self.client_wakes[usize::from(client)];
        if let Some(at) = self.clients[usize::from(client)].poll_timeout()
            && planned.is_none_or(|planned| at < planned)
        {
            *planned = Some(at);
            self.timeline.plan(at, Event::Wake(Peer::Client(client)));
        }
    }

    fn act(&mut self, client: u16, act: Act) {
        let now = self.now();
        match act {
            Act::Open { stream, node, request } => {
                self.note_choice(client, node, &request);
                self.open_stream(client, stream, node, request);
            }
            Act::Stop { stream, node } => {
                self.streams.remove(&stream);
                let (from, to) = (Peer::Client(client), Peer::Node(node));
                if let Some(delay) = self.members.network.stream(from, to) {
                    let packet = Box::new(Packet::Stop { stream });
                    self.timeline.plan(now + delay, Event::Packet { from, to, packet });
                }
            }
            Act::Ask(Probe { to, probe }) => {
                let to = Peer::Node(node_number(to));
                self.send_datagram(Peer::Client(client), to, Packet::Probe(probe));
            }
            Act::Give { call, index, item } => self.history.given(call, index, &item, now),
            Act::End { call, outcome } => {
                let may_overload = self.scenario.may_overload;
                let (processes, network) = (&self.processes, &self.members.network);
                let serves = |process: &Process, since| {
                    let (node, own) = (Peer::Node(process.node.number), Peer::Client(client));
                    process.well_since.is_some_and(|well| well <= since)
                        && network.is_open(own, node)
                        && network.is_open(node, own)
                };
                let excuse = |since| may_overload || !processes.iter().any(|process| serves(process, since));
                self.history.ended(call, outcome.as_ref(), excuse, now);
                if let Some(ledger) = self.ledger.as_mut().filter(|_| outcome.is_ok()) {
                    ledger.answered(call, now);
                }
            }
        }
    }

    fn open_stream(&mut self, client: u16, stream: u64, node: u16, request: TaskRequest) {
        let now = self.now();
        let (from, to) = (Peer::Client(client), Peer::Node(node));
        let process = &self.processes[usize::from(node)];
        let (generation, has_left) = (process.generation, process.has_left);
        let state = Stream { node, generation, arrives_after: now, is_broken: false };
        self.streams.insert(stream, state);
        let dead_since = match process.life {
            Life::Dead(since) if !has_left => Some(since),
            Life::Dead(_) | Life::Running | Life::Stopped(_) => None,
        };
        self.deaths.handle_used(client, node, now);
        self.audit_bind(client, node, dead_since);
        if has_left || dead_since.is_some_and(|since| now.saturating_duration_since(since) > CONNECTION_LIFE)
        {
            let packet = Box::new(Packet::Broken { stream, reached: false });
            self.timeline.plan(now + DIAL_WAIT, Event::Packet { from: to, to: from, packet });
        } else if let Some(delay) = self.members.network.stream(from, to) {
            let packet = Box::new(Packet::Request { stream, request });
            self.timeline.plan(now + delay, Event::Packet { from, to, packet });
        }
    }

    /// Nobody binds to the dead, once it could know. Where no two others live, there may be nowhere else to go: for a
    /// second attempt, or after the only living node refused.
    fn audit_bind(&mut self, client: u16, node: u16, dead_since: Option<Instant>) {
        let now = self.now();
        let elsewhere = self.processes.iter().filter(|process| process.well_since.is_some()).count() > 1;
        let waits_since = self.deaths.handle_attempt(client, node, now);
        let longer = |since: Option<Instant>, max| {
            since.map(|since| now.saturating_duration_since(since)).filter(|age| elsewhere && *age > max)
        };
        if let Some(age) = longer(dead_since, DEAD_TO_ALL) {
            self.history.violated(now, format!("client {client} binds to node {node}, dead for {age:?}"));
        }
        if let Some(age) = longer(waits_since, BIND_TO_DEAD_MAX) {
            let what = format!("client {client} binds to node {node}, where it waits in vain since {age:?}");
            self.history.violated(now, what);
        }
    }
}

/// The nodes that could serve a client, each with its own time.
fn open_nodes<'a>(
    processes: &'a [Process],
    network: &'a Network,
    client: u16,
    now: Instant,
) -> impl Iterator<Item = (&'a Node, Instant)> + Clone {
    let is_open = move |process: &&Process| {
        let (node, own) = (Peer::Node(process.node.number), Peer::Client(client));
        process.is_running()
            && process.well_since.is_some()
            && network.is_open(own, node)
            && network.is_open(node, own)
    };
    let open = processes.iter().filter(is_open);
    open.map(move |process| (&process.node, process.clock.local(now)))
}

fn tokens_of(request: &TaskRequest) -> u64 {
    let tokens = |item: &Input| match item {
        Input::TokenIds(ids) => ids.len() as u64,
        Input::Text(text) => text.len() as u64,
    };
    request.items.iter().map(tokens).sum()
}
