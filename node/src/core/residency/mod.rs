//! Which models are in the device's memory.

mod decide;
mod model;
mod report;
#[cfg(test)]
mod tests;
mod victims;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::{Bytes, ErrorCode};

use self::model::{Model, State};
use self::victims::Candidate;
use super::config::CoreConfig;
use super::error::RequestError;
use super::event::ModelSpec;
use super::ids::ModelKey;
use super::rate::{RateMeter, seconds_to_duration};

/// First pause after a failed load; doubles with each further failure.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest pause after failed loads.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Speed of a load before any was measured, in bytes/s: a guess. It weighs victims against each other, and is what others
/// are told until the first load.
const LOAD_BYTES_PER_S_GUESS: f64 = 500e6;

/// What the waiters of a load that does not end are told.
fn stalled() -> RequestError {
    RequestError::LoadFailed {
        code: ErrorCode::ModelBroken,
        reason: "the load does not end; the storage may be stuck".into(),
        retry_after: BACKOFF_MAX,
    }
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResidencyOutput {
    Load(ModelKey),
    Evict(ModelKey),
    /// It can not be loaded after all (pinned models turned out larger, the load stalled): fail its requests.
    Refuse(ModelKey, RequestError),
}

/// How a load ended for those who wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LoadEnd {
    /// Resident, or loaded once more with the measured size: nothing to tell the waiters.
    Waiting,
    /// The waiters get this error.
    Failed(RequestError),
}

/// The residency of one device: a hard budget in bytes, loads on first use.
///
/// Loads are single-flight per model, one at a time, first wanted first; one that does not end within
/// [`LOAD_TIME_MAX`](model::LOAD_TIME_MAX) no longer holds up the others. A load that does not fit chooses victims
/// and waits for them: until their minimum residency is over, they have served whom they were loaded for, their batches
/// are done and their memory is free. What is chosen runs no further batch, and if requests wait for it, it queues up
/// behind to come back. Two models that do not fit together so alternate at most once per `residency_min`, and each
/// load serves a batch unless nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Residency {
    budget: u64,
    residency_min: Duration,
    keep_alive: Option<Duration>,
    models: Vec<Model>,
    /// Those that the budget is charged with, in order: what is looked at after each event are these, and not all that are
    /// on disk.
    present: Vec<ModelKey>,
    wanted: VecDeque<ModelKey>,
    /// When the first wanted model can choose its victims, if that is what it waits for.
    blocked_until: Option<Instant>,
    load_speed: RateMeter,
    outputs: VecDeque<ResidencyOutput>,
    loads: u64,
    evictions: u64,
    /// Of these, for want of one piece of memory.
    memory_evictions: u64,
}

impl Residency {
    pub(super) fn new(config: &CoreConfig) -> Self {
        Self {
            budget: config.resident_bytes_max,
            residency_min: config.residency_min,
            keep_alive: config.keep_alive,
            models: Vec::new(),
            present: Vec::new(),
            wanted: VecDeque::new(),
            blocked_until: None,
            load_speed: RateMeter::default(),
            outputs: VecDeque::new(),
            loads: 0,
            evictions: 0,
            memory_evictions: 0,
        }
    }

    pub(super) fn register_model(&mut self, spec: ModelSpec) -> ModelKey {
        let key = ModelKey(u32::try_from(self.models.len()).unwrap_or(u32::MAX));
        self.models.push(Model::new(spec));
        key
    }

    /// Whether a request for this model can be served, now or after a load.
    pub(super) fn check(&self, model: ModelKey, now: Instant) -> Result<(), RequestError> {
        let wanted = self.models.get(model.index()).ok_or(RequestError::UnknownModel)?;
        if let State::Failed { until, code, reason } = &wanted.state
            && *until > now
        {
            let (reason, retry_after) = (Arc::clone(reason), until.saturating_duration_since(now));
            return Err(RequestError::LoadFailed { code: *code, reason, retry_after });
        }
        match wanted.state {
            State::Ready { .. } => Ok(()),
            State::Loading { stalled: true, .. } => Err(stalled()),
            State::Absent | State::Loading { .. } | State::Evicting { .. } | State::Failed { .. } => {
                self.check_size(model, wanted.bytes)
            }
        }
    }

