//! Everything that one client decides: where its calls' attempts go, and what follows from what became of them.

use std::collections::BTreeMap;
use std::time::Instant;

use shoal_protocol::message::{Input, LoadRecord, LoadReply, NodeFacts};
use shoal_protocol::{Message, NodeId};

use super::attempts::{AttemptFailure, AttemptKey, CancelReason};
use super::call::Call;
use super::dispatch::Dispatch;
use super::error::ClientError;
use super::item::ItemResult;
use super::member::{Life, MemberState};
use super::router::{Probe, Router};
use super::shared::Shared;
use super::spec::{CallSpec, Submit, Summary};
use super::view::View;

/// Names a call of a [`ClientCore`]; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

/// A client without its sockets: the one thing that drivers, simulations and benches drive.
///
/// For each call the driver repeats, in this order, until [`poll_outcome`](Self::poll_outcome) gives something, and then
/// [ends](Self::end_call) it:
///
/// 1. while [`wants_input`](Self::wants_input): [`handle_input`](Self::handle_input),
///    [`handle_input_end`](Self::handle_input_end), or, where the source has nothing now,
///    [`handle_input_pause`](Self::handle_input_pause) and on to the next step;
/// 2. [`poll_cancel`](Self::poll_cancel): drop these attempts; [`poll_submit`](Self::poll_submit): send these;
///    [`poll_probe`](Self::poll_probe): send these, too;
/// 3. [`poll_item`](Self::poll_item), as far as the application takes results: what it does not take holds back input;
/// 4. feed what happened: [`handle_sent`](Self::handle_sent), [`handle_frame`](Self::handle_frame),
///    [`handle_failed`](Self::handle_failed), [`handle_reply`](Self::handle_reply); and, only when nothing more is there
///    to read, a passed [`poll_timeout`](Self::poll_timeout) to [`handle_timeout`](Self::handle_timeout).
///
/// News of the mesh may come at any time; after [`handle_member`](Self::handle_member), [`handle_facts`](Self::handle_facts)
/// and [`handle_reply`](Self::handle_reply) every call may have something to send.
///
/// Every item of a call ends in exactly one result; or the call fails as a whole, and only the results before the first
/// item without one are given. What is asked of a call that has ended is answered with nothing.
#[derive(Debug)]
pub struct ClientCore {
    dispatch: Dispatch,
    calls: BTreeMap<CallId, Call>,
    calls_made: u64,
}

impl ClientCore {
    /// A client that knows what `view` says. Chance comes from `seed`.
    #[must_use]
    pub fn new(view: View, seed: u64) -> Self {
        let dispatch = Dispatch { view, router: Router::new(seed), shared: Shared::default() };
        Self { dispatch, calls: BTreeMap::new(), calls_made: 0 }
    }

