//! One device: admission, batching and residency composed.

mod gate;
mod lanes;
mod models;
mod report;
mod request;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use slotmap::SlotMap;

use self::request::Request;
use super::admission::{Admission, bounded_retry};
use super::batcher::{Batcher, Newcomer};
use super::config::CoreConfig;
use super::drain::{Drain, DrainOutput};
use super::error::RequestError;
use super::event::{BatchItem, Output, RequestSpec, StageTimes, TokenizedPiece};
use super::ids::{ModelKey, RequestKey};
use super::residency::{Residency, ResidencyOutput};

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
/// load if need be. The shell tokenizes and calls [`handle_tokenized`](Self::handle_tokenized) for each piece (gate 2:
/// tokens, deadline). Items are batched, run and delivered by [`handle_batch_done`](Self::handle_batch_done). The request
/// ends in exactly one of `Output::Finished`, `Output::Failed` and [`handle_cancel`](Self::handle_cancel); its key
/// names nothing afterwards, and events about it are ignored.
///
/// # A hung lane
/// A batch that overruns three times its estimate (and the floor) is given up: `Output::LaneHung`. Requests of
/// that batch are requeued once and, if it happens to them again, fail with `DeviceFailed`: batch-mates of one
/// poisonous text survive it. Three hangs without a finished batch in between, or sixteen in all, end the device:
/// `Output::DeviceFailed`; its supervisor makes a new core, whose counters start at zero.
#[derive(Debug)]
pub struct DeviceCore {
    config: CoreConfig,
    admission: Admission,
    batcher: Batcher,
    residency: Residency,
    drain: Drain,
    requests: SlotMap<RequestKey, Request>,
    deadlines: BTreeSet<(Instant, RequestKey)>,
    outputs: VecDeque<Output>,
    /// The items that the last `handle_batch_done` returned.
    delivered: Vec<BatchItem>,
    /// Lanes that hung, ever and since a batch was last done.
    hangs: u32,
    hangs_in_a_row: u32,
    failed: bool,
    cancelled: u64,
    expired: u64,
    restarts: u64,
}

impl DeviceCore {
    /// An idle device without models.
    #[must_use]
    pub fn new(config: CoreConfig) -> Self {
        Self {
            admission: Admission::new(&config),
            batcher: Batcher::new(&config),
            residency: Residency::new(&config),
            drain: Drain::new(),
            requests: SlotMap::with_key(),
            deadlines: BTreeSet::new(),
            outputs: VecDeque::new(),
            delivered: Vec::new(),
            hangs: 0,
            hangs_in_a_row: 0,
            failed: false,
            cancelled: 0,
            expired: 0,
            restarts: 0,
            config,
        }
    }

    /// What it decides by.
    #[must_use]
    pub fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// Gate 1, before tokenizing: the byte and request budgets, draining, and whether the model can ever be served.
    ///
    /// # Errors
    /// Why it is refused; nothing is held then.
    pub fn handle_request(&mut self, spec: RequestSpec, now: Instant) -> Result<RequestKey, RequestError> {
        let admitted = self.admit(spec, now);
        if admitted.is_err() {
            self.admission.handle_shed();
        }
        self.advance(now);
        admitted
    }

