//! One device's actor: drives its [`DeviceCore`], and owns its lanes, its loader and the reply handles of its
//! requests. It decides nothing.

mod message;
mod models;
mod published;
mod report;
mod requests;
mod timer;

use std::sync::Arc;
use std::time::Instant;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use shoal_kernels::PackedBatch;
use shoal_kernels::cuda::DeviceError;
use shoal_protocol::{Bytes, ErrorCode};
use tokio::sync::oneshot;

pub(crate) use message::{DeviceEvent, DeviceMsg, RequestHandle, Submission, TokenizeTimes};
pub(crate) use published::{Bells, ModelStanding, Published, Shelf};
pub(crate) use report::{Carried, DeviceReport};

use crate::actors::backend::{Backend, OpenDevice, Weights, on_own_thread};
use crate::actors::front::Front;
use crate::actors::lane::{LaneError, LaneJob, LaneResult, LaneThread};
use crate::actors::loader::{LoadFailure, Loaded, LoaderThread};
use crate::clock;
use crate::core::{BatchRun, CoreConfig, DeviceCore, LaneIndex, ModelKey, Output, RequestError};
use crate::tasks::pool::TokenizerPool;
use models::Models;
use requests::Requests;
use timer::Timer;

/// Packed batches kept for their memory: one for each lane of a small device.
const SPARE_BATCHES_MAX: usize = 8;

/// What a device needs to start, and again to start anew.
#[derive(Clone)]
pub(crate) struct DeviceArguments {
    /// What it decides by.
    pub(crate) config: CoreConfig,
    /// Makes its lanes and loads its models.
    pub(crate) backend: Arc<dyn Backend>,
    /// The node's tokenizer threads.
    pub(crate) tokenizers: Arc<TokenizerPool>,
    /// Models that are loaded before anybody asks.
    pub(crate) preload: Vec<Arc<Front>>,
    /// Counters of its former selves.
    pub(crate) carried: Arc<Carried>,
    /// Where it says how it stands.
    pub(crate) published: Arc<Published>,
}

/// The actor. Stateless; see [`DeviceState`].
pub(crate) struct DeviceActor;

/// The device keeps failing; its supervisor makes another.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceFault {
    /// Its lanes hang one after the other.
    #[error("its lanes hang one after the other")]
    Hung,
    /// It cannot be opened, or was lost in use.
    #[error(transparent)]
    Lost(#[from] DeviceError),
    /// A thread cannot be started, or the one that was to open it panicked.
    #[error("no thread for it: {0}")]
    Thread(#[from] std::io::Error),
}

struct LaneSlot {
    thread: LaneThread,
    /// The batch that it runs: what an abandoned thread answers late is not it.
    running: Option<shoal_protocol::BatchId>,
}

/// Everything that one life of a device holds.
pub(crate) struct DeviceState {
    myself: ActorRef<DeviceMsg>,
    core: DeviceCore,
    backend: Arc<dyn Backend>,
    device: Arc<dyn OpenDevice>,
    tokenizers: Arc<TokenizerPool>,
    loader: LoaderThread,
    lanes: Vec<LaneSlot>,
    models: Models,
    requests: Requests,
    timer: Timer,
    spare: Vec<PackedBatch>,
    drained: Vec<oneshot::Sender<()>>,
    carried: Arc<Carried>,
    published: Arc<Published>,
}

impl Actor for DeviceActor {
    type Msg = DeviceMsg;
    type State = DeviceState;
    type Arguments = DeviceArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<DeviceMsg>,
        arguments: DeviceArguments,
    ) -> Result<DeviceState, ActorProcessingErr> {
        let backend = Arc::clone(&arguments.backend);
        let opened = on_own_thread("open", move || backend.open()).await;
        let device = opened.map_err(DeviceFault::from)?.map_err(DeviceFault::from)?;
        Ok(DeviceState::start(myself, arguments, device)?)
    }

    async fn handle(
        &self,
        _myself: ActorRef<DeviceMsg>,
        message: DeviceMsg,
        state: &mut DeviceState,
    ) -> Result<(), ActorProcessingErr> {
        let handled = state.handle(message);
        if handled.is_err() {
            state.carried.add(&state.core.gauges(clock::now()));
        }
        Ok(handled?)
    }
}

