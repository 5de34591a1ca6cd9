//! What a run came to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use shoal_protocol::ErrorCode;

use super::history::Violation;
use super::policy::Policy;
use super::unrouted::Unrouted;
use super::why::{Ledger, Why};
use super::world::World;

/// The figures of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Chance.
    pub seed: u64,
    /// Who chose.
    pub policy: Policy,
    /// Virtual time.
    pub took: Duration,
    /// Events that happened, and a hash of all of them.
    pub events: u64,
    /// Equal for equal runs.
    pub trace: u64,
    /// Requests made.
    pub requests: u64,
    /// Requests that failed, by code.
    pub failed: BTreeMap<ErrorCode, u64>,
    /// Requests answered after the warm-up; what follows counts only those.
    pub answered: u64,
    /// Median latency.
    pub p50: Duration,
    /// 99th percentile of the latency.
    pub p99: Duration,
    /// Requests that waited for their model.
    pub cold: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Load probes.
    pub probes: u64,
    /// Loads on all devices, those before the first request included.
    pub loads: u64,
    /// Evictions.
    pub evictions: u64,
    /// Broken rules.
    pub violations: Vec<Violation>,
    /// How soon the killed got no attempts any more.
    pub unrouted: Unrouted,
    /// Where the time went, if it was asked.
    pub why: Option<Why>,
}

impl Report {
    pub(super) fn new(world: &World) -> Self {
        let history = &world.history;
        let (requests, failed) = history.counts();
        let (answered, cold, retries) = history.answered();
        let gauges = || world.processes.iter().map(|process| process.node.core().gauges(world.now()));
        Self {
            seed: world.scenario.seed,
            policy: world.scenario.policy,
            took: world.timeline.elapsed(),
            events: world.timeline.happened(),
            trace: world.timeline.trace(),
            requests,
            failed: failed.clone(),
            answered,
            p50: history.latency(0.5),
            p99: history.latency(0.99),
            cold,
            retries,
            probes: world.probes(),
            loads: gauges().map(|gauges| gauges.loads).sum(),
            evictions: gauges().map(|gauges| gauges.evictions).sum(),
            violations: history.violations().to_vec(),
            unrouted: world.deaths.figures(),
            why: world.ledger.as_ref().map(Ledger::table),
        }
    }

    /// Share of the answered requests that waited for their model, in per cent.
    #[must_use]
    pub fn cold_percent(&self) -> f64 {
        100.0 * self.cold as f64 / self.answered.max(1) as f64
    }

    /// The names of the columns that [`fmt::Display`] writes.
    pub const COLUMNS: &'static str = "policy          seed  requests  failed  p50 ms   p99 ms  cold %  loads  evictions  retries   probes  trace";
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        write!(
            f,
            "{:<14} {:>5} {:>9} {:>7} {:>7.0} {:>8.0} {:>7.4} {:>6} {:>10} {:>8} {:>8}  {:016x}",
            self.policy.as_str(),
            self.seed,
            self.requests,
            self.failed.values().sum::<u64>(),
            ms(self.p50),
            ms(self.p99),
            self.cold_percent(),
            self.loads,
            self.evictions,
            self.retries,
            self.probes,
            self.trace,
        )
    }
}
