//! Clients that ask on schedule and write down what they see.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use shoal_mesh::{Client, Encode, ItemResult, Vector};
use shoal_protocol::message::Truncate;
use tokio::task::JoinSet;

use super::history::{Asked, Ended, HistoryWriter, Record};

/// Requests of one client that wait for their outcome. Beyond it the loop waits, and what is late counts from when it
/// was due.
const IN_FLIGHT_MAX: usize = 4096;
/// Texts of one request.
const TEXTS_MAX: u64 = 4;
/// Texts that are asked for again and again; every other one is asked for once.
const TEXTS_REPEATED: u64 = 512;
/// Words of a text.
const WORDS: usize = 8;
/// Words that every vocabulary of the golden models has.
const VOCABULARY: [&str; 32] = [
    "moon", "morning", "mother", "mountain", "music", "night", "noise", "north", "ocean", "oil", "open",
    "orange", "paint", "paper", "people", "picture", "place", "plant", "quick", "rain", "river", "road",
    "room", "school", "search", "seven", "ship", "silver", "sister", "sleep", "snow", "song",
];

/// What a request asks for is known from the seed and its number.
#[must_use]
pub(super) fn texts_of(seed: u64, id: u64) -> Vec<u64> {
    let chance = mix(seed ^ mix(id));
    let count = 1 + chance % TEXTS_MAX;
    let text = |place: u64| {
        let chance = mix(chance ^ (place + 1));
        // Half of the texts are asked for again and again.
        if chance & 1 == 0 { (chance >> 1) % TEXTS_REPEATED } else { TEXTS_REPEATED + id * TEXTS_MAX + place }
    };
    (0..count).map(text).collect()
}

/// Texts of a mean request.
pub(super) const TEXTS_MEAN: f64 = (1 + TEXTS_MAX) as f64 / 2.0;

/// The text of a number: equal for equal numbers, different for different ones.
#[must_use]
pub(super) fn text(mut number: u64) -> String {
    let base = VOCABULARY.len() as u64;
    let mut words = [""; WORDS];
    for word in &mut words {
        *word = VOCABULARY[(number % base) as usize];
        number /= base;
    }
    words.join(" ")
}

