//! Latency by (model, operation, stage), kept as hdrhistograms: mergeable across nodes exactly.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use shoal_protocol::message::{StageHistogram, Timings};

/// Models with histograms of their own; further ones share [`OTHER_MODELS`], so that names cannot fill the memory.
pub const MODELS_MAX: usize = 256;
/// The name under which models beyond [`MODELS_MAX`] are counted together.
pub const OTHER_MODELS: &str = "(other)";
/// Largest duration told apart: an hour. Longer ones count as one.
const MICROS_MAX: u64 = 3_600_000_000;
/// One per cent resolution over the whole range, in about 26 kB a histogram.
const SIGNIFICANT_DIGITS: u8 = 2;
/// The stages, in the order of [`stage_values`].
pub(crate) const STAGES: [&str; 7] =
    ["tokenize_wait", "tokenize", "load", "queue", "compute", "post", "total"];

/// The time of each of the [`STAGES`], in microseconds.
pub(crate) fn stage_values(timings: &Timings) -> [u64; STAGES.len()] {
    [
        timings.tokenize_wait_us.0,
        timings.tokenize_us.0,
        timings.load_us.0,
        timings.queue_us.0,
        timings.compute_us.0,
        timings.post_us.0,
        timings.total_us.0,
    ]
}

type Stages = [Histogram<u64>; STAGES.len()];

#[derive(Default)]
struct ModelMetrics {
    /// By primitive, of which there are few.
    operations: BTreeMap<&'static str, Stages>,
    requests: u64,
    tokens: u64,
}

fn no_stages() -> Stages {
    std::array::from_fn(|_| {
        Histogram::new_with_bounds(1, MICROS_MAX, SIGNIFICANT_DIGITS)
            .expect("constant bounds that the library's documentation allows")
    })
}

/// What a model has done since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelCounters {
    /// Requests answered.
    pub requests: u64,
    /// Tokens computed for them.
    pub tokens: u64,
}

/// The node's latencies. Shared by every request; a record takes well under a microsecond.
#[derive(Default)]
pub struct Metrics {
    models: Mutex<BTreeMap<String, ModelMetrics>>,
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ModelMetrics>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one answered request.
    pub fn record(&self, (model, operation): (&str, &'static str), timings: &Timings, tokens: u64) {
        let mut models = self.lock();
        let name = if models.contains_key(model) || models.len() < MODELS_MAX { model } else { OTHER_MODELS };
        if !models.contains_key(name) {
            models.insert(name.to_owned(), ModelMetrics::default());
        }
        let metrics = models.get_mut(name).expect("inserted above");
        let stages = metrics.operations.entry(operation).or_insert_with(no_stages);
        for (histogram, value) in stages.iter_mut().zip(stage_values(timings)) {
            histogram.saturating_record(value);
        }
        metrics.requests += 1;
        metrics.tokens = metrics.tokens.saturating_add(tokens);
    }

    /// What a model has done since start; zeros beyond [`MODELS_MAX`].
    #[must_use]
    pub fn counters(&self, model: &str) -> ModelCounters {
        self.lock().get(model).map_or_else(ModelCounters::default, |metrics| ModelCounters {
            requests: metrics.requests,
            tokens: metrics.tokens,
        })
    }

    /// Every histogram that holds a value, in the V2 form of hdrhistogram.
    #[must_use]
    pub fn histograms(&self) -> Vec<StageHistogram> {
        // Copied first: serialising takes too long to hold up a request that wants to record.
        let copied: Vec<(String, BTreeMap<&'static str, Stages>)> =
            self.lock().iter().map(|(model, metrics)| (model.clone(), metrics.operations.clone())).collect();
        let mut serializer = V2Serializer::new();
        let mut all = Vec::with_capacity(copied.len() * STAGES.len());
        for (model, operations) in copied {
            for (operation, stages) in operations {
                for (stage, histogram) in STAGES.iter().zip(stages) {
                    let mut v2 = Vec::new();
                    let written = serializer.serialize(&histogram, &mut v2);
                    written.expect("writing a bounded histogram to memory cannot fail");
                    let (operation, stage) = (operation.to_owned(), (*stage).to_owned());
                    all.push(StageHistogram { model: model.clone(), operation, stage, v2 });
                }
            }
        }
        all
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("models", &self.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use shoal_protocol::Micros;

    use super::*;

    fn timings(total_us: u64) -> Timings {
        Timings { compute_us: Micros(total_us / 2), total_us: Micros(total_us), ..Timings::default() }
    }

    fn total_of(histograms: &[StageHistogram], model: &str) -> Histogram<u64> {
        let found = histograms
            .iter()
            .find(|histogram| histogram.model == model && histogram.stage == "total")
            .expect("recorded");
        Deserializer::new().deserialize(&mut found.v2.as_slice()).expect("V2 reads back")
    }

    #[test]
    fn histograms_read_back_within_a_per_cent() {
        let metrics = Metrics::default();
        for total in [100, 2_000, 3_000_000, u64::MAX] {
            metrics.record(("m", "encode"), &timings(total), 7);
        }
        let total = total_of(&metrics.histograms(), "m");
        assert_eq!(total.len(), 4);
        let median = total.value_at_quantile(0.5);
        assert!((1_980..=2_020).contains(&median), "{median}");
        assert_eq!(metrics.counters("m"), ModelCounters { requests: 4, tokens: 28 });
        assert_eq!(metrics.counters("unknown"), ModelCounters::default());
    }

    #[test]
    fn primitives_of_a_model_are_told_apart() {
        let metrics = Metrics::default();
        metrics.record(("m", "score"), &timings(1), 2);
        metrics.record(("m", "encode"), &timings(1), 3);
        let told = metrics.histograms();
        let of = |name: &str| told.iter().filter(|histogram| histogram.operation == name).count();
        assert_eq!((of("encode"), of("score")), (STAGES.len(), STAGES.len()));
        assert_eq!(metrics.counters("m"), ModelCounters { requests: 2, tokens: 5 });
    }

    #[test]
    fn names_cannot_fill_the_memory() {
        let metrics = Metrics::default();
        for index in 0..MODELS_MAX + 10 {
            metrics.record((&format!("m{index}"), "encode"), &timings(1), 1);
        }
        metrics.record(("m0", "encode"), &timings(1), 1);
        let histograms = metrics.histograms();
        assert_eq!(histograms.len(), (MODELS_MAX + 1) * STAGES.len());
        assert_eq!(total_of(&histograms, OTHER_MODELS).len(), 10);
        assert_eq!(total_of(&histograms, "m0").len(), 2);
    }
}
