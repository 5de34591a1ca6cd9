//! The node's hdrhistograms as classic buckets, merged exactly where several models share a label.

use std::collections::{BTreeMap, BTreeSet};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use shoal_protocol::message::StageHistogram;

use super::counters::BUCKETS_S;
use super::exposition::{MODELS_MAX, OTHER_MODELS};
use super::text_format::{Kind, Writer};

const REQUEST: &str = "shoal_request_duration_seconds";
const STAGE: &str = "shoal_stage_duration_seconds";
/// The stage that is the whole request.
const TOTAL: &str = "total";

type Key<'a> = (&'a str, &'a str, &'a str);

/// Appends the request and stage durations.
pub(super) fn write(histograms: &[StageHistogram], out: &mut Writer) {
    let merged = merge(histograms);
    for (family, help, of_total) in [
        (REQUEST, "From a request's last byte to its terminal frame, at the node.", true),
        (
            STAGE,
            "One stage of a request. The later texts of a large one are tokenized while the first are computed.",
            false,
        ),
    ] {
        out.family(family, Kind::Histogram, help);
        for ((model, operation, stage), histogram) in &merged {
            if (*stage == TOTAL) != of_total {
                continue;
            }
            let labels = [("model", *model), ("op", *operation), ("stage", *stage)];
            let labels = if of_total { &labels[..2] } else { &labels[..] };
            let (buckets, sum_s) = classic(histogram);
            out.histogram(family, labels, &BUCKETS_S, &buckets, sum_s);
        }
    }
}

/// One histogram for every (model label, operation, stage).
fn merge(histograms: &[StageHistogram]) -> BTreeMap<Key<'_>, Histogram<u64>> {
    let named: BTreeSet<&str> = histograms.iter().map(|entry| entry.model.as_str()).collect();
    let named: BTreeSet<&str> = named.into_iter().take(MODELS_MAX).collect();
    let mut merged: BTreeMap<Key<'_>, Histogram<u64>> = BTreeMap::new();
    let mut deserializer = Deserializer::new();
    for entry in histograms {
        let model = named.get(entry.model.as_str()).copied().unwrap_or(OTHER_MODELS);
        let read = deserializer.deserialize(&mut entry.v2.as_slice());
        let histogram: Histogram<u64> = match read {
            Ok(histogram) => histogram,
            Err(error) => {
                tracing::error!(%error, model = entry.model, stage = entry.stage, "a histogram is unreadable");
                continue;
            }
        };
        let key = (model, entry.operation.as_str(), entry.stage.as_str());
        match merged.get_mut(&key) {
            Some(sum) => {
                sum.auto(true);
                if let Err(error) = sum.add(&histogram) {
                    tracing::error!(%error, model, "histograms could not be merged");
                }
            }
            None => drop(merged.insert(key, histogram)),
        }
    }
    merged
}

/// Counts in each bucket of [`BUCKETS_S`] and above, and the sum in seconds. Values are microseconds; one that a
/// coarse cell of the hdrhistogram spreads over a bound is counted below it only if all of the cell is.
fn classic(histogram: &Histogram<u64>) -> ([u64; BUCKETS_S.len() + 1], f64) {
    let mut buckets = [0; BUCKETS_S.len() + 1];
    let mut sum_us = 0.0;
    for cell in histogram.iter_recorded() {
        let value_us = cell.value_iterated_to();
        let count = cell.count_at_value();
        let bucket = BUCKETS_S.partition_point(|bound| bound * 1e6 < value_us as f64);
        buckets[bucket] += count;
        sum_us += histogram.median_equivalent(value_us) as f64 * count as f64;
    }
    (buckets, sum_us / 1e6)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::{Serializer, V2Serializer};

    use super::*;

    fn entry(model: &str, stage: &str, values_us: &[u64]) -> StageHistogram {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        values_us.iter().for_each(|value| histogram.record(*value).unwrap());
        let mut v2 = Vec::new();
        V2Serializer::new().serialize(&histogram, &mut v2).unwrap();
        StageHistogram { model: model.into(), operation: "encode".into(), stage: stage.into(), v2 }
    }

    #[test]
    fn values_fall_into_their_buckets() {
        let histograms = [entry("m", TOTAL, &[10, 60, 1000, 100_000_000])];
        let merged = merge(&histograms);
        let (buckets, sum_s) = classic(&merged[&("m", "encode", TOTAL)]);
        let filled: Vec<_> = (0..buckets.len()).filter(|bucket| buckets[*bucket] > 0).collect();
        assert_eq!(filled, [0, 1, 4, 20]);
        assert!((sum_s - 100.001_07).abs() < 0.1, "{sum_s}");
    }

    #[test]
    fn models_beyond_the_bound_are_summed_and_damage_is_skipped() {
        let name = |index: usize| format!("m{index:04}");
        let mut histograms: Vec<_> =
            (0..MODELS_MAX + 5).map(|index| entry(&name(index), "queue", &[5])).collect();
        histograms.push(StageHistogram { v2: vec![1, 2, 3], ..entry(&name(0), "compute", &[]) });
        let merged = merge(&histograms);
        assert_eq!(merged.len(), MODELS_MAX + 1);
        assert_eq!(merged[&(OTHER_MODELS, "encode", "queue")].len(), 5);
    }
}
