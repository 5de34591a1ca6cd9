//! The demo's load: an open loop, whose requests are sent when they are due whatever became of the former ones.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use shoal_mesh::Client;
use shoal_protocol::message::Priority;
use tokio::time::sleep_until;

use super::measure::call;
use super::texts::CORPUS;
use super::timeline::{Outcome, Timeline};
use crate::clock;

/// Texts of a request.
pub(super) const TEXTS_PER_REQUEST: usize = 4;
/// Requests without an answer. One beyond counts as failed: the mesh does not keep up.
const IN_FLIGHT_MAX: usize = 2048;

/// What is sent.
pub(super) struct LoadPlan {
    /// The models in turn.
    pub(super) models: Vec<String>,
    /// At even distances.
    pub(super) requests_per_s: f64,
    /// How long.
    pub(super) time: Duration,
}

/// Sends everything, and waits for the last answer.
pub(super) async fn run(client: &Client, plan: &LoadPlan, began: Instant) -> Timeline {
    let mut timeline = Timeline::new(plan.time.as_secs().max(1) as usize);
    let total = (plan.time.as_secs_f64() * plan.requests_per_s) as usize;
    let due = |index: usize| Duration::from_secs_f64(index as f64 / plan.requests_per_s);
    let mut flying = FuturesUnordered::new();
    let mut next = 0;
    while next < total || !flying.is_empty() {
        tokio::select! {
            Some(outcome) = flying.next(), if !flying.is_empty() => timeline.record(outcome),
            () = sleep_until((began + due(next)).into()), if next < total => {
                if flying.len() < IN_FLIGHT_MAX {
                    flying.push(one(client, plan, next, due(next), began));
                } else {
                    timeline.record(unsent(due(next)));
                }
                next += 1;
            }
        }
    }
    timeline
}

async fn one(client: &Client, plan: &LoadPlan, index: usize, intended: Duration, began: Instant) -> Outcome {
    let model = &plan.models[index % plan.models.len()];
    let texts = CORPUS.iter().cycle().skip(index % CORPUS.len()).take(TEXTS_PER_REQUEST);
    let texts = texts.map(|text| (*text).to_owned()).collect();
    let answer = call(client, model, texts, Priority::Interactive).await;
    let took = clock::now().saturating_duration_since(began + intended);
    match answer {
        Ok(answer) => {
            let whole = (answer.failures == 0).then_some(answer.served_by).flatten();
            let answered = whole.map(|by| by.node).ok_or_else(|| "a text was not answered".to_owned());
            let (attempts_more, duplicates) = (answer.attempts_more, answer.duplicates);
            Outcome { intended, took, attempts_more, duplicates, answered }
        }
        Err(error) => {
            let answered = Err(error.message);
            Outcome { intended, took, attempts_more: 0, duplicates: 0, answered }
        }
    }
}

fn unsent(intended: Duration) -> Outcome {
    let answered = Err(format!("not sent: {IN_FLIGHT_MAX} requests are without an answer"));
    Outcome { intended, took: Duration::ZERO, attempts_more: 0, duplicates: 0, answered }
}
