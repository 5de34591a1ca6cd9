//! What changes between two looks: rates by difference, and the latencies of the last half minute.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use shoal_protocol::NodeId;
use shoal_protocol::message::{StageHistogram, Status};

use crate::cli::census::Census;
use crate::cli::latencies::Latencies;

/// Latencies are those of about this time.
const WINDOW: Duration = Duration::from_secs(30);
/// Looks that are kept to count from, whatever the interval.
const LOOKS_MAX: usize = 64;

/// What a node had counted at one moment. A node that was started anew counts from zero.
struct Counted {
    generation: u64,
    models: BTreeMap<String, Counts>,
    histograms: Vec<StageHistogram>,
}

/// Of one model at one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    requests: u64,
    tokens: u64,
}

struct Look {
    at: Instant,
    nodes: BTreeMap<NodeId, Counted>,
}

/// A second's work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) requests_per_s: f64,
    pub(super) tokens_per_s: f64,
}

/// The looks that are remembered.
#[derive(Default)]
pub(super) struct Watch {
    looks: VecDeque<Look>,
}

impl Watch {
    /// Takes in a look; looks older than the window go, but for one to count from.
    pub(super) fn handle_look(&mut self, census: &Census, now: Instant) {
        let nodes = census.answers().map(|status| (status.node, Counted::of(status))).collect();
        self.looks.push_back(Look { at: now, nodes });
        let is_old = |look: &Look| now.saturating_duration_since(look.at) >= WINDOW;
        while self.looks.len() > LOOKS_MAX || self.looks.get(1).is_some_and(is_old) {
            self.looks.pop_front();
        }
    }

    /// The work since the look before; `None` before there are two.
    pub(super) fn rates(&self, node: Option<NodeId>, model: Option<&str>) -> Option<Rates> {
        let (newest, before) = (self.looks.back()?, self.looks.iter().rev().nth(1)?);
        let seconds = newest.at.saturating_duration_since(before.at).as_secs_f64();
        let mut done = Counts::default();
        for (id, counted) in newest.nodes.iter().filter(|(id, _)| node.is_none_or(|node| node == **id)) {
            let former = before.nodes.get(id).filter(|former| former.generation == counted.generation);
            for (name, counts) in counted.models.iter().filter(|(name, _)| model.is_none_or(|it| it == *name))
            {
                // One that was not heard then may have counted for hours.
                let Some(former) = former else { continue };
                let former = former.models.get(name).copied().unwrap_or_default();
                done.requests += counts.requests.saturating_sub(former.requests);
                done.tokens += counts.tokens.saturating_sub(former.tokens);
            }
        }
        (seconds > 0.0).then(|| Rates {
            requests_per_s: done.requests as f64 / seconds,
            tokens_per_s: done.tokens as f64 / seconds,
        })
    }

    /// The time that [`latencies`](Self::latencies) are of; `None`: since the nodes' start.
    pub(super) fn window(&self) -> Option<Duration> {
        let (oldest, newest) = (self.looks.front()?, self.looks.back()?);
        (self.looks.len() > 1).then(|| newest.at.saturating_duration_since(oldest.at))
    }

    /// Merged over all nodes: of the window, and before there are two looks since the nodes' start.
    pub(super) fn latencies(&self) -> Latencies {
        let mut merged = Latencies::default();
        let Some(newest) = self.looks.back() else {
            return merged;
        };
        let oldest = self.looks.front().filter(|_| self.looks.len() > 1);
        for (id, counted) in &newest.nodes {
            merged.add(&counted.histograms);
            let former = oldest.and_then(|look| look.nodes.get(id));
            if let Some(former) = former.filter(|former| former.generation == counted.generation) {
                merged.subtract(&former.histograms);
            }
        }
        merged
    }
}

impl Counted {
    fn of(status: &Status) -> Self {
        let counts = status
            .models
            .iter()
            .map(|model| (model.name.clone(), Counts { requests: model.requests, tokens: model.tokens }));
        Self {
            generation: status.generation,
            models: counts.collect(),
            histograms: status.histograms.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{census, node};
    use super::*;

    #[test]
    fn rates_are_differences_and_a_restarted_node_counts_from_then_on() {
        let (mut watch, start) = (Watch::default(), crate::clock::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        watch.handle_look(&census([node(1, 1, 100), node(2, 1, 5_000)]), at(0));
        assert_eq!(watch.rates(None, None), None, "one look tells no rate");
        watch.handle_look(&census([node(1, 1, 120), node(2, 1, 5_010)]), at(2));
        assert_eq!(watch.rates(None, Some("m")).map(|rates| rates.requests_per_s), Some(15.0));
        assert_eq!(watch.rates(None, Some("other")), Some(Rates::default()));
        watch.handle_look(&census([node(1, 1, 140), node(2, 9, 30)]), at(4));
        assert_eq!(watch.rates(None, Some("m")).map(|rates| rates.requests_per_s), Some(10.0));
        let second = Some(NodeId([2; 16]));
        assert_eq!(watch.rates(second, None), Some(Rates::default()));
        watch.handle_look(&census([node(1, 1, 140), node(2, 9, 50)]), at(6));
        assert_eq!(watch.rates(second, None).map(|rates| rates.requests_per_s), Some(10.0));
    }

    #[test]
    fn latencies_are_those_of_the_window() {
        let (mut watch, start) = (Watch::default(), crate::clock::now());
        let count = |watch: &Watch| watch.latencies().of("m").next().map(|(_, merged)| merged.len());
        for second in 0..=40 {
            watch.handle_look(&census([node(1, 1, 100 + second)]), start + Duration::from_secs(second));
            assert_eq!(count(&watch), Some(if second == 0 { 100 } else { second.min(30) }), "{second}");
        }
        assert_eq!(watch.window(), Some(WINDOW));
        assert!(watch.looks.len() <= LOOKS_MAX);
    }
}
