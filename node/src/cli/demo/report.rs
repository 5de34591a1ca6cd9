//! What the demo tells.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use shoal_protocol::message::StageHistogram;

use super::load::TEXTS_PER_REQUEST;
use super::measure::Measured;
use super::story::{Story, name_of_node};
use super::texts::{CORPUS, QUERIES};
use super::timeline::Second;
use crate::cli::exit::Stop;
use crate::cli::latencies::Latencies;
use crate::cli::output::{Output, millis};

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

/// What one node showed.
pub(super) struct Alone {
    pub(super) model: String,
    pub(super) dtype: String,
    pub(super) device: String,
    pub(super) reason: String,
    pub(super) neighbours: Vec<Vec<(usize, f64)>>,
    pub(super) tokens_per_text: f64,
    pub(super) stages: Vec<StageHistogram>,
}

/// Everything that both forms of the report tell.
pub(super) struct Report {
    pub(super) measured: Measured,
    pub(super) alone: Alone,
    pub(super) story: Story,
    /// The two models of the mesh, and what there is to say about the second.
    pub(super) models: Vec<String>,
    pub(super) note: String,
    /// Of each node.
    pub(super) tokens_per_s_max: u64,
    pub(super) requests_per_s: f64,
}

impl Report {
    fn requests(&self) -> u64 {
        self.measured.requests + self.story.timeline.requests
    }

    pub(super) fn failures(&self) -> u64 {
        self.measured.failures + self.story.timeline.failures
    }

    pub(super) fn duplicates(&self) -> u64 {
        self.measured.duplicates + self.story.timeline.duplicates
    }

    pub(super) fn to_json(&self) -> Value {
        let (single, load) = (&self.measured.latencies_us, &self.story.timeline.latencies_us);
        let neighbours: Vec<_> = QUERIES
            .iter()
            .zip(&self.alone.neighbours)
            .map(|(query, found)| {
                let found: Vec<_> = found
                    .iter()
                    .map(|(index, score)| json!({ "text": CORPUS[*index], "cosine": score }))
                    .collect();
                json!({ "query": query, "neighbours": found })
            })
            .collect();
        json!({
            "requests": self.requests(),
            "failures": self.failures(),
            "duplicates": self.duplicates(),
            "p50_us": load.value_at_quantile(0.5),
            "p99_us": load.value_at_quantile(0.99),
            "single": { "p50_us": single.value_at_quantile(0.5), "p99_us": single.value_at_quantile(0.99) },
            "tokens_per_s": self.measured.tokens_per_s.round(),
            "model": self.alone.model,
            "device": self.alone.device,
            "reason": self.alone.reason,
            "neighbours": neighbours,
            "stages": stages_to_json(&self.stages_alone(), &self.alone.model),
            "events": self.measured.events,
            "mesh": self.mesh_to_json(),
        })
    }

    fn mesh_to_json(&self) -> Value {
        let story = &self.story;
        let names = |nodes: &[_]| nodes.iter().map(|node| story.name(*node)).collect::<Vec<_>>();
        let seconds = story.timeline.seconds.iter().enumerate().map(|(at, second)| {
            let by_node = second.by_node.iter().map(|(node, count)| (story.name(*node), (*count).into()));
            json!({
                "second": at,
                "requests": second.requests,
                "failures": second.failures,
                "p50_us": second.latencies_us.value_at_quantile(0.5),
                "p99_us": second.latencies_us.value_at_quantile(0.99),
                "nodes": by_node.collect::<serde_json::Map<_, _>>(),
            })
        });
        let residences = story.residences.iter().map(|(at, residence)| {
            let models = residence.iter().map(|(model, nodes)| (model.clone(), names(nodes).into()));
            let models = models.collect::<serde_json::Map<_, Value>>();
            json!({ "load_us": at.as_micros() as u64, "models": models })
        });
        let stages = self.models.iter().map(|model| (model.clone(), stages_to_json(&story.latencies, model)));
        json!({
            "nodes": names(&story.nodes),
            "models": self.models,
            "note": self.note,
            "tokens_per_s_max": self.tokens_per_s_max,
            "requests_per_s": self.requests_per_s,
            "texts_per_request": TEXTS_PER_REQUEST,
            "requests": story.timeline.requests,
            "attempts_more": story.timeline.attempts_more,
            "seconds": seconds.collect::<Vec<_>>(),
            "residences": residences.collect::<Vec<_>>(),
            "stages": stages.collect::<serde_json::Map<_, _>>(),
        })
    }

