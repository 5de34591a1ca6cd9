//! How long the queue is: for those who come, for those whom they would overtake, and for who asks.

use std::time::{Duration, Instant};

use shoal_protocol::message::Priority;

use super::super::ids::ModelKey;
use super::super::rate::seconds_to_duration;
use super::queue::due;
use super::standing::{WAIT_SHORT, WAIT_TARGET};
use super::{BULK_EVERY, BULK_WAIT, Batcher};

/// An eighth of every queue, and a batch, are kept between a promised end and its deadline, because speeds vary: where
/// the earliest deadline goes first, a queue that is sold to the last moment is late as a whole once it is late at all.
const MARGIN_PARTS: u32 = 8;

/// A request at a gate.
#[derive(Clone, Copy, Debug)]
pub(in crate::core) struct Newcomer {
    pub(in crate::core) model: ModelKey,
    pub(in crate::core) priority: Priority,
    pub(in crate::core) deadline: Option<Instant>,
    /// As far as they are known: none before it is tokenized.
    pub(in crate::core) tokens: u64,
}

impl Batcher {
    /// Time that the whole device needs for `tokens`; zero while unmeasured.
    pub(in crate::core) fn work_time(&self, model: ModelKey, tokens: u64) -> Duration {
        self.device_rate(model).map_or(Duration::ZERO, |rate| seconds_to_duration(tokens as f64 / rate))
    }

    /// Time for a request of `tokens` of its own: its last batch has all threads if nothing else waits, else one.
    /// Zero while unmeasured.
    pub(in crate::core) fn own_time(&self, model: ModelKey, tokens: u64, is_alone: bool) -> Duration {
        let last = tokens.min(self.budget(model));
        let one_thread = self.throttle.cap(self.rate(model, 1)).filter(|_| !is_alone);
        one_thread.map_or_else(
            || self.work_time(model, tokens),
            |rate| self.work_time(model, tokens - last) + seconds_to_duration(last as f64 / rate),
        )
    }

    /// Time until a batch could start if nothing were queued.
    pub(in crate::core) fn lane_wait(&self, now: Instant) -> Duration {
        self.lanes.wait(now).max(self.throttle.wait(now))
    }

    /// Time until the interactive work that is here has begun: what one more request would find that is in no hurry.
    pub(in crate::core) fn backlog(&self, now: Instant) -> Duration {
        self.lane_wait(now) + self.work(Priority::Interactive)
    }

    /// Time until what goes before the newcomer is done, with the margin: an upper bound where that is `enough` already,
    /// else by what would go before it.
    pub(in crate::core) fn queue_wait(
        &self,
        newcomer: &Newcomer,
        enough: Duration,
        now: Instant,
    ) -> Duration {
        let Newcomer { priority, deadline, .. } = *newcomer;
        let lane = self.lane_wait(now);
        let most = lane + self.margined(self.behind(priority, self.work(priority), now));
        if most <= enough {
            return most;
        }
        let ahead = self.queue.ahead(priority, due(priority, deadline, now));
        let ahead = ahead.map(|queued| self.work_time(queued.model, queued.tokens)).sum();
        lane + self.margined(self.behind(priority, ahead, now))
    }

    /// Time in which the device comes to what stands behind `ahead` of its own priority: the other one has its share.
    fn behind(&self, priority: Priority, ahead: Duration, now: Instant) -> Duration {
        match priority {
            Priority::Interactive => ahead + self.work(Priority::Bulk).min(ahead / (BULK_EVERY - 1)),
            Priority::Bulk => {
                let wait = self.work(Priority::Interactive) + self.shared(priority, ahead, now);
                let is_crowded_out = self.bulk_share(now) <= 1.0 / f64::from(BULK_EVERY);
                if is_crowded_out { wait.max(BULK_WAIT) } else { wait }
            }
        }
    }

    /// Time for `work` of a priority, beside what comes of the other.
    pub(in crate::core) fn shared(&self, priority: Priority, work: Duration, now: Instant) -> Duration {
        match priority {
            Priority::Interactive => work,
            Priority::Bulk => seconds_to_duration(work.as_secs_f64() / self.bulk_share(now)),
        }
    }

    /// What interactive work leaves of the device, as of late.
    fn bulk_share(&self, now: Instant) -> f64 {
        (1.0 - self.interactive.share(now)).max(1.0 / f64::from(BULK_EVERY))
    }

    fn margined(&self, wait: Duration) -> Duration {
        if wait.is_zero() { wait } else { wait + wait / MARGIN_PARTS + self.target }
    }

