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
pub(super) struct Timeline<E> {
    start: Instant,
    now: Instant,
    sequence: u64,
    planned: BinaryHeap<Reverse<Planned<E>>>,
    trace: DefaultHasher,
    happened: u64,
}

impl<E: Hash> Timeline<E> {
    /// Nothing planned, at time zero.
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant cannot be made otherwise; all others are relative to it"
    )]
    pub(super) fn new() -> Self {
        let start = Instant::now();
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
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// Time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Where time began.
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// Events that have happened.
    pub(super) fn happened(&self) -> u64 {
        self.happened
    }

    /// A hash of all that has happened, and when.
    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Plans an event; one for the past happens now.
    pub(super) fn plan(&mut self, at: Instant, event: E) {
        self.sequence += 1;
        self.planned.push(Reverse(Planned { at: at.max(self.now), sequence: self.sequence, event }));
    }

    /// The next event not after `end`; time moves to it, or to `end` where there is none.
    pub(super) fn next(&mut self, end: Instant) -> Option<E> {
        if self.planned.peek().is_none_or(|Reverse(planned)| planned.at > end) {
            self.now = self.now.max(end);
            return None;
        }
        let Reverse(planned) = self.planned.pop()?;
        self.now = planned.at;
        self.happened += 1;
        (self.elapsed(), &planned.event).hash(&mut self.trace);
        Some(planned.event)
    }
}
