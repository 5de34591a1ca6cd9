//! What came of it, held against the targets.

use std::time::Duration;

use serde::Serialize;

use super::callers::{Caller, End, Outcome};
use super::watch::{HighWater, Seen};
use crate::stats::{median, quantile};

/// Share of the peak that the goodput under overload has to keep.
const GOODPUT_MIN: f64 = 0.9;
/// How long after the overload somebody may still wait in vain, or the latency be above [`RECOVERED`] times what it was
/// before and one batch. That one is for bulk calls: those that waited at home come back for as long as their deadlines
/// last, seconds after the overload, and a query that finds one of their batches begun waits for its end.
const RECOVERY_MAX: Duration = Duration::from_secs(2);
const RECOVERED: f64 = 1.5;
/// How exactly the time is told.
const RECOVERY_STEP: Duration = Duration::from_millis(250);
/// Fewer say nothing about a p99.
const RECOVERY_REQUESTS_MIN: usize = 100;
/// How much the memory may grow over the second half of the overload.
const GROWTH_MAX: f64 = 1.05;

/// The parts of the load, in time from its beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    /// When the overload begins.
    pub(super) overload: Duration,
    /// When it ends.
    pub(super) after: Duration,
    /// When the last request is due.
    pub(super) end: Duration,
}

/// What the nodes were told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) nodes: usize,
    pub(super) tokens_per_s_max: Option<u32>,
    /// `device.batch_target_us`.
    pub(super) batch: Duration,
}

/// What one kind of caller got in the overload.
#[derive(Debug, Serialize)]
pub(super) struct Served {
    caller: &'static str,
    asked: usize,
    answered: usize,
    late: usize,
    shed: usize,
    unsent: usize,
    failed: usize,
    p50_ms: f64,
    p99_ms: f64,
    retry_after_p50_ms: f64,
    retry_after_max_ms: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) nodes: usize,
    pub(super) tokens_per_s_max: Option<u32>,
    pub(super) seconds: f64,
    pub(super) peak_tokens_per_s: f64,
    pub(super) offered_tokens_per_s: f64,
    goodput_tokens_per_s: f64,
    pub(super) goodput_share: f64,
    served: Vec<Served>,
    /// Most calls that were under way at once, in all parts.
    pub(super) calls_max: usize,
    high_water: Vec<HighWater>,
    resident_mb_before: f64,
    resident_mb_middle: f64,
    resident_mb_end: f64,
    /// By tenths of the overload.
    resident_mb: Vec<f64>,
    p99_before_ms: f64,
    /// What counts as recovered.
    p99_limit_ms: f64,
    /// Of interactive requests, by seconds after the overload.
    p99_after_ms: Vec<f64>,
    recovery_ms: Option<f64>,
    pub(super) first_failure: Option<String>,
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Milliseconds of the answered ones.
fn latencies<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Vec<f64> {
    let answered = outcomes.filter(|outcome| matches!(outcome.end, End::Answered { .. }));
    answered.map(|outcome| millis(outcome.took)).collect()
}

fn served(caller: Caller, outcomes: &[&Outcome]) -> Served {
    let own: Vec<&Outcome> = outcomes.iter().copied().filter(|outcome| outcome.caller == caller).collect();
    let count = |is: fn(&End) -> bool| own.iter().filter(|outcome| is(&outcome.end)).count();
    let hints = own.iter().filter_map(|outcome| match outcome.end {
        End::Shed { retry_after } => retry_after.map(millis),
        _ => None,
    });
    let (hints, latency) = (hints.collect::<Vec<_>>(), latencies(own.iter().copied()));
    Served {
        caller: caller.name(),
        asked: own.len(),
        answered: latency.len(),
        late: count(|end| *end == End::Late),
        shed: count(|end| matches!(end, End::Shed { .. })),
        unsent: count(|end| *end == End::Unsent),
        failed: count(|end| *end == End::Failed),
        p50_ms: median(&latency),
        p99_ms: quantile(&latency, 0.99),
        retry_after_p50_ms: median(&hints),
        retry_after_max_ms: quantile(&hints, 1.0),
    }
}

