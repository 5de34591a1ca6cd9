//! Latencies over many nodes: their histograms added bucket by bucket, so that the quantiles are those of all requests
//! together and not averages of quantiles.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use shoal_protocol::message::StageHistogram;

use crate::metrics::STAGES;

/// The histograms of every model, in the order of the stages.
#[derive(Default)]
pub(super) struct Latencies {
    by_model: BTreeMap<String, BTreeMap<Stage, Histogram<u64>>>,
}

/// Ordered as a request passes them; one of a newer version comes last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stage {
    place: usize,
    pub(super) operation: String,
    pub(super) name: String,
}

impl Stage {
    fn of(histogram: &StageHistogram) -> Self {
        let place = STAGES.iter().position(|stage| *stage == histogram.stage).unwrap_or(STAGES.len());
        Self { place, operation: histogram.operation.clone(), name: histogram.stage.clone() }
    }
}

impl Latencies {
    /// Adds what a node counted. What cannot be read (damaged, or of a newer format) is left out.
    pub(super) fn add(&mut self, histograms: &[StageHistogram]) {
        self.combine(histograms, |merged, counted| merged.add(counted).is_ok());
    }

    /// Takes away what the same node had counted before.
    pub(super) fn subtract(&mut self, histograms: &[StageHistogram]) {
        self.combine(histograms, |merged, counted| merged.subtract(counted).is_ok());
    }

    /// Leaves a histogram as it was where the two do not go together.
    fn combine(
        &mut self,
        histograms: &[StageHistogram],
        with: impl Fn(&mut Histogram<u64>, &Histogram<u64>) -> bool,
    ) {
        let mut deserializer = Deserializer::new();
        for histogram in histograms {
            let Ok(counted) = deserializer.deserialize::<u64, _>(&mut histogram.v2.as_slice()) else {
                continue;
            };
            let stages = self.by_model.entry(histogram.model.clone()).or_default();
            let merged = stages.entry(Stage::of(histogram)).or_insert_with(|| {
                let mut empty = Histogram::new_from(&counted);
                empty.auto(true); // a node of another version may count longer times
                empty
            });
            let former = merged.clone();
            if !with(merged, &counted) {
                *merged = former;
            }
        }
    }

    /// The stages of a model that took time.
    pub(super) fn of(&self, model: &str) -> impl Iterator<Item = (&Stage, &Histogram<u64>)> {
        self.by_model.get(model).into_iter().flatten().filter(|(_, histogram)| histogram.max() > 0)
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::{Serializer, V2Serializer};

    use super::*;

    fn histogram(stage: &str, values: impl IntoIterator<Item = u64>) -> StageHistogram {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 2).unwrap();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        let mut v2 = Vec::new();
        V2Serializer::new().serialize(&histogram, &mut v2).unwrap();
        StageHistogram { model: "m".into(), operation: "encode".into(), stage: stage.into(), v2 }
    }

    #[test]
    fn quantiles_of_two_nodes_are_those_of_all_their_requests() {
        let (fast, slow) = (1..=990_u64, 100_000..100_010_u64);
        let mut merged = Latencies::default();
        merged.add(&[histogram("total", fast.clone())]);
        merged.add(&[histogram("total", slow.clone()), histogram("compute", [5])]);
        let mut together = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 2).unwrap();
        fast.chain(slow).for_each(|value| together.record(value).unwrap());
        let stages: Vec<_> = merged.of("m").collect();
        assert_eq!(
            stages.iter().map(|(stage, _)| stage.name.as_str()).collect::<Vec<_>>(),
            ["compute", "total"]
        );
        for quantile in [0.5, 0.99, 0.999, 1.0] {
            assert_eq!(stages[1].1.value_at_quantile(quantile), together.value_at_quantile(quantile));
        }
    }

    #[test]
    fn what_was_counted_before_is_taken_away() {
        let mut window = Latencies::default();
        window.add(&[histogram("total", [10, 10, 7_000])]);
        window.subtract(&[histogram("total", [10, 10])]);
        let (_, left) = window.of("m").next().expect("one is left");
        assert_eq!((left.len(), left.value_at_quantile(0.0) > 6_900), (1, true));
        window.subtract(&[histogram("total", [10, 10])]);
        assert_eq!(
            window.of("m").next().map(|(_, left)| left.len()),
            Some(1),
            "it had counted no such thing"
        );
    }

    #[test]
    fn damaged_histograms_are_left_out() {
        let mut merged = Latencies::default();
        merged.add(&[StageHistogram { v2: vec![1, 2, 3], ..histogram("total", [1]) }]);
        assert_eq!(merged.of("m").count(), 0);
    }
}
