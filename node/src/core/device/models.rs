//! Events of models: known, wanted, loaded, gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::message::ModelState;
use shoal_protocol::{Bytes, ErrorCode};

use super::super::error::RequestError;
use super::super::event::ModelSpec;
use super::super::ids::ModelKey;
use super::super::residency::LoadEnd;
use super::DeviceCore;

impl DeviceCore {
    /// Makes a model known. Nothing is loaded before it is asked for; pinned bytes are set aside at once.
    pub fn register_model(&mut self, spec: ModelSpec) -> ModelKey {
        self.batcher.register_model();
        self.residency.register_model(spec)
    }

    /// Loads a model ahead of the first request.
    ///
    /// # Errors
    /// [`RequestError::ModelTooLarge`], [`RequestError::LoadFailed`] (in backoff), [`RequestError::Draining`],
    /// [`RequestError::DeviceFailed`]. Nothing changes then.
    pub fn handle_preload(&mut self, model: ModelKey, now: Instant) -> Result<(), RequestError> {
        self.check_open()?;
        self.residency.check(model, now)?;
        self.residency.handle_preload(model);
        self.advance(now);
        Ok(())
    }

    /// The same of a model that others hold already: only where nobody suffers for it, see
    /// [`handle_spare`](Self::handle_spare). Who asked asks again while it still wants it.
    ///
    /// # Errors
    /// As those of [`handle_preload`](Self::handle_preload).
    pub fn handle_further(&mut self, model: ModelKey, now: Instant) -> Result<(), RequestError> {
        self.residency.check(model, now)?;
        if self.residency.has_spare_room(model, now) {
            self.handle_preload(model, now)
        } else {
            self.check_open()
        }
    }

    /// Whether others hold the model as well: it is then evicted before a sole copy, and for a further copy of another.
    pub fn handle_spare(&mut self, model: ModelKey, is_spare: bool) {
        self.residency.handle_spare(model, is_spare);
    }

    /// Others hold the model: it goes, unless it is pinned, in use, or has not been resident for long.
    pub fn handle_given_back(&mut self, model: ModelKey, now: Instant) {
        self.residency.handle_given_back(model, now);
        self.advance(now);
    }

    /// A load ended well: `bytes` as measured. A model that turns out too large for the budget is evicted again.
    pub fn handle_loaded(&mut self, model: ModelKey, bytes: Bytes, now: Instant) {
        let end = self.residency.handle_loaded(model, bytes.0, now);
        self.end_load(model, end, now);
    }

    /// A load failed. Everybody who waits for the model is told.
    pub fn handle_load_failed(&mut self, model: ModelKey, code: ErrorCode, reason: Arc<str>, now: Instant) {
        let end = self.residency.handle_load_failed(model, code, reason, now);
        self.end_load(model, end, now);
    }

    /// A load found no piece of memory that is large enough, although the budget has so many bytes free: another model goes and
    /// it is loaded again. Where none can go, everybody who waits for it is told.
    pub fn handle_load_short(&mut self, model: ModelKey, code: ErrorCode, reason: Arc<str>, now: Instant) {
        let end = self.residency.handle_load_short(model, code, reason, now);
        self.end_load(model, end, now);
    }

    fn end_load(&mut self, model: ModelKey, end: LoadEnd, now: Instant) {
        if let LoadEnd::Failed(error) = end {
            self.fail_model(model, &error, now);
        }
        self.advance(now);
    }

    /// The memory of an evicted model is free.
    pub fn handle_evicted(&mut self, model: ModelKey, now: Instant) {
        self.residency.handle_evicted(model);
        self.advance(now);
    }

    /// Where a model stands.
    #[must_use]
    pub fn model_state(&self, model: ModelKey) -> ModelState {
        self.residency.state(model)
    }

    /// Resident bytes of a model, as measured by its load; zero unless ready.
    #[must_use]
    pub fn model_bytes(&self, model: ModelKey) -> Bytes {
        Bytes(self.residency.bytes(model))
    }

    /// Time of a load of the model: as measured, else by the speed of other loads.
    #[must_use]
    pub fn load_time(&self, model: ModelKey) -> Duration {
        self.residency.load_time_of(model)
    }

    /// Time until the model is ready if it is wanted now: its load and those before it.
    #[must_use]
    pub fn load_eta(&self, model: ModelKey, now: Instant) -> Duration {
        self.residency.eta(model, now)
    }

    /// Speed of loads: measured, or a guess while there was none.
    #[must_use]
    pub fn load_bytes_per_s(&self) -> u64 {
        self.residency.load_bytes_per_s() as u64
    }

    /// Measured speed of a model with this many threads of one lane, in tokens/s.
    #[must_use]
    pub fn model_rate(&self, model: ModelKey, threads: u16) -> Option<u32> {
        self.batcher.rate(model, threads).map(|rate| rate as u32)
    }
}
