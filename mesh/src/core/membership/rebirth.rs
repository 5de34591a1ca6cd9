//! Going on under another generation, because the mesh holds the present one for dead.

use std::time::Instant;

use super::parameters::{GENERATION_AHEAD_MAX, GENERATION_MAX, RENEW_PERIOD_MIN, RENEW_RECENT};

/// When to renew, and to which generation.
#[derive(Debug)]
pub(super) struct Rebirth {
    /// When this process started, and its generation then: what it knows of the time of day.
    birth: (Instant, u64),
    due: Option<Instant>,
    last: Option<Instant>,
    step: u64,
    /// The highest generation that others claim we have.
    claimed: u64,
    untold: bool,
}

impl Rebirth {
    pub(super) fn new(generation: u64, now: Instant) -> Self {
        Self { birth: (now, generation), due: None, last: None, step: 1, claimed: 0, untold: false }
    }

    /// Whether clocks that are set explain `generation`, anybody's.
    pub(super) fn is_plausible(&self, generation: u64, now: Instant) -> bool {
        let (start, birth) = self.birth;
        let elapsed_ms = u64::try_from(now.saturating_duration_since(start).as_millis()).unwrap_or(u64::MAX);
        let clock = birth.saturating_add(elapsed_ms);
        generation <= clock.saturating_add(GENERATION_AHEAD_MAX).min(GENERATION_MAX)
    }

    /// The mesh holds our present generation for dead.
    pub(super) fn handle_defunct(&mut self, now: Instant) {
        let soonest = self.last.map_or(now, |last| last + RENEW_PERIOD_MIN);
        self.due = Some(soonest.max(now));
    }

    /// Somebody claims that we are at `generation`, beyond the one that we are at.
    pub(super) fn handle_claim(&mut self, generation: u64, now: Instant) {
        self.claimed = self.claimed.max(generation);
        self.handle_defunct(now);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due
    }

    /// The generation to go on under, if it is time: above `present` and above every claim.
    pub(super) fn poll(&mut self, present: u64, now: Instant) -> Option<u64> {
        self.due.take_if(|due| *due <= now)?;
        let recent = self.last.is_some_and(|last| now.saturating_duration_since(last) < RENEW_RECENT);
        self.step = if recent { self.step.saturating_mul(2) } else { 1 };
        self.last = Some(now);
        self.untold = true;
        let next = present.saturating_add(self.step).max(self.claimed.saturating_add(1));
        Some(next.min(GENERATION_MAX))
    }

    /// Whether the owner has yet to hear of the last renewal.
    pub(super) fn take_untold(&mut self) -> bool {
        std::mem::take(&mut self.untold)
    }
}
