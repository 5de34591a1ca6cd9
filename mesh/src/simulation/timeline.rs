//! Virtual time: what will happen, by its moment; ties in the order in which they were planned.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

struct Planned<E> {
    at: Instant,
    sequence: u64,
    event: E,
}

impl<E> Planned<E> {
    fn order(&self) -> (Instant, u64) {
        (self.at, self.sequence)
    }
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

/// The clock and everything that is going to happen. What happened is hashed: two runs with one hash were the same.
pub struct Timeline<E> {
    start: Instant,
    now: Instant,
    sequence: u64,
    planned: BinaryHeap<Reverse<Planned<E>>>,
    trace: DefaultHasher,
    happened: u64,
}

impl<E: Hash> Default for Timeline<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Hash> Timeline<E> {
    /// Nothing planned, at time zero.
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant cannot be made otherwise; all others are relative to it"
    )]
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(Instant::now())
    }

    /// Nothing planned, at the time zero of another one.
    #[must_use]
    pub fn starting_at(start: Instant) -> Self {
        Self {
            start,
            now: start,
            sequence: 0,
            planned: BinaryHeap::new(),
            trace: DefaultHasher::new(),
            happened: 0,
        }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Where time began.
    #[must_use]
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Events that have happened.
    #[must_use]
    pub fn happened(&self) -> u64 {
        self.happened
    }

    /// A hash of all that has happened, and when.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// When the next event happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.planned.peek().map(|Reverse(planned)| planned.at)
    }

    /// Something happened now that was planned elsewhere.
    pub fn note(&mut self, event: impl Hash) {
        self.happened += 1;
        (self.elapsed(), event).hash(&mut self.trace);
    }

    /// Plans an event; one for the past happens now.
    pub fn plan(&mut self, at: Instant, event: E) {
        self.sequence += 1;
        self.planned.push(Reverse(Planned { at: at.max(self.now), sequence: self.sequence, event }));
    }

    /// The next event not after `end`; time moves to it, or to `end` where there is none.
    pub fn next(&mut self, end: Instant) -> Option<E> {
        if self.planned.peek().is_none_or(|Reverse(planned)| planned.at > end) {
            self.now = self.now.max(end);
            return None;
        }
        let Reverse(planned) = self.planned.pop()?;
        self.now = planned.at;
        self.note(&planned.event);
        Some(planned.event)
    }
}
