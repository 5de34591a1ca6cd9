//! A tiny device of lanes, a loader and a tokenizer on a virtual clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::message::Priority;
use shoal_protocol::{BatchId, Bytes, ErrorCode};

use super::super::super::config::CoreConfig;
use super::super::super::error::RequestError;
use super::super::super::event::{
    BatchItem, BatchRun, ItemTokens, ModelSpec, Output, RequestSpec, StageTimes, TokenizedPiece,
};
use super::super::super::ids::{LaneIndex, ModelKey, RequestKey};
use super::super::super::testing::origin;
use super::super::DeviceCore;

/// Bytes of text for each token.
const BYTES_PER_TOKEN: u64 = 4;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Finished(StageTimes),
    Failed(RequestError),
    Cancelled,
}

/// How the device treats one model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behaviour {
    pub(super) tokens_per_thread_s: f64,
    pub(super) load: Duration,
    pub(super) bytes: u64,
    pub(super) load_fails: bool,
    /// Batches that hold an item of this many tokens never end.
    pub(super) poison_tokens: Option<u32>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            tokens_per_thread_s: 10_000.0,
            load: Duration::from_millis(200),
            bytes: 100,
            load_fails: false,
            poison_tokens: None,
        }
    }
}

#[derive(Debug)]
pub(super) enum Event {
    Tokenized { request: RequestKey, items: Vec<ItemTokens>, bytes_left: Option<u64> },
    BatchDone(BatchId),
    LaneReplaced(LaneIndex),
    LoadEnded(ModelKey),
    Evicted(ModelKey),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Waiting,
    Running,
    Delivered,
}

#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) outcome: Option<Outcome>,
    pub(super) ended_at: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) items: BTreeMap<u32, Item>,
}

pub(super) struct VirtualDevice {
    pub(super) core: DeviceCore,
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) requests: BTreeMap<RequestKey, Tracked>,
    pub(super) unfinished: BTreeSet<RequestKey>,
    /// Every batch that was started, with its time.
    pub(super) runs: Vec<(Instant, BatchRun)>,
    /// Outputs that are not about one request, with their time.
    pub(super) signals: Vec<(Instant, Output)>,
    pub(super) models: Vec<Behaviour>,
    pub(super) resident: BTreeMap<ModelKey, u64>,
    pub(super) loading: Option<ModelKey>,
    pub(super) running: BTreeMap<LaneIndex, (BatchRun, Vec<BatchItem>)>,
    pub(super) events: BTreeMap<(Instant, u64), Event>,
    pub(super) sequence: u64,
    pub(super) tokenize: Duration,
    pub(super) piece_items: usize,
    pub(super) overshot: Option<ModelKey>,
}

impl VirtualDevice {
    pub(super) fn new(config: CoreConfig) -> Self {
        let start = origin();
        Self {
            core: DeviceCore::new(config),
            now: start,
            start,
            requests: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            runs: Vec::new(),
            signals: Vec::new(),
            models: Vec::new(),
            resident: BTreeMap::new(),
            loading: None,
            running: BTreeMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            tokenize: Duration::ZERO,
            piece_items: usize::MAX,
            overshot: None,
        }
    }

    /// A device of two threads with one model that is already resident and measured at both widths.
    pub(super) fn warm(config: CoreConfig) -> (Self, ModelKey) {
        let mut device = Self::new(CoreConfig { threads: 2, ..config });
        let model = device.model(Behaviour::default());
        device.warm_up(model);
        (device, model)
    }

    /// Loads a model and runs it until its speed is known.
    pub(super) fn warm_up(&mut self, model: ModelKey) {
        for tokens in [vec![50; 16], vec![50]] {
            self.submit(model, Priority::Interactive, None, &tokens).expect("an idle device admits");
            self.run_until_idle();
        }
        self.runs.clear();
        self.signals.clear();
    }

    pub(super) fn model(&mut self, behaviour: Behaviour) -> ModelKey {
        self.register(behaviour, ModelSpec { bytes_estimate: Bytes(behaviour.bytes), pinned: false })
    }

    pub(super) fn register(&mut self, behaviour: Behaviour, spec: ModelSpec) -> ModelKey {
        self.models.push(behaviour);
        self.core.register_model(spec)
    }

