//! A node: the shell that production writes with actors and threads, here with planned events. Every decision is
//! [`DeviceCore`]'s and [`Placement`]'s.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use shoal::core::{
    BatchRun, Departure, DeviceCore, ItemTokens, LaneIndex, ModelKey, ModelSpec, Output, Placement,
    RequestError, RequestKey, RequestSpec, TokenizedPiece,
};
use shoal_mesh::News;
use shoal_mesh::core::{LoadSequence, OwnFacts};
use shoal_mesh::simulation::node_id;
use shoal_protocol::message::{Failure, Input, LoadProbe, LoadRecord, LoadReply, ModelState, TaskRequest};
use shoal_protocol::{BatchId, DeviceIndex, ErrorCode, Message, Micros, Place};

use super::answer;
use super::bug::Bug;
use super::machine::{Machine, model_bytes};

/// Time between two beacons of a request.
const BEAT: Duration = Duration::from_millis(200);
/// Tokenizing: a start, and each token.
const TOKENIZE_FIXED: Duration = Duration::from_micros(100);
const TOKENIZE_TOKEN: Duration = Duration::from_micros(1);
/// Unmapping a model.
const EVICTION: Duration = Duration::from_millis(2);
/// Starting a lane in the place of a hung one, and a device in the place of a failed one.
const LANE_START: Duration = Duration::from_millis(50);
const DEVICE_START: Duration = Duration::from_millis(500);

/// Work that goes on beside the machine, and ends by telling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Work {
    Tokenize { stream: u64 },
    Batch(BatchId),
    Load(ModelKey),
    Evict(ModelKey),
    StartLane(LaneIndex),
    StartDevice,
    Beat,
}

/// What the node does to the world.
#[derive(Debug)]
pub(super) enum Deed {
    /// Work that ends after this time.
    Begin(Work, Duration),
    /// A frame of an answer.
    Send(u64, Message),
    /// A model changed its state, or the node began to drain: others want to know.
    Changed,
    /// Another node is asked to load a model.
    Ask(Place, String),
    /// Its copy of a model is to go, because others hold it.
    GiveBack(u16),
    /// Nothing keeps it any more.
    Leave,
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Job {
    stream: u64,
    pub(super) request: TaskRequest,
    arrived: Instant,
}

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ailments {
    /// Batches never end.
    pub hangs: bool,
    /// Probability that a load fails.
    pub loads_fail: f64,
    /// Computes this many times slower (0: as it should).
    pub slowdown: f64,
    /// Everything that reaches it waits so long for its CPU.
    pub lag: Duration,
}

/// One life of one device of a node.
pub(super) struct Node {
    /// Which.
    pub(super) number: u16,
    /// Rises when the device is replaced: what its former machine began ends for nobody.
    life: u64,
    machine: Machine,
    pub(super) core: DeviceCore,
    /// Its part in routing, and when that heard of others' loads.
    pub(super) placement: Placement,
    pub(super) loads_heard_at: Option<Instant>,
    models: Vec<ModelKey>,
    /// Requests answered, by model.
    pub(super) served: Vec<u64>,
    /// Its way out, once it was told to leave.
    pub(super) departure: Option<Departure>,
    pub(super) bug: Option<Bug>,
    /// Requests waited here since its copies were judged last.
    pub(super) has_waits: bool,
    pub(super) news: Vec<News>,
    jobs: BTreeMap<RequestKey, Job>,
    by_stream: BTreeMap<u64, RequestKey>,
    pub(super) ailments: Ailments,
    chance: SmallRng,
    beats: bool,
    /// Numbers its load records.
    sequence: LoadSequence,
    /// Requests that passed gate 1 and then ended with `Draining`.
    pub(super) drained_away: u64,
    /// Models whose load began, for the audit.
    pub(super) loads_begun: Vec<ModelKey>,
    pub(super) deeds: Vec<Deed>,
}

impl Node {
    pub(super) fn new(number: u16, machine: Machine, models: u16, sequence: LoadSequence, seed: u64) -> Self {
        let mut node = Self {
            number,
            life: seed,
            machine,
            core: DeviceCore::new(machine.core_config()),
            placement: Placement::new(Place { node: node_id(number), device: DeviceIndex(0) }),
            loads_heard_at: None,
            models: Vec::new(),
            served: vec![0; usize::from(models)],
            departure: None,
            bug: None,
            has_waits: false,
            news: Vec::new(),
            jobs: BTreeMap::new(),
            by_stream: BTreeMap::new(),
            ailments: Ailments::default(),
            chance: SmallRng::seed_from_u64(seed),
            beats: false,
            sequence,
            drained_away: 0,
            loads_begun: Vec::new(),
            deeds: Vec::new(),
        };
        node.register(usize::from(models));
        node
    }