    /// Whether a model of this size fits beside the pinned ones.
    fn check_size(&self, model: ModelKey, bytes: u64) -> Result<(), RequestError> {
        let available = self.budget.saturating_sub(self.set_aside(model));
        if bytes <= available {
            return Ok(());
        }
        let (needed, available) = (Bytes(bytes), Bytes(available));
        Err(RequestError::ModelTooLarge { needed, available })
    }

    /// A request for the model was admitted ([`check`](Self::check)ed): it will be resident.
    pub(super) fn handle_acquired(&mut self, model: ModelKey, now: Instant) {
        let wanted = &mut self.models[model.index()];
        wanted.demand = wanted.demand(now) + 1.0;
        wanted.last_used = Some(now);
        wanted.users += 1;
        self.want(model);
    }

    /// That request ended.
    pub(super) fn handle_released(&mut self, model: ModelKey, now: Instant) {
        let used = &mut self.models[model.index()];
        used.demand = used.demand(now);
        used.last_used = Some(now);
        used.users = used.users.saturating_sub(1);
    }

    /// Loads a ([`check`](Self::check)ed) model that nobody asked for yet.
    pub(super) fn handle_preload(&mut self, model: ModelKey) {
        self.models[model.index()].preload = true;
        self.want(model);
    }

    /// Whether others hold the model as well.
    pub(super) fn handle_spare(&mut self, model: ModelKey, is_spare: bool) {
        if let Some(model) = self.models.get_mut(model.index()) {
            model.is_spare = is_spare;
        }
    }

    /// Whether it could be loaded now without harm to anybody: what would have to go is unused, and others hold it.
    pub(super) fn has_spare_room(&self, wanted: ModelKey, now: Instant) -> bool {
        let free = self.budget.saturating_sub(self.held() + self.set_aside_absent(wanted));
        let is_spare = |model: &Candidate| model.is_spare && !model.in_use && model.evictable_at <= now;
        let spare: u64 = self.candidates(now).filter(is_spare).map(|model| model.bytes).sum();
        // What waits for a load has the first claim.
        let is_idle = self.wanted.is_empty()
            && !self.models.iter().any(|model| matches!(model.state, State::Loading { .. }));
        is_idle && self.models[wanted.index()].bytes <= free.saturating_add(spare)
    }

    /// Evicts a model that others hold, where nothing here speaks for it.
    pub(super) fn handle_given_back(&mut self, model: ModelKey, now: Instant) {
        let Some(Model { state: State::Ready { since }, pinned: false, users: 0, .. }) =
            self.models.get(model.index())
        else {
            return;
        };
        if *since + self.residency_min <= now {
            self.evict(model);
        }
    }

    pub(super) fn handle_batch_started(&mut self, model: ModelKey) {
        let used = &mut self.models[model.index()];
        used.running += 1;
        used.served = true;
    }

    pub(super) fn handle_batch_ended(&mut self, model: ModelKey) {
        let used = &mut self.models[model.index()];
        used.running = used.running.saturating_sub(1);
    }

    /// The measured size replaces the estimate. One that cannot stay under the budget is dropped again, and comes
    /// back after a proper fit check if it can ever fit.
    pub(super) fn handle_loaded(&mut self, model: ModelKey, bytes: u64, now: Instant) -> LoadEnd {
        let Some(loaded) = self.models.get_mut(model.index()) else {
            return LoadEnd::Waiting;
        };
        let State::Loading { since, .. } = loaded.state else {
            return LoadEnd::Waiting;
        };
        let took = now.saturating_duration_since(since);
        loaded.bytes = bytes;
        loaded.failures = 0;
        loaded.preload = false;
        loaded.is_short = false;
        loaded.served = false;
        loaded.load_time = Some(took);
        loaded.last_used = loaded.last_used.or(Some(now));
        loaded.state = State::Ready { since: now };
        self.loads += 1;
        self.load_speed.record(bytes, took);
        if self.held() <= self.budget {
            return LoadEnd::Waiting;
        }
        self.evict(model);
        self.check_size(model, bytes).map_or_else(LoadEnd::Failed, |()| LoadEnd::Waiting)
    }

