//! What the callers saw, second by second of the load: counted where a request was meant to be sent, so that a stall
//! shows as latency of those behind it and not as a gap.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use shoal_protocol::NodeId;

/// Longest latency told apart.
const LATENCY_US_MAX: u64 = 120_000_000;
/// Messages of failures that are kept.
const MESSAGES_MAX: usize = 5;

/// The outcome of one request.
#[derive(Debug)]
pub(super) struct Outcome {
    /// When it was meant to be sent, since the load began.
    pub(super) intended: Duration,
    /// From then to the whole answer.
    pub(super) took: Duration,
    /// Attempts beyond the first of each part, and second attempts beside a slow one.
    pub(super) attempts_more: u32,
    /// Texts that were answered again.
    pub(super) duplicates: u64,
    /// Who answered, or why nobody did.
    pub(super) answered: Result<NodeId, String>,
}

/// One second of the load.
pub(super) struct Second {
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) latencies_us: Histogram<u64>,
    /// Requests answered, by node.
    pub(super) by_node: BTreeMap<NodeId, u64>,
}

/// Everything that was answered or not.
pub(super) struct Timeline {
    pub(super) seconds: Vec<Second>,
    pub(super) latencies_us: Histogram<u64>,
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) duplicates: u64,
    pub(super) attempts_more: u64,
    /// Why the first few failed.
    pub(super) messages: Vec<String>,
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
        .expect("constant bounds that the library's documentation allows")
}

impl Timeline {
    /// Of a load that lasts so many seconds; what is meant for later counts to the last one.
    pub(super) fn new(seconds: usize) -> Self {
        let second = || Second { requests: 0, failures: 0, latencies_us: empty(), by_node: BTreeMap::new() };
        Self {
            seconds: std::iter::repeat_with(second).take(seconds.max(1)).collect(),
            latencies_us: empty(),
            requests: 0,
            failures: 0,
            duplicates: 0,
            attempts_more: 0,
            messages: Vec::new(),
        }
    }

    /// Counts a request.
    pub(super) fn record(&mut self, outcome: Outcome) {
        let last = self.seconds.len() - 1;
        let second = &mut self.seconds[(outcome.intended.as_secs() as usize).min(last)];
        second.requests += 1;
        self.requests += 1;
        self.duplicates += outcome.duplicates;
        self.attempts_more += u64::from(outcome.attempts_more);
        match outcome.answered {
            Ok(node) => {
                let took_us = u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX);
                second.latencies_us.saturating_record(took_us);
                self.latencies_us.saturating_record(took_us);
                *second.by_node.entry(node).or_default() += 1;
            }
            Err(message) => {
                second.failures += 1;
                self.failures += 1;
                if self.messages.len() < MESSAGES_MAX {
                    self.messages.push(message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(intended_ms: u64, answered: Result<NodeId, String>) -> Outcome {
        let (intended, took) = (Duration::from_millis(intended_ms), Duration::from_millis(700));
        Outcome { intended, took, attempts_more: 1, duplicates: 2, answered }
    }

    #[test]
    fn a_request_counts_where_it_was_meant_to_be_sent() {
        let (mut timeline, node) = (Timeline::new(2), NodeId([1; 16]));
        timeline.record(outcome(999, Ok(node)));
        timeline.record(outcome(1_000, Ok(node)));
        timeline.record(outcome(5_000, Err("gone".into())));
        let seen: Vec<_> =
            timeline.seconds.iter().map(|at| (at.requests, at.failures, at.latencies_us.len())).collect();
        assert_eq!(seen, [(1, 0, 1), (2, 1, 1)], "what is late belongs to the last second");
        assert_eq!((timeline.requests, timeline.failures, timeline.duplicates), (3, 1, 6));
        assert_eq!((timeline.attempts_more, timeline.messages.as_slice()), (3, &["gone".to_owned()][..]));
        assert!((690_000..=710_000).contains(&timeline.latencies_us.value_at_quantile(0.5)));
        assert_eq!(timeline.seconds[0].by_node[&node], 1);
    }
}