    /// How much sooner a refusal's cause is gone than what is over its time: the margin shrinks with the queue.
    pub(in crate::core) fn without_margin(excess: Duration) -> Duration {
        excess * MARGIN_PARTS / (MARGIN_PARTS + 1)
    }

    /// Whether somebody who waits already would be late because the newcomer, of `own` time, goes first.
    ///
    /// Only those are asked that are themselves no longer than the target: a call of thousands of texts must not close
    /// the device to single ones. Those that are late anyway have no say.
    pub(in crate::core) fn is_at_cost_of_others(
        &self,
        newcomer: &Newcomer,
        own: Duration,
        first_deadline: Option<Instant>,
        now: Instant,
    ) -> bool {
        let Newcomer { priority, deadline, .. } = *newcomer;
        let lane = self.lane_wait(now);
        let end = |ahead| lane + self.behind(priority, ahead, now);
        let promised = |ahead| lane + self.margined(self.behind(priority, ahead, now));
        let last = now + promised(self.work(priority) + own);
        if first_deadline.is_none_or(|first| last <= first) {
            return false;
        }
        let due = due(priority, deadline, now);
        let mut ahead = Duration::ZERO;
        self.queue.iter(priority).any(|queued| {
            let work = self.work_time(queued.model, queued.tokens);
            ahead += work;
            let Some(left) = queued.deadline.map(|deadline| deadline.saturating_duration_since(now)) else {
                return false;
            };
            queued.due > due && work <= WAIT_TARGET && end(ahead) <= left && promised(ahead + own) > left
        })
    }

    /// Where the queue stands: when somebody of this priority would be taken again, if not now.
    ///
    /// Bulk work has the share that it is owed, and no more of it waits here than that share does in some 2 s: a longer
    /// backlog would only outlast the flood of interactive work, in everybody's way. A queue of bulk work alone is
    /// in nobody's, and never stands.
    pub(in crate::core) fn refuses_for(&self, priority: Priority, now: Instant) -> Option<Duration> {
        if !self.is_standing(now) {
            return None;
        }
        let waiting = self.work(priority);
        match priority {
            Priority::Interactive => {
                let wait = if waiting > WAIT_TARGET { self.newcomer_wait(|_| true, now) } else { waiting };
                (wait > WAIT_TARGET).then(|| wait - WAIT_SHORT)
            }
            Priority::Bulk => (waiting > WAIT_SHORT).then(|| waiting * BULK_EVERY),
        }
    }

    /// Whether the queue stands.
    pub(in crate::core) fn is_standing(&self, now: Instant) -> bool {
        // Nobody looked since it was worked off, where nobody came.
        self.work(Priority::Interactive) >= WAIT_SHORT && self.standing.stands(now)
    }

    /// Somebody comes: how the queue is before that.
    pub(in crate::core) fn handle_arrival(&mut self, is_runnable: impl Fn(ModelKey) -> bool, now: Instant) {
        self.standing.handle_wait(self.runnable_work(is_runnable), now);
    }

    /// The queue got shorter.
    pub(super) fn handle_shorter(&mut self, is_runnable: &impl Fn(ModelKey) -> bool, now: Instant) {
        let mut wait = self.runnable_work(is_runnable);
        if wait >= WAIT_SHORT {
            wait = self.newcomer_wait(is_runnable, now);
        }
        self.standing.handle_wait(wait, now);
    }

    /// Time behind what goes before an interactive request without a deadline: a call that has had much of the device
    /// does not.
    fn newcomer_wait(&self, is_counted: impl Fn(ModelKey) -> bool, now: Instant) -> Duration {
        let ahead = self.queue.ahead(Priority::Interactive, due(Priority::Interactive, None, now));
        let counted = ahead.filter(|queued| is_counted(queued.model));
        counted.map(|queued| self.work_time(queued.model, queued.tokens)).sum()
    }

    /// Interactive work whose model may run: what waits for a load keeps no lane busy.
    fn runnable_work(&self, is_runnable: impl Fn(ModelKey) -> bool) -> Duration {
        let runnable = self.queue.models().filter(|(model, _)| is_runnable(*model));
        runnable.map(|(model, waiting)| self.work_time(model, waiting.of(Priority::Interactive))).sum()
    }

    /// Time of the device that waits in a priority.
    fn work(&self, priority: Priority) -> Duration {
        self.queue.models().map(|(model, waiting)| self.work_time(model, waiting.of(priority))).sum()
    }
}
