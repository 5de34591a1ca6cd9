//! What the callers saw, and what they must never see.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use shoal_mesh::Vector;
use shoal_mesh::core::{ClientError, ItemResult, Summary};
use shoal_protocol::ErrorCode;

/// An outcome may come so much after the deadline: the client's timer is exact, so only ties are meant.
const OUTCOME_GRACE: Duration = Duration::from_millis(1);
/// Violations kept; one is enough to fail.
const VIOLATIONS_MAX: usize = 16;
/// A request that waited longer than this for its model counts as cold.
const COLD_MIN: Duration = Duration::from_millis(1);
/// Latencies up to here are told apart.
const LATENCY_MAX: Duration = Duration::from_mins(10);

/// A rule of the mesh that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When, since the beginning.
    pub at: Duration,
    /// What happened.
    pub what: String,
}

#[derive(Debug)]
struct Open {
    invoked: Instant,
    deadline: Instant,
    items: u64,
    given: u64,
}

/// Every request from its intended start to its outcome.
#[derive(Debug)]
pub struct History {
    start: Instant,
    measured_from: Instant,
    open: BTreeMap<u64, Open>,
    deadlines: BTreeSet<(Instant, u64)>,
    latency_us: Histogram<u64>,
    invoked: u64,
    cold: u64,
    retries: u64,
    failed: BTreeMap<ErrorCode, u64>,
    violations: Vec<Violation>,
}

impl History {
    /// Latencies count from `measured_from` on; rules hold always.
    ///
    /// # Panics
    /// Never: the histogram's bounds are constants.
    #[must_use]
    pub fn new(start: Instant, measured_from: Instant) -> Self {
        let max_us = LATENCY_MAX.as_micros() as u64;
        Self {
            start,
            measured_from,
            open: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            latency_us: Histogram::new_with_bounds(1, max_us, 3).expect("sound bounds"),
            invoked: 0,
            cold: 0,
            retries: 0,
            failed: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// The application made a request.
    pub fn invoked(&mut self, id: u64, items: usize, deadline: Instant, now: Instant) {
        self.invoked += 1;
        self.deadlines.insert((deadline, id));
        self.open.insert(id, Open { invoked: now, deadline, items: items as u64, given: 0 });
    }

    /// An item was given to the application.
    pub fn given(&mut self, id: u64, index: u64, item: &ItemResult, now: Instant) {
        let Some(open) = self.open.get_mut(&id) else {
            return self.violated(now, format!("item {index} of request {id}, which is over"));
        };
        let expected = open.given;
        open.given += 1;
        if index != expected {
            self.violated(now, format!("item {index} of request {id} where {expected} was next"));
        }
        let values = item.vector().and_then(Vector::as_f32);
        let value = values.and_then(|values| values.first().copied());
        if value != Some(index as f32) {
            self.violated(now, format!("item {index} of request {id} has another's vector: {value:?}"));
        }
    }

    /// The one outcome of a request. `excuse` tells why it may fail, if it may.
    pub fn ended(
        &mut self,
        id: u64,
        outcome: Result<&Summary, &ClientError>,
        excuse: impl FnOnce(Instant) -> bool,
        now: Instant,
    ) {
        let Some(open) = self.open.remove(&id) else {
            return self.violated(now, format!("a second outcome of request {id}"));
        };
        self.deadlines.remove(&(open.deadline, id));
        match outcome {
            Ok(summary) => {
                if open.given != open.items {
                    let (given, items) = (open.given, open.items);
                    self.violated(now, format!("request {id} is done with {given} of {items} items"));
                }
                if open.invoked >= self.measured_from {
                    let took = now.saturating_duration_since(open.invoked);
                    self.latency_us.saturating_record(took.as_micros() as u64);
                    self.cold += u64::from(Duration::from(summary.timings.load_us) > COLD_MIN);
                    self.retries += u64::from(summary.retries);
                }
            }
            Err(error) => {
                *self.failed.entry(error.code()).or_default() += 1;
                if !excuse(open.invoked) {
                    let took = now.saturating_duration_since(open.invoked);
                    self.violated(now, format!("request {id} was lost after {took:?}: {error}"));
                }
            }
        }
    }

    /// A rule was broken.
    pub(super) fn violated(&mut self, now: Instant, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { at: now.saturating_duration_since(self.start), what });
        }
    }

    /// Whether every request has its outcome by its deadline.
    pub fn audit(&mut self, now: Instant) {
        let Some(&(deadline, id)) = self.deadlines.first() else {
            return;
        };
        if now.saturating_duration_since(deadline) > OUTCOME_GRACE {
            self.deadlines.pop_first();
            self.violated(now, format!("request {id} has no outcome after its deadline"));
        }
    }

    /// Requests without an outcome.
    #[must_use]
    pub fn open_len(&self) -> usize {
        self.open.len()
    }

    /// Requests made, and those that failed, by code.
    #[must_use]
    pub fn counts(&self) -> (u64, &BTreeMap<ErrorCode, u64>) {
        (self.invoked, &self.failed)
    }

    /// Latency of the answered requests at a quantile, from 0 to 1.
    #[must_use]
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency_us.value_at_quantile(quantile))
    }

    /// Of the answered requests: how many there are, how many waited for a load, and how often any was tried again.
    #[must_use]
    pub fn answered(&self) -> (u64, u64, u64) {
        (self.latency_us.len(), self.cold, self.retries)
    }

    /// Broken rules, the first ones.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }
}