    pub(super) fn behave(&mut self, model: ModelKey, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.models[model.index()]);
    }

    /// Every request is tokenized in pieces of so many texts, each of which takes so long.
    pub(super) fn tokenize_takes(&mut self, time: Duration, piece_items: usize) {
        self.tokenize = time;
        self.piece_items = piece_items;
    }

    /// Gate 1 now, gate 2 once tokenized. Items are numbered from 0.
    pub(super) fn submit(
        &mut self,
        model: ModelKey,
        priority: Priority,
        time: Option<Duration>,
        tokens: &[u32],
    ) -> Result<RequestKey, RequestError> {
        let deadline = time.map(|time| self.now + time);
        let bytes = tokens.iter().map(|tokens| u64::from(*tokens) * BYTES_PER_TOKEN).sum();
        let admitted = self.core.handle_request(RequestSpec { model, priority, bytes, deadline }, self.now);
        if let Ok(request) = admitted {
            let items: Vec<ItemTokens> =
                (0..).zip(tokens).map(|(index, tokens)| ItemTokens { index, tokens: *tokens }).collect();
            let tracked = Tracked {
                outcome: None,
                ended_at: self.now,
                deadline,
                items: items.iter().map(|item| (item.index, Item::Waiting)).collect(),
            };
            assert!(self.requests.insert(request, tracked).is_none(), "a key names two requests");
            self.unfinished.insert(request);
            self.pump();
            self.tokenize(request, &items);
        }
        self.pump();
        admitted
    }

    fn tokenize(&mut self, request: RequestKey, items: &[ItemTokens]) {
        let mut ready_at = self.now;
        let mut rest = items;
        loop {
            let (piece, left) = rest.split_at(rest.len().min(self.piece_items));
            rest = left;
            let bytes: u64 = rest.iter().map(|item| u64::from(item.tokens) * BYTES_PER_TOKEN).sum();
            let bytes_left = (!rest.is_empty()).then_some(bytes);
            ready_at += self.tokenize;
            if self.tokenize.is_zero() {
                self.core.handle_tokenized(request, TokenizedPiece { items: piece, bytes_left }, self.now);
                self.pump();
            } else {
                let items = piece.to_vec();
                self.at(ready_at, Event::Tokenized { request, items, bytes_left });
            }
            if rest.is_empty() {
                return;
            }
        }
    }

    pub(super) fn cancel(&mut self, request: RequestKey) {
        if self.requests[&request].outcome.is_none() {
            self.end(request, Outcome::Cancelled);
        }
        self.core.handle_cancel(request, self.now);
        self.pump();
    }

    pub(super) fn outcome(&self, request: RequestKey) -> Option<&Outcome> {
        self.requests[&request].outcome.as_ref()
    }

    pub(super) fn failure(&self, request: RequestKey) -> &RequestError {
        match self.outcome(request) {
            Some(Outcome::Failed(error)) => error,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    pub(super) fn is_finished(&self, request: RequestKey) -> bool {
        matches!(self.outcome(request), Some(Outcome::Finished(_)))
    }

    /// Lets `time` pass, with everything that happens in it.
    pub(super) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.next_at().is_some_and(|at| at <= until) {
            self.step();
        }
        self.now = until;
    }

    /// Until nothing is left to happen but timers of an idle device; bounded, so that nothing can spin.
    pub(super) fn run_until_idle(&mut self) {
        for _ in 0..100_000 {
            let quiet = self.events.is_empty() && self.running.is_empty();
            if quiet && self.unfinished.is_empty() {
                return;
            }
            assert!(self.next_at().is_some(), "stuck: work is left and nothing will happen");
            self.step();
        }
        panic!("spinning: {:?}", self.core.poll_timeout());
    }

    /// A lane gives a running batch back with an error.
    pub(super) fn fail_batch(&mut self, batch: BatchId) {
        self.running.retain(|_, (run, _)| run.batch != batch);
        self.events.retain(|_, event| !matches!(event, Event::BatchDone(done) if *done == batch));
        self.core.handle_batch_failed(batch, &RequestError::DeviceFailed, self.now);
        self.pump();
    }

    /// The model will measure `bytes` once loaded, whatever was estimated; only then may the budget be exceeded,
    /// until it is evicted again.
    pub(super) fn overshoot(&mut self, model: ModelKey, bytes: u64) {
        self.models[model.index()].bytes = bytes;
        self.overshot = Some(model);
    }

    /// Says that the process stood still for `time`: lanes as well as timers.
    pub(super) fn suspend(&mut self, time: Duration) {
        let events = std::mem::take(&mut self.events);
        self.events =
            events.into_iter().map(|((at, sequence), event)| ((at + time, sequence), event)).collect();
        self.now += time;
        self.core.handle_timeout(self.now);
        self.pump();
    }

    pub(super) fn handle(&mut self, event: impl FnOnce(&mut DeviceCore, Instant)) {
        event(&mut self.core, self.now);
        self.pump();
    }

    fn next_at(&self) -> Option<Instant> {
        let event = self.events.keys().next().map(|(at, _)| *at);
        let timeout = self.core.poll_timeout().map(|(at, _)| at);
        event.into_iter().chain(timeout).min()
    }

    fn step(&mut self) {
        let Some(at) = self.next_at() else { return };
        self.now = self.now.max(at);
        match self.events.first_entry().filter(|entry| entry.key().0 <= at) {
            Some(entry) => {
                let event = entry.remove();
                self.handle_event(event);
            }
            None => self.core.handle_timeout(self.now),
        }
        self.pump();
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Tokenized { request, items, bytes_left } => {
                self.core.handle_tokenized(request, TokenizedPiece { items: &items, bytes_left }, self.now);
            }
            Event::LaneReplaced(lane) => self.core.handle_lane_replaced(lane, self.now),
            Event::BatchDone(batch) => self.finish_batch(batch),
            Event::Evicted(model) => {
                self.resident.remove(&model).expect("evicted twice");
                self.core.handle_evicted(model, self.now);
            }
            Event::LoadEnded(model) => {
                let Behaviour { bytes, load_fails, .. } = self.models[model.index()];
                assert_eq!(self.loading.take(), Some(model));
                if load_fails {
                    self.resident.remove(&model);
                    let reason = Arc::from("no such file");
                    self.core.handle_load_failed(model, ErrorCode::ModelBroken, reason, self.now);
                } else {
                    self.resident.insert(model, bytes);
                    self.core.handle_loaded(model, Bytes(bytes), self.now);
                }
            }
        }
    }

    fn finish_batch(&mut self, batch: BatchId) {
        self.running.retain(|_, (run, _)| run.batch != batch);
        let mut last_row = None;
        for item in self.core.handle_batch_done(batch, self.now) {
            assert!(last_row < Some(item.row), "rows in order");
            last_row = Some(item.row);
            let request = self.requests.get_mut(&item.request).expect("known");
            assert_eq!(request.outcome, None, "delivered after the end");
            let state = request.items.insert(item.index, Item::Delivered);
            assert_eq!(state, Some(Item::Running), "delivered what was not running, or twice");
        }
    }

    pub(super) fn at(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }
}
