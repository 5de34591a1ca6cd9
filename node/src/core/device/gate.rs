//! Whether the queue has a place for who comes: before it is tokenized, and when it is.

use std::time::{Duration, Instant};

use shoal_protocol::message::Priority;

use super::super::admission::bounded_retry;
use super::super::batcher::{Batcher, Newcomer};
use super::super::error::RequestError;
use super::super::event::RequestSpec;
use super::super::ids::RequestKey;
use super::DeviceCore;

impl DeviceCore {
    /// Gate 1. It knows of the queue what gate 2 knows, and nothing of the newcomer's tokens: what it refuses, gate 2
    /// would have refused after the work of tokenizing it, and that of starting to load its model.
    pub(super) fn check_arrival(&mut self, spec: &RequestSpec, now: Instant) -> Result<(), RequestError> {
        let RequestSpec { model, priority, deadline, .. } = *spec;
        self.batcher.handle_arrival(|model| self.residency.is_ready(model), now);
        self.check_standing(priority, now)?;
        let newcomer = Newcomer { model, priority, deadline, tokens: 0 };
        self.check_deadline(&newcomer, Duration::ZERO, now)
    }

    /// Gate 2.
    pub(super) fn check_queue(&self, newcomer: &Newcomer, now: Instant) -> Result<(), RequestError> {
        self.check_standing(newcomer.priority, now)?;
        let load = self.residency.measured_eta(newcomer.model, now);
        self.check_deadline(newcomer, load, now)?;
        let own = self.batcher.work_time(newcomer.model, newcomer.tokens);
        let first_deadline = self.deadlines.first().map(|(at, _)| *at);
        if newcomer.deadline.is_some()
            && self.batcher.is_at_cost_of_others(newcomer, own, first_deadline, now)
        {
            let retry_after = bounded_retry(self.batcher.backlog(now));
            return Err(RequestError::Overloaded { what: "earlier promises", retry_after });
        }
        Ok(())
    }

    fn check_standing(&self, priority: Priority, now: Instant) -> Result<(), RequestError> {
        let wait = self.batcher.refuses_for(priority, now);
        wait.map_or(Ok(()), |wait| {
            Err(RequestError::Overloaded { what: "standing queue", retry_after: bounded_retry(wait) })
        })
    }

    /// Refuses what by the measured rates cannot meet its deadline.
    fn check_deadline(&self, newcomer: &Newcomer, load: Duration, now: Instant) -> Result<(), RequestError> {
        let Newcomer { model, priority, deadline: Some(deadline), tokens } = *newcomer else {
            return Ok(());
        };
        let left = deadline.saturating_duration_since(now);
        let alone = self.batcher.own_time(model, tokens, true);
        let enough = left.saturating_sub(alone);
        let queue = self.batcher.queue_wait(newcomer, enough, now);
        let own = self.batcher.own_time(model, tokens, queue.is_zero());
        let predicted = queue.max(load) + self.batcher.shared(priority, own, now);
        if predicted <= left {
            return Ok(());
        }
        let sooner = bounded_retry(Batcher::without_margin(predicted - left));
        Err(RequestError::DeadlineUnreachable { predicted, retry_after: (alone <= left).then_some(sooner) })
    }

    /// What waits and could only be done after its deadline, were it in the next batch, is given up before that one is
    /// filled: computing it would be for nobody, and make the next ones late as well.
    pub(super) fn give_up_late(&mut self, now: Instant) {
        let Some(end) = self.batcher.next_end(|model| self.residency.is_ready(model), now) else {
            return;
        };
        let near = self.deadlines.iter().take_while(|(deadline, _)| *deadline < end);
        let waits = |key: &RequestKey| {
            self.requests
                .get(*key)
                .is_some_and(|request| request.queued_at.is_some() && request.items_running == 0)
        };
        let late: Vec<RequestKey> = near.map(|(_, key)| *key).filter(waits).collect();
        for request in late {
            self.expired += 1;
            self.fail(request, RequestError::Expired, now);
        }
    }
}
