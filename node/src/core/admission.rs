//! Who may come in: byte and request budgets before tokenizing, the token budget after, and honest refusals.

use std::time::{Duration, Instant};

use shoal_protocol::message::Priority;

use super::config::CoreConfig;
use super::error::RequestError;
use super::rate::DrainMeter;

/// Share of each budget that bulk work may fill, in percent: it is shed first, and interactive work always finds
/// the rest.
const BULK_SHARE_PERCENT: u64 = 75;
/// Shortest retry hint: an earlier one would only add load.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);
/// Longest retry hint: client libraries take a larger one for "do not retry".
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// The hint before anything was measured.
const RETRY_AFTER_UNMEASURED: Duration = Duration::from_secs(1);

/// Held to bound retry hints, wherever they were computed.
pub(super) fn bounded_retry(hint: Duration) -> Duration {
    hint.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
}

/// What one request holds of the budgets. Not `Clone`: it is released exactly once, by value.
#[derive(Debug)]
#[must_use = "a permit that is dropped instead of released shrinks the budget for ever"]
pub(super) struct Permit {
    priority: Priority,
    bytes: u64,
    /// Tokens counted so far, wherever they are now.
    tokens: u64,
    /// Those of them that wait for a batch.
    queued_tokens: u64,
    /// Room for the texts that are not tokenized yet.
    expected_tokens: u64,
}

impl Permit {
    /// Tokens of all its texts once `piece` more are counted and `bytes_left` bytes are not: what is left is expected
    /// to be like what was counted, with at most a token a byte. Exact when nothing is left.
    pub(super) fn tokens_expected(&self, piece: u64, bytes_left: u64) -> u64 {
        let counted = self.tokens.saturating_add(piece);
        let bytes_done = self.bytes.saturating_sub(bytes_left).max(counted).max(1);
        let rest = u128::from(bytes_left) * u128::from(counted) / u128::from(bytes_done);
        counted.saturating_add(u64::try_from(rest).unwrap_or(u64::MAX))
    }
}

/// One budget: what is used of it and how fast it comes back.
#[derive(Debug)]
struct Budget {
    what: &'static str,
    used: u64,
    max: u64,
    drain: DrainMeter,
}

impl Budget {
    fn new(what: &'static str, max: u64) -> Self {
        Self { what, used: 0, max, drain: DrainMeter::default() }
    }

    /// Whether `amount` more fits under the share of this priority. An idle budget takes anything up to its bound,
    /// or a bulk request between the two could never be admitted.
    fn check(&self, amount: u64, priority: Priority, now: Instant) -> Result<(), RequestError> {
        if amount > self.max {
            return Err(RequestError::TooLarge { what: self.what, asked: amount, limit: self.max });
        }
        let share = self.share(priority);
        let wanted = self.used.saturating_add(amount);
        if self.used == 0 || wanted <= share {
            return Ok(());
        }
        let excess = (wanted - share).min(self.used);
        let hint = self.drain.time_to_drain(excess, now).unwrap_or(RETRY_AFTER_UNMEASURED);
        Err(RequestError::Overloaded { what: self.what, retry_after: bounded_retry(hint) })
    }

    fn share(&self, priority: Priority) -> u64 {
        match priority {
            Priority::Interactive => self.max,
            Priority::Bulk => self.max - self.max.saturating_mul(100 - BULK_SHARE_PERCENT) / 100,
        }
    }

    fn take(&mut self, amount: u64, now: Instant) {
        if self.used == 0 && amount > 0 {
            self.drain.handle_busy(now);
        }
        self.used = self.used.saturating_add(amount);
    }

    fn give_back(&mut self, amount: u64, now: Instant) {
        if amount == 0 {
            return;
        }
        debug_assert!(self.used >= amount, "{}: given back more than taken", self.what);
        self.used = self.used.saturating_sub(amount);
        self.drain.handle_left(amount, self.used == 0, now);
    }

