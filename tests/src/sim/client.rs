//! A client process: the driver that production writes with tasks, here with planned events. Every decision is
//! [`ClientCore`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use shoal_mesh::core::{
    AttemptFailure, AttemptKey, CallId, CallSpec, ClientCore, ClientError, FeedBroken, Following, ItemResult,
    Probe, Summary, View, WhenOverloaded,
};
use shoal_mesh::simulation::{node_id, node_number};
use shoal_protocol::message::{FactsDigest, Input, LoadReply, Priority, Task, TaskRequest};
use shoal_protocol::{Message, NodeId, RequestId};

use super::answer::model_name;
use super::policy::Policy;

/// Bits of a stream's number that count the streams of one client.
const STREAM_BITS: u32 = 48;

/// The client that opened a stream.
pub(super) fn client_of(stream: u64) -> u16 {
    (stream >> STREAM_BITS) as u16
}

/// What a client does to the world.
#[derive(Debug)]
pub(super) enum Act {
    /// Open a stream to a node and send the request.
    Open { stream: u64, node: u16, request: TaskRequest },
    /// Stop a stream, because the node was silent or because its answer is not wanted any more.
    Stop { stream: u64, node: u16 },
    /// Ask a device for its load.
    Ask(Probe),
    /// Give an item to the application.
    Give { call: u64, index: u64, item: ItemResult },
    /// Tell the application how its call ended.
    End { call: u64, outcome: Result<Summary, ClientError> },
}

#[derive(Debug)]
struct Running {
    /// The application's number for it.
    number: u64,
    inputs: std::vec::IntoIter<Input>,
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    call: CallId,
    key: AttemptKey,
    node: u16,
}

/// One client with its calls.
#[derive(Debug)]
pub(super) struct Client {
    number: u16,
    core: ClientCore,
    following: Following,
    calls: BTreeMap<CallId, Running>,
    due: BTreeSet<(Instant, CallId)>,
    streams: BTreeMap<u64, Attempt>,
    by_key: BTreeMap<(CallId, AttemptKey), u64>,
    streams_opened: u64,
    /// Probes that it sent.
    pub(super) probes: u64,
    acts: Vec<Act>,
}

/// What a call asks for.
pub(super) struct NewCall {
    pub(super) id: u64,
    pub(super) model: u16,
    pub(super) items: Vec<Input>,
    pub(super) deadline: Instant,
    pub(super) seed: u64,
}

impl Client {
    /// A client that knows nothing yet. One of a baseline never will: it is told where to send.
    pub(super) fn new(number: u16, policy: Policy, seed: u64) -> Self {
        let view = match policy {
            Policy::Router => View::default(),
            Policy::Omniscient | Policy::HoldersFirst => View::of_entry(NodeId::default()),
        };
        Self {
            number,
            core: ClientCore::new(view, seed),
            following: Following::default(),
            calls: BTreeMap::new(),
            due: BTreeSet::new(),
            streams: BTreeMap::new(),
            by_key: BTreeMap::new(),
            streams_opened: 0,
            probes: 0,
            acts: Vec::new(),
        }
    }

    /// Calls and streams that are not over.
    pub(super) fn in_flight(&self) -> usize {
        self.calls.len() + self.streams.len()
    }

    /// The calls that are not over.
    pub(super) fn calls(&self) -> Vec<CallId> {
        self.calls.keys().copied().collect()
    }

    /// Those of them that wait for a place: answers to probes are for them.
    pub(super) fn placing(&self) -> Vec<CallId> {
        self.calls.keys().copied().filter(|call| self.core.is_placing(*call)).collect()
    }

