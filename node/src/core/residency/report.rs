//! What others ask the residency about.

use std::time::{Duration, Instant};

use shoal_protocol::message::ModelState;

use super::super::ids::ModelKey;
use super::model::{Model, State};
use super::{LOAD_BYTES_PER_S_GUESS, Residency};

impl Residency {
    /// Whether batches of the model may start.
    pub(in crate::core) fn is_ready(&self, model: ModelKey) -> bool {
        self.ready_since(model).is_some()
    }

    pub(in crate::core) fn ready_since(&self, model: ModelKey) -> Option<Instant> {
        match self.models.get(model.index())?.state {
            State::Ready { since } => Some(since),
            State::Absent | State::Loading { .. } | State::Evicting { .. } | State::Failed { .. } => None,
        }
    }

    /// Estimated time until the model is ready: loads before it, its own, and the wait for room.
    pub(in crate::core) fn eta(&self, model: ModelKey, now: Instant) -> Duration {
        let Some(asked) = self.models.get(model.index()) else {
            return Duration::ZERO;
        };
        let left = |model: &Model| match model.state {
            State::Loading { since, .. } => (since + self.load_time(model)).saturating_duration_since(now),
            State::Ready { .. } => Duration::ZERO,
            State::Absent | State::Evicting { .. } | State::Failed { .. } => self.load_time(model),
        };
        if matches!(asked.state, State::Loading { .. } | State::Ready { .. }) {
            return left(asked);
        }
        let current = self.present().filter(|other| matches!(other.state, State::Loading { .. }));
        let before = self.wanted.iter().take_while(|key| **key != model).map(|key| &self.models[key.index()]);
        let room = self.blocked_until.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        room + current.chain(before).map(left).sum::<Duration>() + left(asked)
    }

    /// The same where it rests on measured loads; zero otherwise, so that nobody is refused by a guess.
    pub(in crate::core) fn measured_eta(&self, model: ModelKey, now: Instant) -> Duration {
        let known = self.models.get(model.index()).is_some_and(|model| model.load_time.is_some());
        if known { self.eta(model, now) } else { Duration::ZERO }
    }

    pub(in crate::core) fn memory_evictions(&self) -> u64 {
        self.memory_evictions
    }

    pub(in crate::core) fn state(&self, model: ModelKey) -> ModelState {
        match self.models.get(model.index()).map(|model| &model.state) {
            Some(State::Loading { .. }) => ModelState::Loading,
            Some(State::Ready { .. }) => ModelState::Ready,
            Some(State::Failed { .. }) => ModelState::Failed,
            Some(State::Absent | State::Evicting { .. }) | None => ModelState::Stored,
        }
    }

    /// Measured bytes of a ready model, else zero.
    pub(in crate::core) fn bytes(&self, model: ModelKey) -> u64 {
        let ready = self.models.get(model.index()).filter(|_| self.is_ready(model));
        ready.map_or(0, |model| model.bytes)
    }

    /// Time of a load of the model, measured or by [`Self::load_bytes_per_s`].
    pub(in crate::core) fn load_time_of(&self, model: ModelKey) -> Duration {
        self.models.get(model.index()).map_or(Duration::ZERO, |model| self.load_time(model))
    }

    /// Speed of loads, measured or guessed.
    pub(in crate::core) fn load_bytes_per_s(&self) -> f64 {
        self.load_speed.per_s().unwrap_or(LOAD_BYTES_PER_S_GUESS)
    }

    /// Bytes of everything resident, loading or leaving.
    pub(in crate::core) fn held(&self) -> u64 {
        self.present().map(Model::held).sum()
    }

    pub(in crate::core) fn budget(&self) -> u64 {
        self.budget
    }

    pub(in crate::core) fn loads(&self) -> u64 {
        self.loads
    }

    pub(in crate::core) fn evictions(&self) -> u64 {
        self.evictions
    }
}