impl Report {
    pub(super) fn new(
        Setup { nodes, tokens_per_s_max, batch }: Setup,
        (peak_tokens_per_s, offered_tokens_per_s): (f64, f64),
        outcomes: &[Outcome],
        seen: Seen,
        parts: Parts,
    ) -> Self {
        let Parts { overload, after, end } = parts;
        let length = after - overload;
        let in_overload = |at: Duration| at >= overload && at < after;
        let asked: Vec<&Outcome> = outcomes.iter().filter(|outcome| in_overload(outcome.due)).collect();
        // What came back meanwhile, whenever it was asked for.
        let tokens = outcomes.iter().filter(|outcome| in_overload(outcome.due + outcome.took));
        let tokens: u64 = tokens
            .map(|outcome| if let End::Answered { tokens } = outcome.end { u64::from(tokens) } else { 0 })
            .sum();
        let goodput_tokens_per_s = tokens as f64 / length.as_secs_f64();
        let p99_before_ms = quantile(&interactive(outcomes, Duration::ZERO, overload), 0.99);
        let p99_limit_ms = RECOVERED * p99_before_ms + millis(batch);
        let resident_mb = |from: Duration, to: Duration| {
            let within = seen.resident_bytes.iter().filter(|(at, _)| *at >= from && *at < to);
            median(&within.map(|(_, bytes)| *bytes as f64 / 1e6).collect::<Vec<_>>())
        };
        let quarter = length / 4;
        Self {
            nodes,
            tokens_per_s_max,
            seconds: length.as_secs_f64(),
            peak_tokens_per_s,
            offered_tokens_per_s,
            goodput_tokens_per_s,
            goodput_share: goodput_tokens_per_s / peak_tokens_per_s,
            served: Caller::ALL.map(|caller| served(caller, &asked)).into(),
            resident_mb_before: resident_mb(Duration::ZERO, overload),
            resident_mb_middle: resident_mb(overload + quarter, overload + 2 * quarter),
            resident_mb_end: resident_mb(overload + 3 * quarter, after),
            resident_mb: (0..10)
                .map(|part| resident_mb(overload + part * length / 10, overload + (part + 1) * length / 10))
                .collect(),
            high_water: seen.high_water,
            p99_before_ms,
            p99_limit_ms,
            p99_after_ms: (after.as_secs()..end.as_secs())
                .map(Duration::from_secs)
                .map(|from| quantile(&interactive(outcomes, from, from + Duration::from_secs(1)), 0.99))
                .collect(),
            recovery_ms: recovery(outcomes, after, p99_limit_ms).map(millis),
            calls_max: 0,
            first_failure: None,
        }
    }

    /// Whether no queue was seen above its bound.
    pub(super) fn keeps_its_bounds(&self) -> bool {
        self.high_water.iter().all(HighWater::is_within_bounds)
    }