impl DeviceState {
    fn start(
        myself: ActorRef<DeviceMsg>,
        arguments: DeviceArguments,
        device: Arc<dyn OpenDevice>,
    ) -> Result<Self, DeviceFault> {
        let DeviceArguments { config, backend, tokenizers, preload, carried, published } = arguments;
        let mailbox = myself.clone();
        let loader = LoaderThread::start(Arc::clone(&device), move |loaded| {
            tell(&mailbox, DeviceMsg::Loaded(loaded));
        })?;
        let threads = config.threads;
        let mut state = Self {
            timer: Timer::start(myself.clone()),
            myself,
            core: DeviceCore::new(config),
            backend,
            device,
            tokenizers,
            loader,
            lanes: Vec::new(),
            models: Models::default(),
            requests: Requests::default(),
            spare: Vec::new(),
            drained: Vec::new(),
            carried,
            published,
        };
        for lane in 0..threads {
            let thread = state.start_lane(LaneIndex(lane))?;
            state.lanes.push(LaneSlot { thread, running: None });
        }
        let now = clock::now();
        for front in preload {
            state.preload(&front, false, now);
        }
        state.settle(now)?;
        Ok(state)
    }

    fn start_lane(&self, lane: LaneIndex) -> Result<LaneThread, DeviceFault> {
        let mailbox = self.myself.clone();
        let threads_max = lane.threads_max(self.core.config().threads);
        let deliver = move |result| tell(&mailbox, DeviceMsg::LaneDone(Box::new(result)));
        Ok(LaneThread::start(Arc::clone(&self.device), lane, threads_max, deliver)?)
    }

    fn handle(&mut self, message: DeviceMsg) -> Result<(), DeviceFault> {
        let now = clock::now();
        match message {
            DeviceMsg::Submit(submission) => self.submit(*submission, now),
            DeviceMsg::Cancel(handle) => {
                if let Some(request) = self.requests.remove(&handle) {
                    self.core.handle_cancel(request, now);
                }
            }
            DeviceMsg::Tokenized { request, chunk } => {
                if let Some(piece) = self.requests.add_chunk(request, chunk) {
                    self.core.handle_tokenized(request, piece, now);
                }
            }
            DeviceMsg::LaneDone(result) => self.lane_done(*result, now)?,
            DeviceMsg::Loaded(Loaded::Model { model, result }) => self.loaded(model, result, now)?,
            DeviceMsg::Loaded(Loaded::Freed { model }) => self.core.handle_evicted(model, now),
            DeviceMsg::Timeout => {
                self.timer.fired();
                self.core.handle_timeout(now);
                if self.timer.take_beat(now) {
                    self.beat(now);
                }
            }
            DeviceMsg::Preload { front, is_further } => self.preload(&front, is_further, now),
            DeviceMsg::Spare { model, is_spare } => {
                if let Some(model) = self.models.find(&model) {
                    self.core.handle_spare(model, is_spare);
                }
            }
            DeviceMsg::GiveBack(name) => {
                if let Some(model) = self.models.find(&name) {
                    self.core.handle_given_back(model, now);
                }
            }
            DeviceMsg::Drain { deadline, done } => {
                self.drained.push(done);
                self.core.handle_drain(deadline, now);
            }
            DeviceMsg::HeldElsewhere { model } => {
                if let Some(model) = self.models.find(&model) {
                    self.core.handle_held_elsewhere(model, now);
                }
            }
            DeviceMsg::Report(reply) => {
                let _ = reply.send(self.report(now));
            }
        }
        self.settle(now)
    }

    fn loaded(
        &mut self,
        model: ModelKey,
        result: Result<Arc<Weights>, LoadFailure>,
        now: Instant,
    ) -> Result<(), DeviceFault> {
        match result {
            Ok(weights) => {
                let bytes = Bytes(weights.bytes());
                self.models.put(model, weights);
                self.core.handle_loaded(model, bytes, now);
            }
            Err(LoadFailure { lost: Some(error), .. }) => return Err(DeviceFault::Lost(error)),
            Err(LoadFailure { code, reason, is_short, lost: None }) => {
                self.models.note_failure(model, Arc::clone(&reason));
                if is_short {
                    self.core.handle_load_short(model, code, reason, now);
                } else {
                    self.core.handle_load_failed(model, code, reason, now);
                }
            }
        }
        Ok(())
    }

    fn preload(&mut self, front: &Arc<Front>, is_further: bool, now: Instant) {
        let model = self.models.register(&mut self.core, front);
        let wanted = match is_further {
            true => self.core.handle_further(model, now),
            false => self.core.handle_preload(model, now),
        };
        if let Err(error) = wanted {
            tracing::warn!(model = %front.name, %error, "not preloaded");
        }
    }

