//! What the demo tells.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde_json::{Value, json};
use shoal_protocol::message::StageHistogram;

use super::measure::Measured;
use super::texts::{CORPUS, QUERIES};
use crate::cli::exit::Stop;
use crate::cli::output::Output;

/// Neighbours shown for each query.
const NEIGHBOURS: usize = 2;

/// The sentences closest to each query, best first, with their cosine.
pub(super) fn neighbours(corpus: &[Vec<f32>], queries: &[Vec<f32>]) -> Vec<Vec<(usize, f64)>> {
    let of_query = |query: &Vec<f32>| {
        let mut scored: Vec<_> =
            corpus.iter().enumerate().map(|(index, vector)| (index, cosine(query, vector))).collect();
        scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        scored.truncate(NEIGHBOURS);
        scored
    };
    queries.iter().map(of_query).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

/// Everything that both forms of the report tell.
pub(super) struct Report {
    pub(super) model: String,
    pub(super) device: String,
    pub(super) reason: String,
    pub(super) neighbours: Vec<Vec<(usize, f64)>>,
    pub(super) stages: Vec<StageHistogram>,
    pub(super) measured: Measured,
}

impl Report {
    pub(super) fn to_json(&self) -> Value {
        let latencies = &self.measured.latencies_us;
        let neighbours: Vec<_> = QUERIES
            .iter()
            .zip(&self.neighbours)
            .map(|(query, found)| {
                let found: Vec<_> = found
                    .iter()
                    .map(|(index, score)| json!({ "text": CORPUS[*index], "cosine": score }))
                    .collect();
                json!({ "query": query, "neighbours": found })
            })
            .collect();
        let stages: Vec<_> = self
            .read_stages()
            .map(|(stage, histogram)| {
                json!({
                    "stage": stage, "count": histogram.len(), "p50_us": histogram.value_at_quantile(0.5),
                    "p99_us": histogram.value_at_quantile(0.99), "max_us": histogram.max(),
                })
            })
            .collect();
        json!({
            "requests": self.measured.requests,
            "failures": self.measured.failures,
            "duplicates": self.measured.duplicates,
            "p50_us": latencies.value_at_quantile(0.5),
            "p99_us": latencies.value_at_quantile(0.99),
            "tokens_per_s": self.measured.tokens_per_s.round(),
            "model": self.model,
            "device": self.device,
            "reason": self.reason,
            "neighbours": neighbours,
            "stages": stages,
            "events": self.measured.events,
        })
    }

    pub(super) fn print(&self, output: &mut Output) -> Result<(), Stop> {
        output.line(&format!("model    {}", self.model))?;
        output.line(&format!("device   {}", self.reason))?;
        output.line("\nnearest neighbours, encoded over QUIC:")?;
        for (query, found) in QUERIES.iter().zip(&self.neighbours) {
            output.line(&format!("  {query}"))?;
            for (index, score) in found {
                output.line(&format!("    {score:.3}  {}", CORPUS[*index]))?;
            }
        }
        let (measured, latencies) = (&self.measured, &self.measured.latencies_us);
        output.line(&format!("\nbulk     {:.0} tokens/s over QUIC", measured.tokens_per_s))?;
        output.line(&format!(
            "single   one short text at a time: p50 {}, p99 {}",
            millis(latencies.value_at_quantile(0.5)),
            millis(latencies.value_at_quantile(0.99))
        ))?;
        output.line("\nwhere the time went, at the node (bulk and single requests):")?;
        let rows: Vec<_> = self
            .read_stages()
            .map(|(stage, histogram)| {
                let at = |quantile| millis(histogram.value_at_quantile(quantile));
                vec![stage, histogram.len().to_string(), at(0.5), at(0.99), millis(histogram.max())]
            })
            .collect();
        output.table(&["STAGE", "REQUESTS", "P50", "P99", "MAX"], &rows)?;
        output.line(&format!(
            "\n{} requests, {} failures, {} duplicates",
            measured.requests, measured.failures, measured.duplicates
        ))
    }

    fn read_stages(&self) -> impl Iterator<Item = (String, Histogram<u64>)> {
        let mut deserializer = Deserializer::new();
        self.stages.iter().filter_map(move |stage| {
            let histogram = deserializer.deserialize(&mut stage.v2.as_slice()).ok()?;
            Some((stage.stage.clone(), histogram))
        })
    }
}

/// Microseconds for people.
fn millis(us: u64) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_ordered_by_cosine() {
        let corpus = [vec![1.0, 0.0], vec![0.0, 2.0], vec![1.0, 1.0]];
        let found = neighbours(&corpus, &[vec![0.0, 1.0], vec![0.0, 0.0]]);
        assert_eq!(found[0].iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2]);
        assert!((found[0][0].1 - 1.0).abs() < 1e-12);
        assert_eq!(found[1].iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1], "ties by index");
        assert_eq!(millis(12_345), "12.34 ms");
    }
}
