//! Which models are in the device's memory.

mod model;
mod report;
mod victims;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::{Bytes, ErrorCode};

use self::model::{Model, State};
use self::victims::{Candidate, choose_victims};
use super::config::CoreConfig;
use super::error::RequestError;
use super::event::ModelSpec;
use super::ids::ModelKey;
use super::rate::{RateMeter, seconds_to_duration};

/// First pause after a failed load; doubles with each further failure.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest pause after failed loads.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Speed of a load before any was measured, in bytes/s. Only weighs victims against each other.
const LOAD_BYTES_PER_S_GUESS: f64 = 500e6;

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResidencyOutput {
    Load(ModelKey),
    Evict(ModelKey),
    /// It can not be loaded after all, because pinned models turned out larger: fail its requests.
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
/// Loads are single-flight per model, one at a time, first wanted first. A load that does not fit chooses victims
/// and waits for them: until their minimum residency is over, their batches are done and their memory is free. What
/// is chosen runs no further batch, and if requests wait for it, it queues up behind to come back. Two models that
/// do not fit together so alternate at most once per `residency_min`, and both are served.
#[derive(Debug)]
pub(super) struct Residency {
    budget: u64,
    residency_min: Duration,
    keep_alive: Option<Duration>,
    models: Vec<Model>,
    wanted: VecDeque<ModelKey>,
    /// When the first wanted model can choose its victims, if that is what it waits for.
    blocked_until: Option<Instant>,
    load_speed: RateMeter,
    outputs: VecDeque<ResidencyOutput>,
    loads: u64,
    evictions: u64,
}

impl Residency {
    pub(super) fn new(config: &CoreConfig) -> Self {
        Self {
            budget: config.resident_bytes_max,
            residency_min: config.residency_min,
            keep_alive: config.keep_alive,
            models: Vec::new(),
            wanted: VecDeque::new(),
            blocked_until: None,
            load_speed: RateMeter::default(),
            outputs: VecDeque::new(),
            loads: 0,
            evictions: 0,
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
            return Err(RequestError::LoadFailed {
                code: *code,
                reason,
                retry_after,
            });
        }
        let available = self.budget.saturating_sub(self.set_aside(model));
        if wanted.bytes > available && !matches!(wanted.state, State::Ready { .. }) {
            let (needed, available) = (Bytes(wanted.bytes), Bytes(available));
            return Err(RequestError::ModelTooLarge { needed, available });
        }
        Ok(())
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

    pub(super) fn handle_batch_started(&mut self, model: ModelKey) {
        self.models[model.index()].running += 1;
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
        let State::Loading { since } = loaded.state else {
            return LoadEnd::Waiting;
        };
        let took = now.saturating_duration_since(since);
        loaded.bytes = bytes;
        loaded.failures = 0;
        loaded.preload = false;
        loaded.load_time = Some(took);
        loaded.last_used = loaded.last_used.or(Some(now));
        loaded.state = State::Ready { since: now };
        self.loads += 1;
        self.load_speed.record(bytes, took);
        if self.held() <= self.budget {
            return LoadEnd::Waiting;
        }
        self.models[model.index()].state = State::Absent;
        let fits = self.check(model, now);
        self.models[model.index()].state = State::Ready { since: now };
        self.evict(model);
        fits.map_or_else(LoadEnd::Failed, |()| LoadEnd::Waiting)
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
        failed.state = State::Failed {
            until: now + retry_after,
            code,
            reason: Arc::clone(&reason),
        };
        LoadEnd::Failed(RequestError::LoadFailed {
            code,
            reason,
            retry_after,
        })
    }

    pub(super) fn handle_evicted(&mut self, model: ModelKey) {
        let Some(gone) = self.models.get_mut(model.index()) else {
            return;
        };
        if matches!(gone.state, State::Evicting { ordered: true }) {
            gone.state = State::Absent;
        }
    }

    /// Decides; call after every event, then poll.
    pub(super) fn advance(&mut self, now: Instant) {
        self.unload_idle(now);
        self.start_load(now);
        for (key, model) in (0..).map(ModelKey).zip(&mut self.models) {
            if matches!(model.state, State::Evicting { ordered: false }) && model.running == 0 {
                model.state = State::Evicting { ordered: true };
                self.evictions += 1;
                self.outputs.push_back(ResidencyOutput::Evict(key));
            }
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<ResidencyOutput> {
        self.outputs.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let idle = self.models.iter().filter_map(|model| self.idle_at(model)).min();
        let blocked = self.blocked_until.map(|at| (at, "minimum residency"));
        blocked.into_iter().chain(idle.map(|at| (at, "keep-alive"))).min()
    }

    fn want(&mut self, model: ModelKey) {
        let absent = !matches!(
            self.models[model.index()].state,
            State::Loading { .. } | State::Ready { .. }
        );
        if absent && !self.wanted.contains(&model) {
            self.wanted.push_back(model);
        }
    }

    /// Starts the first wanted load, or makes room for it.
    fn start_load(&mut self, now: Instant) {
        self.blocked_until = None;
        let models = &self.models;
        self.wanted.retain(|key| models[key.index()].is_wanted());
        let busy = self
            .models
            .iter()
            .any(|model| matches!(model.state, State::Loading { .. }));
        let Some(&first) = self.wanted.front().filter(|_| !busy) else {
            return;
        };
        if matches!(self.models[first.index()].state, State::Evicting { .. }) {
            return;
        }
        if let Err(error) = self.check(first, now) {
            self.wanted.pop_front();
            self.models[first.index()].preload = false;
            self.outputs.push_back(ResidencyOutput::Refuse(first, error));
            return;
        }
        let needed = self.models[first.index()].bytes;
        let leaving: u64 = self.leaving().map(Model::held).sum();
        let free = self
            .budget
            .saturating_sub(self.held() + self.set_aside_absent(first));
        if needed <= free {
            self.wanted.pop_front();
            self.models[first.index()].state = State::Loading { since: now };
            self.outputs.push_back(ResidencyOutput::Load(first));
        } else if needed > free + leaving {
            self.make_room(needed - free - leaving, now);
        }
    }

    /// Chooses victims for `bytes`, or notes when there will be some.
    fn make_room(&mut self, bytes: u64, now: Instant) {
        let candidates: Vec<Candidate> = self.candidates(now).collect();
        match choose_victims(&candidates, bytes, now) {
            Ok(victims) => victims.into_iter().for_each(|victim| self.evict(victim)),
            Err(until) => self.blocked_until = until,
        }
    }

    fn candidates(&self, now: Instant) -> impl Iterator<Item = Candidate> {
        (0..)
            .map(ModelKey)
            .zip(&self.models)
            .filter_map(move |(key, model)| {
                let State::Ready { since } = model.state else {
                    return None;
                };
                let reload_s = self.load_time(model).as_secs_f64();
                (!model.pinned).then_some(Candidate {
                    key,
                    bytes: model.bytes,
                    evictable_at: since + self.residency_min,
                    in_use: model.users > 0,
                    cost: reload_s * model.demand(now),
                    last_used: model.last_used.unwrap_or(since),
                })
            })
    }

    fn evict(&mut self, victim: ModelKey) {
        self.models[victim.index()].state = State::Evicting { ordered: false };
        if self.models[victim.index()].is_wanted() {
            self.want(victim);
        }
    }

    fn unload_idle(&mut self, now: Instant) {
        for at in 0..self.models.len() {
            if self
                .idle_at(&self.models[at])
                .is_some_and(|idle_at| idle_at <= now)
            {
                self.models[at].state = State::Evicting { ordered: false };
            }
        }
    }

    /// When an unused model is unloaded.
    fn idle_at(&self, model: &Model) -> Option<Instant> {
        let State::Ready { since } = model.state else {
            return None;
        };
        let idle_at = model.last_used.unwrap_or(since) + self.keep_alive?;
        (!model.pinned && model.users == 0).then(|| idle_at.max(since + self.residency_min))
    }

    /// Bytes of the pinned models other than `model`.
    fn set_aside(&self, model: ModelKey) -> u64 {
        self.others(model)
            .filter(|other| other.pinned)
            .map(|other| other.bytes)
            .sum()
    }

    /// Those of them that are not held yet.
    fn set_aside_absent(&self, model: ModelKey) -> u64 {
        self.others(model)
            .filter(|other| other.pinned && other.held() == 0)
            .map(|other| other.bytes)
            .sum()
    }

    fn others(&self, model: ModelKey) -> impl Iterator<Item = &Model> {
        self.models
            .iter()
            .enumerate()
            .filter(move |(at, _)| *at != model.index())
            .map(|(_, other)| other)
    }

    fn leaving(&self) -> impl Iterator<Item = &Model> {
        self.models
            .iter()
            .filter(|model| matches!(model.state, State::Evicting { .. }))
    }

    fn load_time(&self, model: &Model) -> Duration {
        let by_speed = || {
            seconds_to_duration(
                model.bytes as f64 / self.load_speed.per_s().unwrap_or(LOAD_BYTES_PER_S_GUESS),
            )
        };
        model.load_time.unwrap_or_else(by_speed)
    }
}