    /// The nodes that it holds for alive.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.core.view().nodes()
    }

    pub(super) fn handle_call(&mut self, new: NewCall, now: Instant) -> CallId {
        let spec = CallSpec {
            request_id: RequestId(u128::from(new.id).to_be_bytes()),
            model: model_name(new.model),
            task: Task::default(),
            priority: Priority::Interactive,
            deadline: Some(new.deadline),
            trace: None,
            when_overloaded: WhenOverloaded::Wait,
            seed: new.seed,
        };
        let call = self.core.start_call(spec, now);
        let running = Running { number: new.id, inputs: new.items.into_iter(), due: None };
        self.calls.insert(call, running);
        call
    }

    /// Its first word to a node that it follows from now on.
    pub(super) fn handle_follow(&mut self) -> FactsDigest {
        self.following.handle_follow()
    }

    /// The records that it holds.
    pub(super) fn digest(&self) -> FactsDigest {
        self.following.digest()
    }

    /// The node that it follows told something.
    pub(super) fn handle_told(&mut self, message: Message, now: Instant) -> Result<(), FeedBroken> {
        self.following.handle_message(message, &mut self.core, now).map(drop)
    }

    /// A device's load came as it was asked for.
    pub(super) fn handle_reply(&mut self, node: u16, reply: &LoadReply, now: Instant) {
        self.core.handle_reply(node_id(node), reply, now);
    }

    /// A frame came. Gives the call that must be polled.
    pub(super) fn handle_frame(&mut self, stream: u64, message: Message, now: Instant) -> Option<CallId> {
        let attempt = *self.streams.get(&stream)?;
        if message.kind().is_terminal() {
            self.close(stream);
        }
        self.core.handle_frame(attempt.call, attempt.key, message, now);
        Some(attempt.call)
    }

    /// A stream broke, or could not be opened. Gives the call that must be polled.
    pub(super) fn handle_broken(
        &mut self,
        stream: u64,
        failure: AttemptFailure,
        now: Instant,
    ) -> Option<CallId> {
        let attempt = self.close(stream)?;
        self.core.handle_failed(attempt.call, attempt.key, failure, now);
        Some(attempt.call)
    }

    /// When a call wants to be told the time.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Tells the time to the first call that is due. Gives the call that must be polled.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<CallId> {
        let (_, call) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.core.handle_timeout(call, now);
        Some(call)
    }

    /// Does what a call wants done. An attempt goes where the client decided, unless `choose` overrules it.
    pub(super) fn poll(
        &mut self,
        call: CallId,
        now: Instant,
        mut choose: impl FnMut(&TaskRequest) -> Option<u16>,
    ) -> Vec<Act> {
        while self.core.wants_input(call) {
            match self.calls.get_mut(&call).and_then(|running| running.inputs.next()) {
                Some(input) => self.core.handle_input(call, input),
                None => self.core.handle_input_end(call),
            }
        }
        while let Some((key, _)) = self.core.poll_cancel(call) {
            if let Some(stream) = self.by_key.get(&(call, key)).copied()
                && let Some(attempt) = self.close(stream)
            {
                self.acts.push(Act::Stop { stream, node: attempt.node });
            }
        }
        while let Some(submit) = self.core.poll_submit(call, now) {
            let node = choose(&submit.request).unwrap_or(node_number(submit.to.next_hop()));
            let stream = self.open(Attempt { call, key: submit.key, node });
            self.core.handle_sent(call, submit.key, now);
            self.acts.push(Act::Open { stream, node, request: submit.request });
        }
        while let Some(probe) = self.core.poll_probe(now) {
            self.probes += 1;
            self.acts.push(Act::Ask(probe));
        }
        self.finish(call);
        std::mem::take(&mut self.acts)
    }

    /// Gives the application what is there for it, and notes when the call wants to be told the time.
    fn finish(&mut self, call: CallId) {
        let Some(running) = self.calls.get_mut(&call) else {
            return;
        };
        let number = running.number;
        while let Some((index, item)) = self.core.poll_item(call) {
            self.acts.push(Act::Give { call: number, index, item });
        }
        if let Some(before) = running.due.take() {
            self.due.remove(&(before, call));
        }
        if let Some(outcome) = self.core.poll_outcome(call) {
            let outcome = outcome.cloned().map_err(Clone::clone);
            self.acts.push(Act::End { call: number, outcome });
            self.core.end_call(call);
            self.calls.remove(&call);
            return;
        }
        running.due = self.core.poll_timeout(call).map(|(at, _)| at);
        self.due.extend(running.due.map(|at| (at, call)));
    }

    fn open(&mut self, attempt: Attempt) -> u64 {
        self.streams_opened += 1;
        let stream = u64::from(self.number) << STREAM_BITS | self.streams_opened;
        self.streams.insert(stream, attempt);
        self.by_key.insert((attempt.call, attempt.key), stream);
        stream
    }

    fn close(&mut self, stream: u64) -> Option<Attempt> {
        let attempt = self.streams.remove(&stream)?;
        self.by_key.remove(&(attempt.call, attempt.key));
        Some(attempt)
    }
}