    /// What was not reached, in words.
    pub(super) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.goodput_share < GOODPUT_MIN {
            missed.push(format!("goodput is {:.3} of the peak", self.goodput_share));
        }
        if !self.keeps_its_bounds() {
            missed.push("a queue is over its bound".to_owned());
        }
        if self.resident_mb_end > GROWTH_MAX * self.resident_mb_middle {
            missed.push("memory grows".to_owned());
        }
        if self.recovery_ms.is_none_or(|recovery| recovery > millis(RECOVERY_MAX)) {
            missed.push("no recovery in time".to_owned());
        }
        if let Some(failure) = &self.first_failure {
            missed.push(format!("requests failed: {failure}"));
        }
        missed
    }

    pub(super) fn print(&self) {
        let Self { nodes, seconds, .. } = self;
        let cap =
            self.tokens_per_s_max.map_or_else(|| "uncapped".to_owned(), |cap| format!("{cap} tokens/s each"));
        println!("{nodes} node(s), {cap}; overload for {seconds:.0} s");
        println!(
            "peak {:.0} tokens/s, offered {:.0}, goodput {:.0} ({:.3} of the peak)",
            self.peak_tokens_per_s, self.offered_tokens_per_s, self.goodput_tokens_per_s, self.goodput_share
        );
        println!(
            "caller                   asked answered    late    shed  unsent  failed   p50 ms   p99 ms  retry-after p50, max ms"
        );
        for served in &self.served {
            println!(
                "{:<22} {:>7} {:>8} {:>7} {:>7} {:>7} {:>7} {:>8.0} {:>8.0} {:>9.0} {:>9.0}",
                served.caller,
                served.asked,
                served.answered,
                served.late,
                served.shed,
                served.unsent,
                served.failed,
                served.p50_ms,
                served.p99_ms,
                served.retry_after_p50_ms,
                served.retry_after_max_ms,
            );
        }
        for (node, high) in self.high_water.iter().enumerate() {
            println!(
                "node {node}: queue at most {} of {} tokens, {} of {} bytes, {} requests; {} refused",
                high.queue_tokens,
                high.queue_tokens_max,
                high.admitted_bytes,
                high.admitted_bytes_max,
                high.requests,
                high.shed
            );
        }
        println!(
            "resident: {:.1} MB before, {:.1} MB in the second quarter of the overload, {:.1} MB in the last; at most {} calls under way",
            self.resident_mb_before, self.resident_mb_middle, self.resident_mb_end, self.calls_max
        );
        let tenths: Vec<String> = self.resident_mb.iter().map(|mb| format!("{mb:.1}")).collect();
        println!("resident by tenths of the overload: {} MB", tenths.join(", "));
        let recovery =
            self.recovery_ms.map_or_else(|| "not".to_owned(), |ms| format!("{ms:.0} ms after its end"));
        let after: Vec<String> = self.p99_after_ms.iter().map(|ms| format!("{ms:.0}")).collect();
        println!(
            "interactive p99 before {:.0} ms, by seconds after: {}",
            self.p99_before_ms,
            after.join(", ")
        );
        println!("nobody refused and p99 below {:.0} ms (1.5 x and a batch): {recovery}", self.p99_limit_ms);
        let missed = self.missed();
        println!("{}", if missed.is_empty() { "good".to_owned() } else { missed.join("; ") });
    }
}

/// Milliseconds of the library's interactive requests that were due from `from` to `to`.
fn interactive(outcomes: &[Outcome], from: Duration, to: Duration) -> Vec<f64> {
    let due = |outcome: &&Outcome| outcome.due >= from && outcome.due < to;
    latencies(outcomes.iter().filter(due).filter(|outcome| outcome.caller == Caller::Interactive))
}

/// From the end of the overload until a time from which on nobody waits in vain and p99 is below `limit_ms`: the same
/// statistic as that of the calm before, over about as many requests.
fn recovery(outcomes: &[Outcome], after: Duration, limit_ms: f64) -> Option<Duration> {
    let end = outcomes.iter().map(|outcome| outcome.due).max()?;
    let is_good = |from: Duration| {
        let is_due = |outcome: &&Outcome| outcome.caller == Caller::Interactive && outcome.due >= from;
        let asked = outcomes.iter().filter(is_due).count();
        let answered = interactive(outcomes, from, Duration::MAX);
        asked >= RECOVERY_REQUESTS_MIN && answered.len() == asked && quantile(&answered, 0.99) <= limit_ms
    };
    let steps = (0..).map(|step| step * RECOVERY_STEP).take_while(|step| after + *step <= end);
    steps.into_iter().find(|step| is_good(after + *step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_counts_to_the_time_from_which_on_all_is_as_before() {
        let after = Duration::from_secs(10);
        let outcome = |due_ms: u64, took_ms| Outcome {
            caller: Caller::Interactive,
            due: after + Duration::from_millis(due_ms),
            took: Duration::from_millis(took_ms),
            end: End::Answered { tokens: 1 },
        };
        let good_from = |good_ms: u64| -> Vec<Outcome> {
            (0..200).map(|n| outcome(n * 20, if n * 20 < good_ms { 900 } else { 20 })).collect()
        };
        assert_eq!(recovery(&good_from(0), after, 30.0), Some(Duration::ZERO));
        assert_eq!(recovery(&good_from(600), after, 30.0), Some(Duration::from_millis(750)));
        assert_eq!(recovery(&good_from(10_000), after, 30.0), None);
        let mut lapsed = good_from(600);
        lapsed[100].end = End::Late;
        assert_eq!(recovery(&lapsed, after, 30.0), None, "too few are left to say so");
        lapsed[100].end = End::Answered { tokens: 1 };
        lapsed[150].took = Duration::from_secs(1);
        assert_eq!(recovery(&lapsed, after, 30.0), Some(Duration::from_millis(750)), "one in 160 is no p99");
    }
}