fn mix(mut value: u64) -> u64 {
    // SplitMix64 (Steele, Lea, Flood 2014).
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// How requests are made, and where what became of them is written.
#[derive(Clone)]
pub(super) struct Asking {
    /// The file.
    pub(super) history: Arc<HistoryWriter>,
    /// The run's beginning.
    pub(super) origin: Instant,
    /// The model.
    pub(super) model: String,
    /// Nobody holds it yet.
    pub(super) is_cold: bool,
    /// How long each request may take from when it is sent.
    pub(super) deadline: Duration,
    /// Decides the texts.
    pub(super) seed: u64,
}

impl Asking {
    /// Microseconds of the run.
    #[must_use]
    pub(super) fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }

    /// Makes one request; gives the texts that were answered and their tokens.
    ///
    /// # Errors
    /// When the history cannot be written.
    pub(super) async fn ask(self, client: Client, id: u64, intended: Instant) -> io::Result<(u64, u64)> {
        let (sent, texts) = (shoal::clock::now(), texts_of(self.seed, id));
        let (intended_us, sent_us) = (self.micros(intended), self.micros(sent));
        let deadline_us = self.micros(sent + self.deadline);
        let call = Encode::new(self.model.clone(), texts.iter().map(|number| text(*number)))
            .truncate(Truncate::Right)
            .deadline(self.deadline)
            .request_unique(id);
        let (model, is_cold) = (self.model.clone(), self.is_cold);
        self.history.write(&Record::Asked(Asked {
            id,
            intended_us,
            sent_us,
            deadline_us,
            model,
            is_cold,
            texts,
        }))?;
        let (ended, tokens) = self.outcome(client, id, call).await;
        let answered = ended.items.len() as u64;
        self.history.write(&Record::Ended(ended))?;
        Ok((answered, tokens))
    }

    async fn outcome(&self, client: Client, id: u64, call: Encode) -> (Ended, u64) {
        let mut ended = Ended { id, ..Ended::default() };
        let mut tokens = 0;
        let mut stream = client.encode_stream(call);
        while let Some(item) = stream.next().await {
            match item {
                Ok((index, item @ ItemResult::Answered { .. })) => {
                    tokens += u64::from(item.tokens_seen());
                    ended.items.push((index, hash(item.vector().map_or(&[], Vector::bytes))));
                }
                // One text that fails fails the request: none of them is at fault.
                Ok((_, ItemResult::Failed { code, message, .. })) => {
                    ended.error = Some((code.as_str().to_owned(), message));
                }
                Err(error) => ended.error = Some((error.code().as_str().to_owned(), error.to_string())),
            }
        }
        if let Some(summary) = stream.summary() {
            ended.retries = summary.retries + summary.hedges;
            if let Some(by) = &summary.served_by {
                ended.node = by.node.to_string();
                ended.device = format!("{} {:?}", by.device_name, by.numerics);
            }
        }
        ended.at_us = self.micros(shoal::clock::now());
        (ended, tokens)
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// The schedule of one client: every `period` from `first` until `end`, whatever comes back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// When the first request is due.
    pub(super) first: Instant,
    /// Between two requests.
    pub(super) period: Duration,
    /// No request is due from here on.
    pub(super) end: Instant,
    /// The first request's id.
    pub(super) id: u64,
    /// Between the ids of two requests: the number of clients.
    pub(super) stride: u64,
}

/// Sends every request when it is due and returns once all have their outcome.
///
/// # Errors
/// When the history cannot be written.
pub(super) async fn open_loop(asking: Asking, client: Client, schedule: Schedule) -> io::Result<()> {
    let mut in_flight = JoinSet::new();
    let (mut due, mut id) = (schedule.first, schedule.id);
    while due < schedule.end {
        tokio::time::sleep_until(due.into()).await;
        while in_flight.len() >= IN_FLIGHT_MAX {
            ended(in_flight.join_next().await)?;
        }
        in_flight.spawn(asking.clone().ask(client.clone(), id, due));
        while let Some(done) = in_flight.try_join_next() {
            ended(Some(done))?;
        }
        due += schedule.period;
        id += schedule.stride;
    }
    while let Some(done) = in_flight.join_next().await {
        ended(Some(done))?;
    }
    Ok(())
}

fn ended<T>(joined: Option<Result<io::Result<T>, tokio::task::JoinError>>) -> io::Result<()> {
    match joined {
        None => Ok(()),
        Some(joined) => joined.map_err(io::Error::other)?.map(drop),
    }
}

/// Keeps `in_flight` requests under way until `end`; gives the texts that were answered and their tokens.
///
/// # Errors
/// When the history cannot be written.
pub(super) async fn closed_loop(
    asking: Asking,
    client: Client,
    in_flight: u64,
    ids: u64,
    end: Instant,
) -> io::Result<(u64, u64)> {
    let mut flows = JoinSet::new();
    for flow in 0..in_flight {
        let (asking, client) = (asking.clone(), client.clone());
        flows.spawn(async move {
            let (mut texts, mut tokens, mut id) = (0, 0, ids + flow);
            while shoal::clock::now() < end {
                let answered = asking.clone().ask(client.clone(), id, shoal::clock::now()).await?;
                texts += answered.0;
                tokens += answered.1;
                id += in_flight;
            }
            io::Result::Ok((texts, tokens))
        });
    }
    let mut sum = (0, 0);
    while let Some(flow) = flows.join_next().await {
        let (texts, tokens) = flow.map_err(io::Error::other)??;
        sum = (sum.0 + texts, sum.1 + tokens);
    }
    Ok(sum)
}
