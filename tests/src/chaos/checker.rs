//! Holds a history against the rules of the mesh, and takes its figures. Pure: it sees records and nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::goodput::{Goodput, Recovery};
use super::history::{Asked, Ended, Event, Record, Unrouted};

/// An outcome may come so much after its deadline: the clients share two cores with the nodes and the relay.
const DEADLINE_GRACE: Duration = Duration::from_millis(250);
/// A request that is sent so long after a node was taken may still be sent there.
const FAILOVER_WINDOW: Duration = Duration::from_secs(5);
/// Violations that are told; all are counted.
const TOLD_MAX: usize = 12;
/// The longest latency that is told apart.
const LATENCY_US_MAX: u64 = 120_000_000;

/// Latencies in microseconds; those beyond a minute or two count as that.
pub type Latencies = Histogram<u64>;

/// What came of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// Requests sent.
    pub asked: u64,
    /// Requests with every vector.
    pub answered: u64,
    /// Requests that failed, by code.
    pub failed: BTreeMap<String, u64>,
    /// Requests without an answer although a node could have served them.
    pub lost: u64,
    /// Requests that got a vector twice, or ended twice.
    pub duplicated: u64,
    /// Requests that took more than one attempt.
    pub retried: u64,
    /// Texts that were seen more than once, and whose bits were compared.
    pub compared: u64,
    /// Broken rules, the first ones.
    pub told: Vec<String>,
    /// All broken rules.
    pub violations: u64,
    /// From when the request was due to its answer.
    #[serde(with = "serialized")]
    pub latency: Latencies,
    /// The same of requests that had to wait for a load.
    #[serde(with = "serialized")]
    pub cold: Latencies,
    /// Of requests in flight at a node that was taken: from then to the answer of another.
    #[serde(with = "serialized")]
    pub failover: Latencies,
    /// Of requests sent to such a node before its silence was noticed: from sending to the answer of another.
    #[serde(with = "serialized")]
    pub detour: Latencies,
    /// Texts answered in each second.
    pub per_second: Vec<u64>,
    /// After each event that took nodes: how long until the rest did all that it can.
    pub recoveries: Vec<Recovery>,
    /// After each death of a node: how long the clients still sent requests there.
    pub unrouted: Vec<Unrouted>,
    /// What was done.
    pub events: Vec<Event>,
}

/// Reads a history, record by record.
#[derive(Debug)]
pub struct Checker {
    open: HashMap<u64, Asked>,
    closed: HashSet<u64>,
    bits: HashMap<(String, String, u64), u64>,
    goodput: Goodput,
    verdict: Verdict,
}

impl Checker {
    /// Of a mesh of `nodes` that together answer `capacity_per_s` texts a second.
    #[must_use]
    pub fn new(nodes: u16, capacity_per_s: f64) -> Self {
        let verdict = Verdict {
            asked: 0,
            answered: 0,
            failed: BTreeMap::new(),
            lost: 0,
            duplicated: 0,
            retried: 0,
            compared: 0,
            told: Vec::new(),
            violations: 0,
            latency: latencies(),
            cold: latencies(),
            failover: latencies(),
            detour: latencies(),
            per_second: Vec::new(),
            recoveries: Vec::new(),
            unrouted: Vec::new(),
            events: Vec::new(),
        };
        Self {
            open: HashMap::new(),
            closed: HashSet::new(),
            bits: HashMap::new(),
            goodput: Goodput::new(nodes, capacity_per_s),
            verdict,
        }
    }

    /// The next record of the file.
    pub fn handle_record(&mut self, record: Record) {
        match record {
            Record::Asked(asked) => self.handle_asked(asked),
            Record::Ended(ended) => self.handle_ended(ended),
            Record::Event(event) => {
                self.goodput.handle_event(&event);
                self.verdict.events.push(event);
            }
            Record::Unrouted(unrouted) => self.verdict.unrouted.push(unrouted),
        }
    }