    /// What the client knows of the mesh.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.dispatch.view
    }

    /// A node's own record, whole; whether it was news.
    pub fn handle_facts(&mut self, facts: &NodeFacts, now: Instant) -> bool {
        self.with_lives(facts.node, now, |view| view.handle_facts(facts, now))
    }

    /// What membership says about a life of a node; whether it changed anything.
    pub fn handle_member(&mut self, life: Life, state: MemberState, now: Instant) -> bool {
        self.with_lives(life.node, now, |view| view.handle_member(life, state, now))
    }

    /// Nobody who is asked knows the node any more: what it said is void. Its life may still be heard of again.
    pub fn handle_forgotten(&mut self, node: NodeId) {
        self.dispatch.view.handle_forgotten(node);
    }

    /// Tells the calls when the news ended a life of the node.
    fn with_lives(&mut self, node: NodeId, now: Instant, news: impl FnOnce(&mut View) -> bool) -> bool {
        let before = self.dispatch.view.living(node);
        let is_news = news(&mut self.dispatch.view);
        if before.is_some() && self.dispatch.view.living(node) != before {
            for call in self.calls.values_mut() {
                call.handle_gone(node, &mut self.dispatch, now);
            }
        }
        is_news
    }

    /// This node is the one that is asked where facts say nothing, and that forwards, from now on.
    pub fn handle_entry(&mut self, entry: NodeId) {
        self.dispatch.view.handle_entry(entry);
    }

    /// A connection to the node was made.
    pub fn handle_path(&mut self, node: NodeId, now: Instant) {
        self.dispatch.view.handle_path(node, now);
    }

    /// A device's load, as gossiped; whether it was news.
    pub fn handle_load(&mut self, node: NodeId, record: &LoadRecord, now: Instant) -> bool {
        self.dispatch.view.handle_load(node, record, now)
    }

    /// The next probe to send. One that is not sent is one that is not answered.
    pub fn poll_probe(&mut self, now: Instant) -> Option<Probe> {
        let probe = self.dispatch.router.poll_probe()?;
        self.dispatch.view.handle_probe(probe.to, now);
        Some(probe)
    }

    /// An answer to a probe.
    pub fn handle_reply(&mut self, from: NodeId, reply: &LoadReply, now: Instant) {
        let Dispatch { view, router, .. } = &mut self.dispatch;
        router.handle_reply(view, from, reply, now);
    }

    /// Starts a call that has taken no input yet.
    pub fn start_call(&mut self, spec: CallSpec, now: Instant) -> CallId {
        let id = CallId(self.calls_made);
        self.calls_made += 1;
        self.calls.insert(id, Call::new(spec, now));
        id
    }

    /// Forgets a call. The driver drops what of it is still out.
    pub fn end_call(&mut self, id: CallId) {
        self.calls.remove(&id);
    }

    /// The calls that were not ended, oldest first.
    pub fn calls(&self) -> impl Iterator<Item = CallId> {
        self.calls.keys().copied()
    }

    /// Whether the next input may be given now.
    #[must_use]
    pub fn wants_input(&self, id: CallId) -> bool {
        self.calls.get(&id).is_some_and(Call::wants_input)
    }

    /// Whether a part of the call waits for a place: news of the mesh and answers to probes are for it.
    #[must_use]
    pub fn is_placing(&self, id: CallId) -> bool {
        self.calls.get(&id).is_some_and(Call::is_placing)
    }

    /// The next text.
    pub fn handle_input(&mut self, id: CallId, input: Input) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.handle_input(input, &self.dispatch.shared);
        }
    }

    /// There are no more texts for now. What is open is sent if nothing else of the call is under way: a slow source's
    /// texts do not wait for those after them, and a fast one's still travel together (as Nagle's rule has it, RFC 896).
    pub fn handle_input_pause(&mut self, id: CallId) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.handle_input_pause();
        }
    }

    /// There are no more texts.
    pub fn handle_input_end(&mut self, id: CallId) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.handle_input_end();
        }
    }

    /// The next attempt of the call to send.
    pub fn poll_submit(&mut self, id: CallId, now: Instant) -> Option<Submit> {
        self.calls.get_mut(&id)?.poll_submit(&mut self.dispatch, now)
    }

    /// An attempt that is superseded or no longer wanted: stop and forget its stream.
    pub fn poll_cancel(&mut self, id: CallId) -> Option<(AttemptKey, CancelReason)> {
        self.calls.get_mut(&id)?.poll_cancel()
    }

    /// The next result, in input order. Results that are not taken hold back input once enough are held.
    pub fn poll_item(&mut self, id: CallId) -> Option<(u64, ItemResult)> {
        self.calls.get_mut(&id)?.poll_item()
    }

    /// The transport took the whole request of an attempt.
    pub fn handle_sent(&mut self, id: CallId, key: AttemptKey, now: Instant) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.handle_sent(key, now);
        }
    }

    /// A frame of an attempt. Frames of an attempt that is over are dropped.
    pub fn handle_frame(&mut self, id: CallId, key: AttemptKey, message: Message, now: Instant) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.handle_frame(key, message, &mut self.dispatch, now);
        }
    }

    /// An attempt ended without a terminal frame.
    pub fn handle_failed(&mut self, id: CallId, key: AttemptKey, failure: AttemptFailure, now: Instant) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.handle_failed(key, failure, &mut self.dispatch, now);
        }
    }

    /// How the call ended, once it has and the last item was taken.
    #[must_use]
    pub fn poll_outcome(&self, id: CallId) -> Option<Result<&Summary, &ClientError>> {
        self.calls.get(&id)?.poll_outcome()
    }

    /// Items of the call answered, and items given so far.
    #[must_use]
    pub fn items(&self, id: CallId) -> (u64, u64) {
        self.calls.get(&id).map_or((0, 0), Call::items)
    }

    /// When [`Self::handle_timeout`] is due next for this call, and why.
    #[must_use]
    pub fn poll_timeout(&self, id: CallId) -> Option<(Instant, &'static str)> {
        let probes = self.dispatch.router.poll_timeout();
        self.calls.get(&id)?.poll_timeout().into_iter().chain(probes).min()
    }

    /// Time passed. Feed frames that are already there first: they may disprove a silence.
    pub fn handle_timeout(&mut self, id: CallId, now: Instant) {
        self.dispatch.router.handle_timeout(now);
        if let Some(call) = self.calls.get_mut(&id) {
            call.handle_timeout(&mut self.dispatch, now);
        }
    }
}