    pub(super) fn register(&mut self, models: usize) {
        let spec = ModelSpec { bytes_estimate: model_bytes(), pinned: false };
        self.models = (0..models).map(|_| self.core.register_model(spec)).collect();
    }

    /// The hardware.
    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The machine that decides.
    pub(super) fn core(&self) -> &DeviceCore {
        &self.core
    }

    /// The machine's name for a model of the catalogue.
    pub(super) fn key(&self, model: u16) -> ModelKey {
        self.models[usize::from(model)]
    }

    /// Where a model stands.
    pub(super) fn state(&self, model: u16) -> ModelState {
        self.core.model_state(self.key(model))
    }

    /// Names the machine that now decides.
    pub(super) fn life(&self) -> u64 {
        self.life
    }

    /// Requests that are not answered yet.
    pub(super) fn jobs_len(&self) -> usize {
        self.jobs.len()
    }

    /// Loads models before the first request, as an operator may.
    pub(super) fn preload(&mut self, models: impl IntoIterator<Item = u16>, now: Instant) {
        for model in models {
            // Refused only where the node is leaving or the model is broken, neither of which is so at a start.
            let wanted = self.core.handle_preload(self.key(model), now);
            debug_assert_eq!(wanted, Ok(()));
        }
        self.settle(now);
    }

    /// A request came in whole.
    pub(super) fn handle_request(&mut self, stream: u64, request: TaskRequest, now: Instant) {
        let Some(model) = answer::model_number(&request.model).filter(|model| self.has(*model)) else {
            let failure = Failure::new(ErrorCode::ModelNotFound, request.model);
            return self.deeds.push(Deed::Send(stream, Message::Failure(failure)));
        };
        let deadline = request.deadline_us.map(|left| now + Duration::from(left));
        if let Err(failure) = self.check_place(model, &request, deadline, now) {
            return self.deeds.push(Deed::Send(stream, Message::Failure(failure)));
        }
        let spec = RequestSpec {
            model: self.key(model),
            priority: request.priority,
            bytes: request.items.iter().map(|item| item.bytes() as u64).sum(),
            deadline,
        };
        match self.core.handle_request(spec, now) {
            Ok(key) => {
                let tokens: usize = request.items.iter().map(tokens_of).sum();
                let took = TOKENIZE_FIXED + TOKENIZE_TOKEN * tokens as u32;
                self.deeds.push(Deed::Begin(Work::Tokenize { stream }, took));
                self.jobs.insert(key, Job { stream, request, arrived: now });
                self.by_stream.insert(stream, key);
            }
            Err(error) => self.refuse(stream, &request, &error, now),
        }
        self.settle(now);
    }

    fn has(&self, model: u16) -> bool {
        usize::from(model) < self.models.len()
    }

    /// The caller stopped its stream.
    pub(super) fn handle_stop(&mut self, stream: u64, now: Instant) {
        if let Some(key) = self.by_stream.remove(&stream) {
            self.jobs.remove(&key);
            self.core.handle_cancel(key, now);
        }
        self.settle(now);
    }

    /// A timer of the machine.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.core.handle_timeout(now);
        self.handle_window(now);
        self.depart(now);
        self.settle(now);
    }

    /// Work ended.
    pub(super) fn handle_work(&mut self, work: Work, now: Instant) {
        match work {
            Work::Tokenize { stream } => self.tokenized(stream, now),
            Work::Batch(batch) => self.deliver(batch, now),
            Work::Load(model) => {
                let fails = self.ailments.loads_fail;
                if fails > 0.0 && self.chance.random_bool(fails) {
                    let reason = "simulated".into();
                    self.core.handle_load_failed(model, ErrorCode::ModelBroken, reason, now);
                } else {
                    self.core.handle_loaded(model, model_bytes(), now);
                }
                self.deeds.push(Deed::Changed);
            }
            Work::Evict(model) => self.core.handle_evicted(model, now),
            Work::StartLane(lane) => self.core.handle_lane_replaced(lane, now),
            Work::StartDevice => {
                let models = self.models.len();
                self.core = DeviceCore::new(self.machine.core_config());
                self.register(models);
                self.life = self.life.wrapping_add(1);
                self.beats = false;
                self.deeds.push(Deed::Changed);
            }
            Work::Beat => self.beat(now),
        }
        self.settle(now);
    }

    fn tokenized(&mut self, stream: u64, now: Instant) {
        let Some((key, job)) = self.by_stream.get(&stream).and_then(|key| Some((*key, self.jobs.get(key)?)))
        else {
            return;
        };
        let tokens = (0..).zip(&job.request.items);
        let items: Vec<_> =
            tokens.map(|(index, item)| ItemTokens { index, tokens: tokens_of(item).max(1) as u32 }).collect();
        self.core.handle_tokenized(key, TokenizedPiece { items: &items, bytes_left: None }, now);
    }