    fn level(&self) -> u8 {
        u8::from(self.used >= self.share(Priority::Bulk)) + u8::from(self.used >= self.max)
    }
}

/// The two gates of a device. Every amount taken belongs to one [`Permit`].
#[derive(Debug)]
pub(super) struct Admission {
    requests: Budget,
    bytes: Budget,
    tokens: Budget,
    shed: u64,
}

impl Admission {
    pub(super) fn new(config: &CoreConfig) -> Self {
        Self {
            requests: Budget::new("requests", u64::from(config.requests_max)),
            bytes: Budget::new("bytes", config.admitted_bytes_max),
            tokens: Budget::new("tokens", config.queue_tokens_max),
            shed: 0,
        }
    }

    /// Gate 1.
    pub(super) fn handle_request(
        &mut self,
        bytes: u64,
        priority: Priority,
        now: Instant,
    ) -> Result<Permit, RequestError> {
        self.requests.check(1, priority, now)?;
        self.bytes.check(bytes, priority, now)?;
        // A full queue is known to refuse: tokenizing for it would be lost work.
        self.tokens.check(1, priority, now)?;
        self.requests.take(1, now);
        self.bytes.take(bytes, now);
        Ok(Permit { priority, bytes, tokens: 0, queued_tokens: 0, expected_tokens: 0 })
    }

    /// Gate 2, for each piece of a request. The first one decides: it takes room for the whole request, so that what
    /// begins also ends. Later ones correct what was expected; they may use the room that is kept for interactive
    /// work, and are refused only where the bound itself would break. On an error the permit holds what it held.
    pub(super) fn handle_queued(
        &mut self,
        permit: &mut Permit,
        tokens: u64,
        bytes_left: u64,
        now: Instant,
    ) -> Result<(), RequestError> {
        let max = self.tokens.max;
        let counted = permit.tokens.saturating_add(tokens);
        if counted > max {
            return Err(RequestError::TooLarge { what: self.tokens.what, asked: counted, limit: max });
        }
        // An expectation never says "too large": only what was counted does.
        let expected = permit.tokens_expected(tokens, bytes_left).min(max) - counted;
        let (held, wanted) = (permit.expected_tokens, tokens + expected);
        let priority = if permit.tokens == 0 { permit.priority } else { Priority::Interactive };
        if wanted > held {
            self.tokens.check(wanted - held, priority, now)?;
            self.tokens.take(wanted - held, now);
        } else {
            self.tokens.give_back(held - wanted, now);
        }
        permit.tokens = counted;
        permit.queued_tokens += tokens;
        permit.expected_tokens = expected;
        Ok(())
    }

    /// Tokens of a batch that was given up go back to the queue. They were admitted before, so the bound does not
    /// refuse them.
    pub(super) fn handle_requeued(&mut self, permit: &mut Permit, tokens: u64, now: Instant) {
        permit.queued_tokens = permit.queued_tokens.saturating_add(tokens);
        self.tokens.take(tokens, now);
    }

    /// Tokens left the queue for a batch.
    pub(super) fn handle_started(&mut self, permit: &mut Permit, tokens: u64, now: Instant) {
        permit.queued_tokens = permit.queued_tokens.saturating_sub(tokens);
        self.tokens.give_back(tokens, now);
    }

    /// The request ended.
    pub(super) fn handle_released(&mut self, permit: Permit, now: Instant) {
        self.requests.give_back(1, now);
        self.bytes.give_back(permit.bytes, now);
        self.tokens.give_back(permit.queued_tokens + permit.expected_tokens, now);
    }

    /// Somebody was refused, here or by a deadline that could not be met.
    pub(super) fn handle_shed(&mut self) {
        self.shed += 1;
    }

    /// 0: takes everything; 1: sheds bulk; 2: sheds everything.
    pub(super) fn shed_level(&self) -> u8 {
        [&self.requests, &self.bytes, &self.tokens].into_iter().map(Budget::level).max().unwrap_or(0)
    }

