//! What a device tells about itself, and what it keeps across its lives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use shoal_protocol::message::{GaugeSet, LoadRecord};

use crate::actors::backend::Shortage;
use crate::core::DeviceCore;

/// Counters of a device's former selves, so that what is shown never falls.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    counters: Mutex<GaugeSet>,
    restarts: AtomicU64,
    abandoned: AtomicU64,
}

impl Carried {
    /// Adds the counters of a device that ends.
    pub(super) fn add(&self, gauges: &GaugeSet) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        *counters = sum_of_counters(&counters, gauges);
    }

    /// A lane's thread was left behind: it cannot be ended.
    pub(super) fn count_abandoned(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
    }

    /// The device was started anew.
    pub(crate) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    fn over(&self, now: &GaugeSet) -> GaugeSet {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = sum_of_counters(&counters, now);
        sum.restarts += self.restarts.load(Ordering::Relaxed);
        sum
    }
}

/// `now`'s gauges with both's counters.
fn sum_of_counters(before: &GaugeSet, now: &GaugeSet) -> GaugeSet {
    GaugeSet {
        loads: before.loads + now.loads,
        evictions: before.evictions + now.evictions,
        shed: before.shed + now.shed,
        cancelled: before.cancelled + now.cancelled,
        expired: before.expired + now.expired,
        restarts: before.restarts + now.restarts,
        memory_evictions: before.memory_evictions + now.memory_evictions,
        ..*now
    }
}

/// A device at one moment.
#[derive(Clone, Debug)]
pub(crate) struct DeviceReport {
    /// Its load.
    pub(crate) load: LoadRecord,
    /// Its gauges, and counters since the node's start.
    pub(crate) gauges: GaugeSet,
    /// Lane threads that hang and were left behind, since the node's start.
    pub(crate) lanes_abandoned: u64,
}

impl DeviceReport {
    pub(super) fn of(core: &DeviceCore, carried: &Carried, shortage: Shortage, now: Instant) -> Self {
        let Shortage { batches_cut, graphs_dropped, refusals: memory_refusals } = shortage;
        let gauges = carried.over(&core.gauges(now));
        Self {
            load: core.load_record(now),
            gauges: GaugeSet { batches_cut, graphs_dropped, memory_refusals, ..gauges },
            lanes_abandoned: carried.abandoned.load(Ordering::Relaxed),
        }
    }
}
