//! One device: admission, batching and residency composed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::message::{Beacon, GaugeSet, LoadRecord, ModelState};
use shoal_protocol::{BatchId, Bytes, ErrorCode};

use super::config::CoreConfig;
use super::error::RequestError;
use super::event::{BatchItem, ItemTokens, ModelSpec, Output, RequestSpec};
use super::ids::{LaneIndex, ModelKey, RequestKey};

/// The pure machine of one device. Whoever drives it owns the clock, the lanes, the loader and the reply handles.
///
/// # Grammar
/// - **Events** `handle_*(.., now)` report what happened. `now` never goes back.
/// - **Outputs**: after every event, [`poll_output`](Self::poll_output) until it is `None` and do what it says, in
///   that order.
/// - **Time**: then call [`handle_timeout`](Self::handle_timeout) once [`poll_timeout`](Self::poll_timeout) is
///   reached. A timeout that comes early or late does no harm. The deadline carries its reason, so that a busy
///   loop names itself.
/// - **Getters** change nothing.
///
/// # The life of a request
/// [`handle_request`](Self::handle_request) (gate 1: bytes) gives a [`RequestKey`] or refuses; the model starts to
/// load if need be. The shell tokenizes and calls [`handle_tokenized`](Self::handle_tokenized) (gate 2: tokens,
/// deadline). Items are batched, run and delivered by [`handle_batch_done`](Self::handle_batch_done). The request
/// ends in exactly one of `Output::Finished`, `Output::Failed` and [`handle_cancel`](Self::handle_cancel); its key
/// names nothing afterwards, and events about it are ignored.
///
/// # A hung lane
/// A batch that overruns three times its estimate (and the floor) is given up: `Output::LaneHung`. Requests of
/// that batch are requeued once and, if it happens to them again, fail with `DeviceFailed`: batch-mates of one
/// poisonous text survive it. Three hangs without a finished batch in between end the device:
/// `Output::DeviceFailed`; its supervisor makes a new core, whose counters start at zero.
#[derive(Debug)]
pub struct DeviceCore {
    config: CoreConfig,
    outputs: VecDeque<Output>,
}

impl DeviceCore {
    /// An idle device without models.
    #[must_use]
    pub fn new(config: CoreConfig) -> Self {
        Self {
            config,
            outputs: VecDeque::new(),
        }
    }

    /// What it decides by.
    #[must_use]
    pub fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// Makes a model known. Nothing is loaded before it is asked for; pinned bytes are set aside at once.
    pub fn register_model(&mut self, _spec: ModelSpec) -> ModelKey {
        ModelKey(0)
    }

    /// Loads a model ahead of the first request.
    ///
    /// # Errors
    /// [`RequestError::ModelTooLarge`], [`RequestError::LoadFailed`] (in backoff), [`RequestError::Draining`].
    pub fn handle_preload(&mut self, _model: ModelKey, _now: Instant) -> Result<(), RequestError> {
        Ok(())
    }

    /// Gate 1, before tokenizing: the byte and request budgets, draining, and whether the model can ever be served.
    ///
    /// # Errors
    /// Why it is refused; nothing is held then.
    pub fn handle_request(&mut self, _spec: RequestSpec, _now: Instant) -> Result<RequestKey, RequestError> {
        Err(RequestError::UnknownModel)
    }

    /// Gate 2, after tokenizing: exact tokens against the queue's bound and the deadline. A refusal comes as
    /// `Output::Failed`. Items that failed by themselves (too long) are left out; with no item left the request
    /// is finished at once.
    pub fn handle_tokenized(&mut self, _request: RequestKey, _items: &[ItemTokens], _now: Instant) {}

    /// The caller went away. The request ends here, without an output; its running items are computed and dropped.
    pub fn handle_cancel(&mut self, _request: RequestKey, _now: Instant) {}

    /// The sequences of a running batch, in row order. Empty if the batch is not running (any more).
    #[must_use]
    pub fn batch_items(&self, _batch: BatchId) -> &[BatchItem] {
        &[]
    }

    /// A lane finished a batch. Returns the items to deliver now: those whose request still waits; none if the
    /// batch was given up before. Deliver them before polling outputs: `Finished` may be the next one.
    pub fn handle_batch_done(&mut self, _batch: BatchId, _now: Instant) -> &[BatchItem] {
        &[]
    }

    /// A lane gave a batch back with an error. Its requests fail with `DeviceFailed`; the lane is idle again.
    pub fn handle_batch_failed(&mut self, _batch: BatchId, _now: Instant) {}

    /// A new lane stands in the place of a hung one.
    pub fn handle_lane_replaced(&mut self, _lane: LaneIndex, _now: Instant) {}

    /// A load ended well: `bytes` as measured.
    pub fn handle_loaded(&mut self, _model: ModelKey, _bytes: Bytes, _now: Instant) {}

    /// A load failed. Everybody who waits for the model is told.
    pub fn handle_load_failed(
        &mut self,
        _model: ModelKey,
        _code: ErrorCode,
        _reason: Arc<str>,
        _now: Instant,
    ) {
    }

    /// The memory of an evicted model is free.
    pub fn handle_evicted(&mut self, _model: ModelKey, _now: Instant) {}

    /// Leave: no new request from now on; what is admitted is done until `deadline`, then failed.
    pub fn handle_drain(&mut self, _deadline: Instant, _now: Instant) {}

    /// Time passed.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// Where every unfinished request stands, in the order of the queue: call it every 100-250 ms and send each
    /// beacon to its caller. Silent while a lane hangs: a beacon proves progress.
    pub fn for_each_beacon(&self, _now: Instant, _visit: impl FnMut(RequestKey, Beacon)) {}

    /// The load record. The sender numbers it (`sequence` is 0).
    #[must_use]
    pub fn load_record(&self, _now: Instant) -> LoadRecord {
        LoadRecord::default()
    }

    /// Gauges and counters, read from the machines themselves.
    #[must_use]
    pub fn gauges(&self, _now: Instant) -> GaugeSet {
        GaugeSet::default()
    }

    /// Where a model stands.
    #[must_use]
    pub fn model_state(&self, _model: ModelKey) -> ModelState {
        ModelState::Stored
    }

    /// Resident bytes of a model, as measured by its load; zero unless ready.
    #[must_use]
    pub fn model_bytes(&self, _model: ModelKey) -> Bytes {
        Bytes::ZERO
    }

    /// Measured speed of a model with this many threads of one lane, in tokens/s.
    #[must_use]
    pub fn model_rate(&self, _model: ModelKey, _threads: u16) -> Option<u32> {
        None
    }

    /// Time that an interactive request of `tokens` for `model` would take if it arrived now.
    #[must_use]
    pub fn predicted(&self, _model: ModelKey, _tokens: u64, _now: Instant) -> Duration {
        Duration::ZERO
    }
}