    fn deliver(&mut self, batch: BatchId, now: Instant) {
        let items = self.core.handle_batch_done(batch, now);
        for own in items.chunk_by(|a, b| a.request == b.request) {
            if let Some(job) = self.jobs.get(&own[0].request) {
                let frame = answer::result(&job.request, own);
                self.deeds.push(Deed::Send(job.stream, frame));
            }
        }
    }

    fn beat(&mut self, now: Instant) {
        let (jobs, deeds) = (&self.jobs, &mut self.deeds);
        self.core.for_each_beacon(now, |request, beacon| {
            deeds.extend(jobs.get(&request).map(|job| Deed::Send(job.stream, Message::Beacon(beacon))));
        });
        self.beats = false;
    }

    /// Does what the machine wants done.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Run(run) => self.run(&run),
                Output::Load { model } => {
                    let took = self.machine.load_time(&mut self.chance);
                    self.loads_begun.push(model);
                    self.deeds.extend([Deed::Begin(Work::Load(model), took), Deed::Changed]);
                }
                Output::Evict { model } => {
                    self.deeds.extend([Deed::Begin(Work::Evict(model), EVICTION), Deed::Changed]);
                }
                Output::Finished { request, stages } => {
                    if let Some(job) = self.end(request) {
                        let took = now.saturating_duration_since(job.arrived);
                        let end = answer::end(self.number, &job.request, &stages, took);
                        let tokens = job.request.items.iter().map(tokens_of).sum::<usize>() as u64;
                        self.note_served(&job, tokens, stages.queue.into(), now);
                        self.deeds.push(Deed::Send(job.stream, end));
                    }
                }
                Output::Failed { request, error } => {
                    self.drained_away += u64::from(error == RequestError::Draining);
                    if let Some(job) = self.end(request) {
                        self.refuse(job.stream, &job.request, &error, now);
                    }
                }
                Output::LaneHung { lane, .. } => {
                    self.deeds.push(Deed::Begin(Work::StartLane(lane), LANE_START));
                }
                Output::DeviceFailed => self.deeds.push(Deed::Begin(Work::StartDevice, DEVICE_START)),
                Output::Draining => self.deeds.push(Deed::Changed),
                Output::Drained => {
                    self.departure.iter_mut().for_each(Departure::handle_finished);
                    self.depart(now);
                }
            }
        }
        if !self.jobs.is_empty() && !self.beats {
            self.beats = true;
            self.deeds.push(Deed::Begin(Work::Beat, BEAT));
        }
    }

    fn run(&mut self, run: &BatchRun) {
        if self.ailments.hangs {
            return;
        }
        let took = self.machine.batch_time(run, &mut self.chance);
        let slowdown = if self.ailments.slowdown > 0.0 { self.ailments.slowdown } else { 1.0 };
        self.deeds.push(Deed::Begin(Work::Batch(run.batch), took.mul_f64(slowdown)));
    }

    fn end(&mut self, request: RequestKey) -> Option<Job> {
        let job = self.jobs.remove(&request)?;
        self.by_stream.remove(&job.stream);
        Some(job)
    }

    fn refuse(&mut self, stream: u64, request: &TaskRequest, error: &RequestError, now: Instant) {
        let retry_after_us = error.retry_after().map(Micros::from);
        let mut failure = Failure { retry_after_us, ..Failure::new(error.code(), error.to_string()) };
        self.name_others(&mut failure, request, now);
        self.deeds.push(Deed::Send(stream, Message::Failure(failure)));
    }

    /// Its load, numbered.
    pub(super) fn load_record(&self, now: Instant) -> LoadRecord {
        LoadRecord { sequence: self.sequence.at(now), ..self.core.load_record(now) }
    }

    /// The answer to a probe.
    pub(super) fn reply(&self, probe: &LoadProbe, now: Instant) -> LoadReply {
        let model = answer::model_number(&probe.model).filter(|model| self.has(*model));
        let ready_in = model.map_or(Duration::ZERO, |model| self.core.predicted(self.key(model), 0, now));
        LoadReply {
            nonce: probe.nonce,
            load: self.load_record(now),
            model: model.map(|model| self.state(model)),
            ready_in_us: ready_in.into(),
        }
    }

    /// What it says about itself.
    pub(super) fn facts(&self, now: Instant) -> OwnFacts {
        let states = (0..).zip(&self.models).map(|(model, key)| (model, self.core.model_state(*key)));
        answer::facts(&self.machine, self.core.load_record(now).draining, states)
    }
}

/// Tokens that the model sees.
fn tokens_of(item: &Input) -> usize {
    match item {
        Input::TokenIds(ids) => ids.len(),
        Input::Text(text) => text.len(),
    }
}
