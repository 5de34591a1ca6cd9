//! What a place would cost a request, in microseconds.

use std::time::{Duration, Instant};

use shoal_protocol::message::{LoadRecord, ModelState, Priority};

use super::Query;
use crate::core::view::{Device, Holding, View};

/// What a load on a full device costs others, in loads: what gives way is of the same size and will be wanted again, by
/// somebody who then waits as well. This is what makes thrashing expensive.
const EVICTION_LOADS: u64 = 2;
/// Age from which a record is doubted, and what each further second costs.
const AGE_FREE: Duration = Duration::from_secs(1);
const AGE_US_PER_S: u64 = 5_000;
/// Ages beyond this count as this one; so does no record at all.
const AGE_MAX: Duration = Duration::from_secs(10);
/// What a device that sheds this priority costs: it would most likely refuse.
const SHED_US: u64 = 500_000;
/// What a device on which the last load of the model failed costs.
const FAILED_US: u64 = 10_000_000;

/// What a request would cost at a place, lower is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Until a lane takes it: the aged wait, our own sends added.
    pub wait_us: u64,
    /// On the device.
    pub exec_us: u64,
    /// Until the model is resident, with what its room costs others.
    pub cold_us: u64,
    /// The round trip.
    pub net_us: u64,
    /// What is not known, and what speaks against the place.
    pub risk_us: u64,
}

impl Estimate {
    /// The sum.
    #[must_use]
    pub fn total_us(&self) -> u64 {
        [self.wait_us, self.exec_us, self.cold_us, self.net_us, self.risk_us]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// Whether a device refuses work of this priority, most likely.
pub(super) fn sheds(load: &LoadRecord, priority: Priority) -> bool {
    load.shed_level >= 2 || (load.shed_level == 1 && priority == Priority::Bulk)
}

/// Estimates a place. `ready_in_us` is the device's own word on a load that runs.
pub(super) fn estimate(
    view: &View,
    holding: &Holding,
    ready_in_us: Option<u64>,
    query: &Query<'_>,
    now: Instant,
) -> Estimate {
    let device = view.device(holding);
    let load = device.and_then(|device| device.load);
    let rate = device.map_or(1, |device| device.tokens_per_s());
    let age = load.map_or(AGE_MAX, |load| load.age(now)).min(AGE_MAX);
    let mut risk_us = age.saturating_sub(AGE_FREE).as_millis() as u64 * AGE_US_PER_S / 1000;
    if load.is_some_and(|load| sheds(&load.record, query.priority)) {
        risk_us += SHED_US;
    }
    if holding.state == ModelState::Failed {
        risk_us += FAILED_US;
    }
    let cold_us = match holding.state {
        ModelState::Ready => 0,
        ModelState::Loading => ready_in_us.unwrap_or(u64::from(holding.load_us)),
        ModelState::Stored | ModelState::Failed => price_us(view, holding),
    };
    Estimate {
        wait_us: load.map_or(0, |load| load.wait_us(rate, now)),
        exec_us: exec_us(view, holding, query),
        cold_us,
        net_us: view.node(holding.slot).round_trip().map_or(0, |round_trip| round_trip.as_micros() as u64),
        risk_us,
    }
}

/// The time on a device.
pub(super) fn exec_us(view: &View, holding: &Holding, query: &Query<'_>) -> u64 {
    let device = view.device(holding);
    let rate = device.map_or(1, Device::tokens_per_s);
    // The speed is that of all lanes together. An idle device gives them all to one text, a busy one gives each a lane.
    let running =
        device.and_then(|device| device.load).map_or(1, |load| u64::from(load.record.running).max(1));
    let lanes = query.texts.clamp(1, running);
    let work_us = query.tokens.saturating_mul(1_000_000) / u64::from(rate.max(1));
    work_us.saturating_mul(running) / lanes
}

/// What a load costs, with what its room costs others.
pub(super) fn price_us(view: &View, holding: &Holding) -> u64 {
    let load = view.device(holding).and_then(|device| device.load);
    let must_evict = load.is_some_and(|load| load.record.free_bytes < holding.bytes());
    u64::from(holding.load_us) * if must_evict { 1 + EVICTION_LOADS } else { 1 }
}

/// What a request takes on a device that has its model ready, on average: it waits as long as the device's last records
/// said in the mean. `None` where nobody has told its load yet.
pub(super) fn request_us(view: &View, holding: &Holding, query: &Query<'_>) -> Option<u64> {
    let load = view.device(holding)?.load?;
    Some(load.mean_wait_us.saturating_add(exec_us(view, holding, query)))
}
