//! Calls over QUIC, counted: how long each took, and that every text was answered exactly once.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use shoal_mesh::{Client, Encode};
use shoal_protocol::message::{Priority, ServedBy, Truncate};

use super::texts::pair;
use crate::cli::exit::{Exit, Stop};
use crate::clock;

/// Texts of one bulk call.
const BULK_TEXTS: usize = 64;
/// Bulk calls in flight.
const BULK_CALLS: usize = 4;
/// Longest latency told apart.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What the demo saw.
pub(super) struct Measured {
    pub(super) requests: u64,
    /// Texts that failed or were not answered.
    pub(super) failures: u64,
    /// Texts that were answered again.
    pub(super) duplicates: u64,
    /// Calls with one text, one at a time, as their caller saw them.
    pub(super) latencies_us: Histogram<u64>,
    pub(super) tokens_per_s: f64,
    pub(super) served_by: Option<ServedBy>,
    pub(super) events: Vec<Value>,
    started: Instant,
}

/// The answer to one call.
pub(super) struct Answer {
    pub(super) vectors: Vec<Vec<f32>>,
    pub(super) tokens: u64,
    /// Texts that failed or were not answered.
    pub(super) failures: u64,
    /// Texts that were answered again.
    pub(super) duplicates: u64,
    /// Attempts beyond the first of each part, and second ones beside a slow one.
    pub(super) attempts_more: u32,
    pub(super) served_by: Option<ServedBy>,
}

impl Measured {
    pub(super) fn new() -> Result<Self, Stop> {
        Ok(Self {
            requests: 0,
            failures: 0,
            duplicates: 0,
            latencies_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
                .map_err(|error| Stop::new(Exit::DemoFailed, error.to_string()))?,
            tokens_per_s: 0.0,
            served_by: None,
            events: Vec::new(),
            started: clock::now(),
        })
    }

    /// Notes what happened, with its time since the demo began.
    pub(super) fn event(&mut self, what: &str, details: Value) {
        self.event_at(clock::now(), what, details);
    }

    /// As [`event`](Self::event), for what happened at another time.
    pub(super) fn event_at(&mut self, at: Instant, what: &str, details: Value) {
        let at_us = at.saturating_duration_since(self.started).as_micros();
        let at_us = u64::try_from(at_us).unwrap_or(u64::MAX);
        self.events.push(json!({ "at_us": at_us, "event": what, "details": details }));
    }

    fn count(&mut self, answer: &Answer) {
        self.requests += 1;
        self.failures += answer.failures;
        self.duplicates += answer.duplicates;
        if answer.served_by.is_some() {
            self.served_by.clone_from(&answer.served_by);
        }
    }

    /// One call with all texts.
    pub(super) async fn encode(
        &mut self,
        client: &Client,
        model: &str,
        texts: &[&str],
    ) -> Result<Answer, Stop> {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        let answer = call(client, model, texts, Priority::Interactive).await?;
        self.count(&answer);
        Ok(answer)
    }

    /// One text at a time, for up to `limit` calls and `time`.
    pub(super) async fn one_by_one(
        &mut self,
        client: &Client,
        model: &str,
        texts: &[&str],
        limit: usize,
        time: Duration,
    ) -> Result<(), Stop> {
        let began = clock::now();
        for text in texts.iter().cycle().take(limit) {
            let sent = clock::now();
            let answer = call(client, model, vec![(*text).to_owned()], Priority::Interactive).await?;
            self.count(&answer);
            let took = u64::try_from((clock::now() - sent).as_micros()).unwrap_or(u64::MAX);
            self.latencies_us.saturating_record(took);
            if clock::now() - began > time {
                break;
            }
        }
        Ok(())
    }

    /// Bulk calls, several in flight, for `time`.
    pub(super) async fn in_bulk(&mut self, client: &Client, model: &str, time: Duration) -> Result<(), Stop> {
        let began = clock::now();
        let flows = (0..BULK_CALLS).map(|flow| async move {
            let mut answers = Vec::new();
            let mut next = flow * BULK_TEXTS;
            while clock::now() - began < time {
                let texts = (next..next + BULK_TEXTS).map(pair).collect();
                next += BULK_CALLS * BULK_TEXTS;
                let mut answer = call(client, model, texts, Priority::Bulk).await?;
                answer.vectors = Vec::new();
                answers.push(answer);
            }
            Ok::<_, Stop>(answers)
        });
        let answers: Vec<_> = future::try_join_all(flows).await?.into_iter().flatten().collect();
        let seconds = (clock::now() - began).as_secs_f64();
        let tokens: u64 = answers.iter().map(|answer| answer.tokens).sum();
        answers.iter().for_each(|answer| self.count(answer));
        self.tokens_per_s = tokens as f64 / seconds.max(1e-9);
        Ok(())
    }
}

/// Makes one call and checks that each text is answered exactly once.
pub(super) async fn call(
    client: &Client,
    model: &str,
    texts: Vec<String>,
    priority: Priority,
) -> Result<Answer, Stop> {
    let mut times_answered = vec![0_u64; texts.len()];
    let mut answer = Answer {
        vectors: Vec::with_capacity(texts.len()),
        tokens: 0,
        failures: 0,
        duplicates: 0,
        attempts_more: 0,
        served_by: None,
    };
    // A model with a low limit is shown all the same.
    let call = Encode::new(model, texts).priority(priority).truncate(Truncate::Right);
    let mut stream = client.encode_stream(call);
    while let Some(item) = stream.next().await {
        let (index, item) = item?;
        answer.tokens += u64::from(item.tokens_seen());
        if let Some(times) = usize::try_from(index).ok().and_then(|index| times_answered.get_mut(index)) {
            *times += 1;
        }
        match item.vector() {
            Some(vector) => {
                answer.vectors.push(vector.as_f32().map(std::borrow::Cow::into_owned).unwrap_or_default());
            }
            None => answer.failures += 1,
        }
    }
    if let Some(summary) = stream.summary() {
        answer.served_by.clone_from(&summary.served_by);
        answer.attempts_more = summary.retries + summary.hedges;
    }
    for times in times_answered {
        answer.failures += u64::from(times == 0);
        answer.duplicates += times.saturating_sub(1);
    }
    Ok(answer)
}