    fn submit(&mut self, submission: Submission, now: Instant) {
        let model = self.models.register(&mut self.core, &submission.front);
        match self.core.handle_request(submission.spec(model), now) {
            Ok(request) => {
                let full = self.requests.admit(request, submission, &self.tokenizers, &self.myself);
                if full.is_err() {
                    self.core.handle_shed(request, "tokenizer queue", now);
                }
            }
            Err(error) => submission.refuse(error),
        }
    }

    fn lane_done(&mut self, result: LaneResult, now: Instant) -> Result<(), DeviceFault> {
        let LaneResult { lane, batch, outputs, packed } = result;
        let slot = &mut self.lanes[usize::from(lane.0)];
        if slot.running != Some(batch) {
            // An abandoned thread came back after all; its work was given to others.
            return Ok(());
        }
        slot.running = None;
        match outputs {
            Ok(outputs) => {
                let items = self.core.handle_batch_done(batch, now);
                self.requests.deliver(items, outputs, &packed.cu_seqlens_q);
            }
            Err(error) => {
                tracing::error!(lane = lane.0, batch = batch.0, %error, "batch failed");
                if let Some(error) = error.lost() {
                    return Err(DeviceFault::Lost(error.clone()));
                }
                if error == LaneError::Panicked {
                    self.lanes[usize::from(lane.0)].thread = self.start_lane(lane)?;
                }
                self.core.handle_batch_failed(batch, &error.refusal(), now);
            }
        }
        if self.spare.len() < SPARE_BATCHES_MAX {
            self.spare.push(packed);
        }
        Ok(())
    }

    /// Does what the core decided, and arms the timer.
    fn settle(&mut self, now: Instant) -> Result<(), DeviceFault> {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Run(run) => self.run(&run, now),
                Output::Load { model } => {
                    let (description, policy) = self.models.source(model);
                    if self.loader.load(model, description, policy).is_err() {
                        let reason = "the loader takes no more work".into();
                        self.core.handle_load_failed(model, ErrorCode::Internal, reason, now);
                    }
                }
                Output::Evict { model } => {
                    let weights = self.models.take(model);
                    if self.loader.free(model, weights).is_err() {
                        self.core.handle_evicted(model, now);
                    }
                }
                Output::Finished { request, stages } => self.requests.finish(request, stages),
                Output::Failed { request, error } => self.requests.end(request, DeviceEvent::Failed(error)),
                Output::LaneHung { lane, batch } => {
                    tracing::error!(lane = lane.0, batch = batch.0, "lane hangs; abandoning it");
                    if self.device.give_up() {
                        return Err(DeviceFault::Lost(DeviceError::Hung));
                    }
                    self.carried.count_abandoned();
                    let thread = self.start_lane(lane)?;
                    self.lanes[usize::from(lane.0)] = LaneSlot { thread, running: None };
                    self.core.handle_lane_replaced(lane, now);
                }
                Output::DeviceFailed => return Err(DeviceFault::Hung),
                Output::Draining => tracing::info!("draining"),
                Output::Drained => {
                    tracing::info!("drained");
                    for done in self.drained.drain(..) {
                        let _ = done.send(());
                    }
                }
            }
        }
        let wake_at = self.core.poll_timeout().map(|(at, _)| at);
        self.timer.arm(wake_at, !self.requests.is_empty(), now);
        self.published.update(&self.core, &self.models, now);
        Ok(())
    }

    fn run(&mut self, run: &BatchRun, now: Instant) {
        let mut packed = self.spare.pop().unwrap_or_default();
        packed.clear();
        let wanted = self.requests.pack(self.core.batch_items(run.batch), &mut packed);
        let slot = &mut self.lanes[usize::from(run.lane.0)];
        let started = self.models.weights(run.model).is_some_and(|model| {
            let job = LaneJob { batch: run.batch, model, packed, wanted, threads: run.threads };
            slot.thread.run(job).is_ok()
        });
        if started {
            slot.running = Some(run.batch);
        } else {
            tracing::error!(batch = run.batch.0, lane = run.lane.0, "no lane or no model for a batch");
            self.core.handle_batch_failed(run.batch, &RequestError::DeviceFailed, now);
        }
    }

    fn beat(&mut self, now: Instant) {
        let requests = &self.requests;
        self.core.for_each_beacon(now, |request, beacon| requests.beacon(request, beacon));
    }

    fn report(&self, now: Instant) -> DeviceReport {
        DeviceReport::of(&self.core, &self.carried, self.backend.shortage(), now)
    }
}

/// To an actor from one of its threads. A device that has failed takes no message; its successor knows nothing of
/// what this one was doing.
fn tell(device: &ActorRef<DeviceMsg>, message: DeviceMsg) {
    if device.send_message(message).is_err() {
        tracing::debug!("a device that has ended was told something");
    }
}