    /// The file has ended.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        let mut open: Vec<_> = self.open.drain().map(|(id, _)| id).collect();
        open.sort_unstable();
        for id in open {
            self.verdict.lost += 1;
            self.tell(id, "has no outcome");
        }
        (self.verdict.per_second, self.verdict.recoveries) = self.goodput.finish();
        self.verdict
    }

    fn handle_asked(&mut self, asked: Asked) {
        self.verdict.asked += 1;
        self.goodput.handle_asked(asked.intended_us, asked.texts.len());
        if self.closed.contains(&asked.id) || self.open.contains_key(&asked.id) {
            self.tell(asked.id, "was asked twice");
            return;
        }
        self.open.insert(asked.id, asked);
    }

    fn handle_ended(&mut self, ended: Ended) {
        let Some(asked) = self.open.remove(&ended.id) else {
            self.verdict.duplicated += 1;
            self.tell(ended.id, "ended twice, or was never asked");
            return;
        };
        self.closed.insert(ended.id);
        let late_us = ended.at_us.saturating_sub(asked.deadline_us);
        if late_us > DEADLINE_GRACE.as_micros() as u64 {
            self.tell(ended.id, &format!("ended {} ms after its deadline", late_us / 1000));
        }
        let is_whole = self.check_items(&asked, &ended);
        self.verdict.retried += u64::from(ended.retries > 0);
        if let Some((code, message)) = &ended.error {
            *self.verdict.failed.entry(code.clone()).or_default() += 1;
            if self.goodput.could_be_served(asked.sent_us, asked.deadline_us) {
                self.verdict.lost += 1;
                self.tell(ended.id, &format!("failed although a node could serve it: {code}: {message}"));
            }
        } else if is_whole {
            self.verdict.answered += 1;
            self.goodput.handle_answered(ended.at_us, ended.items.len());
            let latency = if asked.is_cold { &mut self.verdict.cold } else { &mut self.verdict.latency };
            record(latency, ended.at_us.saturating_sub(asked.intended_us));
            self.note_failover(&asked, &ended);
        } else {
            self.verdict.lost += 1;
            self.tell(ended.id, "was answered without every vector");
        }
    }

    /// Whether every text has its vector; no text may have two, and equal texts must have equal bits.
    fn check_items(&mut self, asked: &Asked, ended: &Ended) -> bool {
        let mut seen = vec![false; asked.texts.len()];
        for (index, hash) in &ended.items {
            let place = usize::try_from(*index).ok().filter(|place| *place < seen.len());
            let Some(place) = place else {
                self.tell(ended.id, &format!("got a vector for text {index}, which it has not"));
                continue;
            };
            if std::mem::replace(&mut seen[place], true) {
                self.verdict.duplicated += 1;
                self.tell(ended.id, &format!("got the vector of text {index} twice"));
            }
            let key = (asked.model.clone(), ended.device.clone(), asked.texts[place]);
            match self.bits.insert(key, *hash) {
                Some(former) if former != *hash => {
                    self.tell(ended.id, &format!("text {} got other bits than before", asked.texts[place]));
                }
                Some(_) => self.verdict.compared += 1,
                None => {}
            }
        }
        seen.iter().all(|seen| *seen)
    }

    /// A request that took more than one attempt while a node was just taken.
    fn note_failover(&mut self, asked: &Asked, ended: &Ended) {
        if ended.retries == 0 || asked.is_cold {
            return;
        }
        let window_us = FAILOVER_WINDOW.as_micros() as u64;
        let taken = self.verdict.events.iter().rev().find(|event| {
            event.takes && event.at_us <= ended.at_us && asked.sent_us <= event.at_us + window_us
        });
        match taken {
            Some(event) if asked.sent_us <= event.at_us => {
                record(&mut self.verdict.failover, ended.at_us - event.at_us);
            }
            Some(_) => record(&mut self.verdict.detour, ended.at_us.saturating_sub(asked.sent_us)),
            None => {}
        }
    }

    fn tell(&mut self, id: u64, what: &str) {
        self.verdict.violations += 1;
        if self.verdict.told.len() < TOLD_MAX {
            self.verdict.told.push(format!("request {id} {what}"));
        }
    }
}

/// An empty histogram.
#[must_use]
pub(super) fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constant and sound")
}

fn record(latencies: &mut Latencies, micros: u64) {
    latencies.saturating_record(micros.max(1));
}

/// Histograms as text.
mod serialized {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use hdrhistogram::serialization::{Deserializer as FromBytes, Serializer as ToBytes, V2Serializer};
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Latencies;

    pub(super) fn serialize<S: Serializer>(latencies: &Latencies, to: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(latencies, &mut bytes).map_err(S::Error::custom)?;
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Latencies, D::Error> {
        let bytes = STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)?;
        FromBytes::new().deserialize(&mut bytes.as_slice()).map_err(D::Error::custom)
    }
}