    fn admit(&mut self, spec: RequestSpec, now: Instant) -> Result<RequestKey, RequestError> {
        self.check_open()?;
        self.residency.check(spec.model, now)?;
        if spec.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(RequestError::Expired);
        }
        self.check_arrival(&spec, now)?;
        let permit = self.admission.handle_request(spec.bytes, spec.priority, now)?;
        self.residency.handle_acquired(spec.model, now);
        let request = self.requests.insert(Request {
            permit,
            model: spec.model,
            priority: spec.priority,
            deadline: spec.deadline,
            queued_at: None,
            is_tokenizing: true,
            items_left: 0,
            items_running: 0,
            requeued: false,
            stages: StageTimes::default(),
            started: false,
        });
        self.deadlines.extend(spec.deadline.map(|deadline| (deadline, request)));
        Ok(request)
    }

    /// Whether anything new is taken at all.
    fn check_open(&self) -> Result<(), RequestError> {
        if self.failed {
            return Err(RequestError::DeviceFailed);
        }
        if self.drain.is_draining() {
            return Err(RequestError::Draining);
        }
        Ok(())
    }

    /// Gate 2, for each piece as it is tokenized: tokens against the queue's bound and, once, the deadline, both for
    /// the whole request as far as the first piece foretells it. A refusal comes as `Output::Failed`. A request
    /// whose items all failed by themselves is finished after its last piece.
    pub fn handle_tokenized(&mut self, request: RequestKey, piece: TokenizedPiece<'_>, now: Instant) {
        if let Err(error) = self.enqueue(request, piece, now) {
            self.admission.handle_shed();
            self.fail(request, error, now);
        }
        self.advance(now);
    }

    fn enqueue(
        &mut self,
        key: RequestKey,
        TokenizedPiece { items, bytes_left }: TokenizedPiece<'_>,
        now: Instant,
    ) -> Result<(), RequestError> {
        let Some(request) = self.requests.get_mut(key).filter(|request| request.is_tokenizing) else {
            return Ok(());
        };
        request.is_tokenizing = bytes_left.is_some();
        request.items_left += items.len();
        if request.is_answered() {
            self.finish(key, now);
            return Ok(());
        }
        if items.is_empty() {
            return Ok(());
        }
        let is_first = request.queued_at.is_none();
        request.queued_at.get_or_insert(now);
        let tokens = items.iter().map(|item| u64::from(item.tokens)).sum();
        let bytes_left = bytes_left.unwrap_or(0);
        let (model, priority, deadline) = (request.model, request.priority, request.deadline);
        if is_first {
            let tokens = request.permit.tokens_expected(tokens, bytes_left);
            self.check_queue(&Newcomer { model, priority, deadline, tokens }, now)?;
        }
        if let Some(request) = self.requests.get_mut(key) {
            self.admission.handle_queued(&mut request.permit, tokens, bytes_left, now)?;
        }
        self.batcher.handle_items(key, model, priority, deadline, items, now);
        Ok(())
    }

    /// The shell has no room (`what`) for a request that gate 1 admitted: it is shed as by a gate.
    pub fn handle_shed(&mut self, request: RequestKey, what: &'static str, now: Instant) {
        if let Some(model) = self.requests.get(request).map(|request| request.model) {
            let retry_after = bounded_retry(self.predicted(model, 0, now));
            self.admission.handle_shed();
            self.fail(request, RequestError::Overloaded { what, retry_after }, now);
        }
        self.advance(now);
    }

    /// The caller went away. The request ends here, without an output; its running items are computed and dropped.
    pub fn handle_cancel(&mut self, request: RequestKey, now: Instant) {
        if self.end(request, now).is_some() {
            self.cancelled += 1;
        }
        self.advance(now);
    }

    /// Leave: no new request from now on; what is admitted is done until `deadline`, then failed.
    pub fn handle_drain(&mut self, deadline: Instant, now: Instant) {
        self.drain.handle_notice(deadline);
        self.advance(now);
    }

    /// Another node holds the model: while leaving, what waits for it here and has not begun goes there.
    pub fn handle_held_elsewhere(&mut self, model: ModelKey, now: Instant) {
        if self.drain.is_draining() {
            let is_waiting = |request: &Request| request.model == model && !request.started;
            self.fail_where(is_waiting, &RequestError::HeldElsewhere, now);
        }
        self.advance(now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.give_up_hung(now);
        self.drain.handle_timeout(now);
        self.advance(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let deadline = self.deadlines.first().map(|(at, _)| (*at, "request deadline"));
        let batcher = self.batcher.poll_timeout(|model| self.residency.is_ready(model));
        [deadline, batcher, self.residency.poll_timeout(), self.drain.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Everything that follows from the last event: expiries, then leaving, then loads and evictions, then batches.
    fn advance(&mut self, now: Instant) {
        self.expire(now);
        self.leave(now);
        self.residency.advance(now);
        while let Some(output) = self.residency.poll_output() {
            match output {
                ResidencyOutput::Load(model) => self.outputs.push_back(Output::Load { model }),
                ResidencyOutput::Evict(model) => self.outputs.push_back(Output::Evict { model }),
                ResidencyOutput::Refuse(model, error) => {
                    self.fail_model(model, &error, now);
                    self.leave(now);
                    self.residency.advance(now);
                }
            }
        }
        self.start_batches(now);
    }

    fn leave(&mut self, now: Instant) {
        while let Some(output) = self.drain.poll_output(self.requests.len()) {
            match output {
                DrainOutput::Announce => self.outputs.push_back(Output::Draining),
                DrainOutput::Abort => self.fail_all(&RequestError::Draining, now),
                DrainOutput::Done => self.outputs.push_back(Output::Drained),
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, request)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.expired += 1;
            self.fail(request, RequestError::Expired, now);
        }
    }

    /// Every item was delivered.
    fn finish(&mut self, request: RequestKey, now: Instant) {
        if let Some(ended) = self.end(request, now) {
            self.outputs.push_back(Output::Finished { request, stages: ended });
        }
    }

    fn fail(&mut self, request: RequestKey, error: RequestError, now: Instant) {
        if self.end(request, now).is_some() {
            self.outputs.push_back(Output::Failed { request, error });
        }
    }

    fn fail_all(&mut self, error: &RequestError, now: Instant) {
        self.fail_where(|_| true, error, now);
    }

    fn fail_model(&mut self, model: ModelKey, error: &RequestError, now: Instant) {
        self.fail_where(|request| request.model == model, error, now);
    }

    fn fail_where(&mut self, mut is_hit: impl FnMut(&Request) -> bool, error: &RequestError, now: Instant) {
        let hit: Vec<RequestKey> =
            self.requests.iter().filter(|(_, request)| is_hit(request)).map(|(key, _)| key).collect();
        for request in hit {
            self.fail(request, error.clone(), now);
        }
    }

    /// The one place where a request ends, however: its permit, deadline, queued items and hold on the model go.
    fn end(&mut self, key: RequestKey, now: Instant) -> Option<StageTimes> {
        let request = self.requests.remove(key)?;
        if let Some(deadline) = request.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        self.batcher.handle_removed(key);
        self.residency.handle_released(request.model, now);
        self.admission.handle_released(request.permit, now);
        Some(request.stages)
    }
}