    pub(super) fn requests(&self) -> u32 {
        u32::try_from(self.requests.used).unwrap_or(u32::MAX)
    }

    pub(super) fn admitted_bytes(&self) -> u64 {
        self.bytes.used
    }

    pub(super) fn queue_tokens(&self) -> u64 {
        self.tokens.used
    }

    pub(super) fn shed(&self) -> u64 {
        self.shed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::origin;
    use super::*;

    fn admission() -> Admission {
        Admission::new(&CoreConfig {
            requests_max: 8,
            admitted_bytes_max: 1000,
            queue_tokens_max: 400,
            ..CoreConfig::default()
        })
    }

    fn overloaded(result: Result<Permit, RequestError>) -> (&'static str, Duration) {
        match result {
            Err(RequestError::Overloaded { what, retry_after }) => (what, retry_after),
            other => panic!("expected Overloaded, got {other:?}"),
        }
    }

    #[test]
    fn bulk_is_shed_before_interactive() {
        let (mut admission, now) = (admission(), origin());
        let held = admission.handle_request(750, Priority::Bulk, now).unwrap();
        assert_eq!(admission.shed_level(), 1);
        assert_eq!(overloaded(admission.handle_request(10, Priority::Bulk, now)).0, "bytes");
        let urgent = admission.handle_request(250, Priority::Interactive, now).unwrap();
        assert_eq!(admission.shed_level(), 2);
        assert_eq!(overloaded(admission.handle_request(1, Priority::Interactive, now)).0, "bytes");
        admission.handle_released(held, now);
        admission.handle_released(urgent, now);
        assert_eq!((admission.shed_level(), admission.requests(), admission.admitted_bytes()), (0, 0, 0));
    }

    #[test]
    fn a_request_over_the_whole_budget_is_told_to_split() {
        let (mut admission, now) = (admission(), origin());
        let refusal = admission.handle_request(1001, Priority::Interactive, now).unwrap_err();
        assert_eq!(refusal, RequestError::TooLarge { what: "bytes", asked: 1001, limit: 1000 });
        assert_eq!(refusal.retry_after(), None);
        let permit = admission.handle_request(1000, Priority::Bulk, now).expect("an idle device takes it");
        admission.handle_released(permit, now);
    }

    #[test]
    fn the_retry_hint_is_the_measured_time_to_make_room() {
        let (mut admission, start) = (admission(), origin());
        let unmeasured = admission.handle_request(1000, Priority::Interactive, start).unwrap();
        assert_eq!(
            overloaded(admission.handle_request(1, Priority::Interactive, start)).1,
            RETRY_AFTER_UNMEASURED
        );
        let now = start + Duration::from_secs(2);
        admission.handle_released(unmeasured, now);
        let held = admission.handle_request(1000, Priority::Interactive, now).unwrap();
        let (_, hint) = overloaded(admission.handle_request(500, Priority::Interactive, now));
        assert_eq!(hint, Duration::from_secs(1), "500 bytes over, 500 bytes/s measured");
        let stalled = now + Duration::from_secs(3600);
        let (_, hint) = overloaded(admission.handle_request(500, Priority::Interactive, stalled));
        assert_eq!(hint, RETRY_AFTER_MAX);
        admission.handle_released(held, stalled);
    }

    #[test]
    fn a_full_token_queue_refuses_before_tokenizing() {
        let (mut admission, now) = (admission(), origin());
        let mut first = admission.handle_request(1, Priority::Interactive, now).unwrap();
        admission.handle_queued(&mut first, 400, 0, now).unwrap();
        assert_eq!(overloaded(admission.handle_request(1, Priority::Interactive, now)).0, "tokens");
        admission.handle_started(&mut first, 400, now);
        let mut second = admission.handle_request(1, Priority::Interactive, now).unwrap();
        admission.handle_requeued(&mut first, 400, now);
        assert!(admission.handle_queued(&mut second, 1, 0, now).is_err());
        admission.handle_released(first, now);
        admission.handle_released(second, now);
        assert_eq!(admission.queue_tokens(), 0);
    }

    #[test]
    fn the_first_piece_takes_room_for_the_whole_request() {
        let (mut admission, now) = (admission(), origin());
        let mut large = admission.handle_request(300, Priority::Bulk, now).unwrap();
        admission.handle_queued(&mut large, 50, 200, now).unwrap();
        assert_eq!(admission.queue_tokens(), 150, "50 of 100 bytes, so 100 more of the 200 that are left");
        let mut other = admission.handle_request(300, Priority::Bulk, now).unwrap();
        let refused = admission.handle_queued(&mut other, 100, 200, now).unwrap_err();
        assert!(matches!(refused, RequestError::Overloaded { what: "tokens", .. }), "{refused:?}");
        admission.handle_started(&mut large, 50, now);
        admission.handle_queued(&mut large, 70, 100, now).unwrap();
        assert_eq!(admission.queue_tokens(), 70 + 60, "corrected to 120 of 200 bytes");
        admission.handle_queued(&mut large, 20, 0, now).unwrap();
        assert_eq!(admission.queue_tokens(), 90, "exact in the end");
        admission.handle_released(large, now);
        admission.handle_released(other, now);
        assert_eq!(admission.queue_tokens(), 0);
    }

    #[test]
    fn what_has_begun_is_refused_only_by_the_bound_itself() {
        let (mut admission, now) = (admission(), origin());
        let mut begun = admission.handle_request(600, Priority::Bulk, now).unwrap();
        admission.handle_queued(&mut begun, 10, 500, now).unwrap();
        assert_eq!(admission.queue_tokens(), 60);
        admission.handle_queued(&mut begun, 330, 100, now).unwrap();
        assert_eq!(admission.queue_tokens(), 400, "beyond the share of bulk work, but not beyond the bound");
        let refused = admission.handle_queued(&mut begun, 70, 0, now).unwrap_err();
        assert_eq!(refused, RequestError::TooLarge { what: "tokens", asked: 410, limit: 400 });
        admission.handle_released(begun, now);
        assert_eq!(admission.queue_tokens(), 0);
    }

    proptest! {
        /// Whatever the order of gates, starts and ends, the budgets hold and come back to zero.
        #[test]
        fn permits_are_conserved(steps in prop::collection::vec((0u8..4, 0u64..500, any::<bool>()), 1..200)) {
            let (mut admission, mut now) = (admission(), origin());
            let mut held: Vec<Permit> = Vec::new();
            for (kind, amount, bulk) in steps {
                now += Duration::from_millis(amount % 7);
                let at = usize::try_from(amount).unwrap_or(0) % held.len().max(1);
                let priority = if bulk { Priority::Bulk } else { Priority::Interactive };
                match (kind, held.get_mut(at)) {
                    (0, _) => held.extend(admission.handle_request(amount, priority, now).ok()),
                    (1, Some(permit)) => {
                        let bytes_left = permit.bytes.saturating_sub(amount * 2);
                        drop(admission.handle_queued(permit, amount / 3, bytes_left, now));
                    }
                    (2, Some(permit)) => {
                        let tokens = permit.queued_tokens.min(amount);
                        admission.handle_started(permit, tokens, now);
                    }
                    (3, Some(_)) => admission.handle_released(held.swap_remove(at), now),
                    _ => {}
                }
                prop_assert!(admission.admitted_bytes() <= 1000);
                prop_assert!(admission.queue_tokens() <= 400);
                prop_assert_eq!(admission.requests() as usize, held.len());
                prop_assert_eq!(admission.admitted_bytes(), held.iter().map(|permit| permit.bytes).sum::<u64>());
            }
            for permit in held {
                admission.handle_released(permit, now);
            }
            prop_assert_eq!(
                (admission.requests(), admission.admitted_bytes(), admission.queue_tokens(), admission.shed_level()),
                (0, 0, 0, 0)
            );
        }
    }
}