    /// Nobody waits for the model any more: the caller fails its requests with the error that is returned.
    pub(super) fn handle_load_failed(
        &mut self,
        model: ModelKey,
        code: ErrorCode,
        reason: Arc<str>,
        now: Instant,
    ) -> LoadEnd {
        let Some(failed) = self.models.get_mut(model.index()) else {
            return LoadEnd::Waiting;
        };
        if !matches!(failed.state, State::Loading { .. }) {
            return LoadEnd::Waiting;
        }
        let doublings = failed.failures.min(10);
        let retry_after = (BACKOFF_MIN * 2u32.pow(doublings)).min(BACKOFF_MAX);
        failed.failures += 1;
        failed.preload = false;
        failed.is_short = false;
        failed.state = State::Failed { until: now + retry_after, code, reason: Arc::clone(&reason) };
        self.present.retain(|key| *key != model);
        LoadEnd::Failed(RequestError::LoadFailed { code, reason, retry_after })
    }

    pub(super) fn handle_evicted(&mut self, model: ModelKey) {
        let Some(gone) = self.models.get_mut(model.index()) else {
            return;
        };
        if matches!(gone.state, State::Evicting { ordered: true }) {
            gone.state = State::Absent;
            self.present.retain(|key| *key != model);
        }
    }

    /// Decides; call after every event, then poll.
    pub(super) fn advance(&mut self, now: Instant) {
        self.give_up_stalled(now);
        self.unload_idle(now);
        self.start_load(now);
        for key in &self.present {
            let model = &mut self.models[key.index()];
            if matches!(model.state, State::Evicting { ordered: false }) && model.running == 0 {
                model.state = State::Evicting { ordered: true };
                self.evictions += 1;
                self.outputs.push_back(ResidencyOutput::Evict(*key));
            }
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<ResidencyOutput> {
        self.outputs.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let idle = self.present().filter_map(|model| self.idle_at(model)).min();
        let stalls = self.present().filter_map(Model::stalls_at).min();
        let timers =
            [(self.blocked_until, "minimum residency"), (idle, "keep-alive"), (stalls, "load stalled")];
        timers.into_iter().filter_map(|(at, reason)| Some((at?, reason))).min()
    }

    fn want(&mut self, model: ModelKey) {
        let absent = !matches!(self.models[model.index()].state, State::Loading { .. } | State::Ready { .. });
        if absent && !self.wanted.contains(&model) {
            self.wanted.push_back(model);
        }
    }

    /// Bytes of the pinned models other than `model`.
    fn set_aside(&self, model: ModelKey) -> u64 {
        self.others(model).filter(|other| other.pinned).map(|other| other.bytes).sum()
    }

    /// Those of them that are not held yet.
    fn set_aside_absent(&self, model: ModelKey) -> u64 {
        self.others(model).filter(|other| other.pinned && other.held() == 0).map(|other| other.bytes).sum()
    }

    fn others(&self, model: ModelKey) -> impl Iterator<Item = &Model> {
        self.models.iter().enumerate().filter(move |(at, _)| *at != model.index()).map(|(_, other)| other)
    }

    fn present(&self) -> impl Iterator<Item = &Model> {
        self.present.iter().map(|key| &self.models[key.index()])
    }

    fn leaving(&self) -> impl Iterator<Item = &Model> {
        self.present().filter(|model| matches!(model.state, State::Evicting { .. }))
    }

    fn load_time(&self, model: &Model) -> Duration {
        let by_speed = || seconds_to_duration(model.bytes as f64 / self.load_bytes_per_s());
        model.load_time.unwrap_or_else(by_speed)
    }
}