    pub(super) fn print(&self, output: &mut Output) -> Result<(), Stop> {
        output.line(&format!("model    {}", self.alone.model))?;
        output.line(&format!("device   {}", self.alone.reason))?;
        output.line("\nnearest neighbours, encoded over QUIC:")?;
        for (query, found) in QUERIES.iter().zip(&self.alone.neighbours) {
            output.line(&format!("  {query}"))?;
            for (index, score) in found {
                output.line(&format!("    {score:.3}  {}", CORPUS[*index]))?;
            }
        }
        let (measured, latencies) = (&self.measured, &self.measured.latencies_us);
        output.line(&format!("\nbulk     {:.0} tokens/s over QUIC", measured.tokens_per_s))?;
        output.line(&format!("single   one short text at a time: {}", quantiles(latencies)))?;
        output.line("\nwhere the time went, at the node (bulk and single requests):")?;
        print_stages(output, &self.stages_alone(), &self.alone.model)?;
        self.print_mesh(output)?;
        output.line(&format!(
            "\n{} requests, {} failures, {} duplicates",
            self.requests(),
            self.failures(),
            self.duplicates()
        ))
    }

    fn print_mesh(&self, output: &mut Output) -> Result<(), Stop> {
        let (story, timeline) = (&self.story, &self.story.timeline);
        output.line(&format!(
            "\nthree nodes (processes), each held to {} tokens/s, so that a kill takes capacity away;\n{}",
            self.tokens_per_s_max, self.note
        ))?;
        output.line(&format!(
            "open loop: {:.0} requests/s of {TEXTS_PER_REQUEST} texts, to both models in turn, for {} s",
            self.requests_per_s,
            timeline.seconds.len()
        ))?;
        output.line("")?;
        let names: Vec<_> = (0..story.nodes.len()).map(name_of_node).collect();
        let mut header = vec!["SECOND", "REQUESTS", "FAILED", "P50", "P99"];
        header.extend(names.iter().map(String::as_str));
        header.push("");
        let seconds = timeline.seconds.iter().enumerate();
        output
            .table(&header, &seconds.map(|(at, second)| self.second_row(at, second)).collect::<Vec<_>>())?;
        output.line("\nwhere each model was in memory:")?;
        for (at, residence) in &story.residences {
            let models = residence.iter().map(|(model, nodes)| {
                let nodes: Vec<_> = nodes.iter().map(|node| story.name(*node)).collect();
                format!("{model}: {}", nodes.join(" "))
            });
            let models = models.collect::<Vec<_>>().join("; ");
            let models = if models.is_empty() { "none" } else { &models };
            output.line(&format!("  at {:4.1} s  {models}", at.as_secs_f64()))?;
        }
        output.line("\nwhere the time went, at the nodes that were left:")?;
        for model in &self.models {
            print_stages(output, &story.latencies, model)?;
        }
        output.line(&format!(
            "\nunder load: {}; {} attempts more than requests",
            quantiles(&timeline.latencies_us),
            timeline.attempts_more
        ))
    }

    fn second_row(&self, at: usize, second: &Second) -> Vec<String> {
        let latency = |quantile| millis(second.latencies_us.value_at_quantile(quantile));
        let mut row = vec![at.to_string(), second.requests.to_string(), second.failures.to_string()];
        row.extend([latency(0.5), latency(0.99)]);
        let count = |node| second.by_node.get(node).copied().unwrap_or_default().to_string();
        row.extend(self.story.nodes.iter().map(count));
        let events = self.story.events.iter().filter(|event| event.at.as_secs() as usize == at);
        row.push(events.map(|event| event.what.as_str()).collect::<Vec<_>>().join(", "));
        row
    }

    fn stages_alone(&self) -> Latencies {
        let mut latencies = Latencies::default();
        latencies.add(&self.alone.stages);
        latencies
    }
}

fn quantiles(latencies: &Histogram<u64>) -> String {
    let at = |quantile| millis(latencies.value_at_quantile(quantile));
    format!("p50 {}, p99 {}", at(0.5), at(0.99))
}

fn stages_to_json(latencies: &Latencies, model: &str) -> Value {
    let stages = latencies.of(model).map(|(stage, histogram)| {
        json!({
            "stage": stage.name, "count": histogram.len(), "p50_us": histogram.value_at_quantile(0.5),
            "p99_us": histogram.value_at_quantile(0.99), "max_us": histogram.max(),
        })
    });
    stages.collect()
}

fn print_stages(output: &mut Output, latencies: &Latencies, model: &str) -> Result<(), Stop> {
    let rows: Vec<_> = latencies
        .of(model)
        .map(|(stage, histogram)| {
            let at = |quantile| millis(histogram.value_at_quantile(quantile));
            let mut row = vec![model.to_owned(), stage.name.clone(), histogram.len().to_string()];
            row.extend([at(0.5), at(0.99), millis(histogram.max())]);
            row
        })
        .collect();
    output.table(&["MODEL", "STAGE", "REQUESTS", "P50", "P99", "MAX"], &rows)
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
