//! Answers to probes, used again while they are fresh: so that most requests pay no round trip for their choice.
//!
//! After Prequal (Wydrowski et al., NSDI 2024): probes are asynchronous and their answers are shared by what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use shoal_protocol::NodeId;
use shoal_protocol::message::{LoadReply, ModelState};

use crate::core::view::{Holding, View};

/// Answers kept for a model.
const ANSWERS_MAX: usize = 16;
/// How long an answer binds a choice: about as long as a request takes, since a queue is another one after that.
const ANSWER_AGE_MAX: Duration = Duration::from_millis(50);
/// How often an answer is chosen: a device that looked idle must not get all that follows.
const ANSWER_USES_MAX: u8 = 2;
/// Models with answers; the one that was not asked about for longest gives way.
const MODELS_MAX: usize = 256;
/// Probes out at once. Beyond it none are sent and choices fall back on gossip.
const PROBES_MAX: usize = 1024;
/// A device's answer about a model.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) node: NodeId,
    pub(super) generation: u64,
    /// As the facts say, with the state that the device answered.
    pub(super) holding: Holding,
    pub(super) at: Instant,
    ready_in_us: u64,
    uses: u8,
}

impl Answer {
    /// Time until the model is ready there, as it said and aged.
    pub(super) fn ready_in_us(&self, now: Instant) -> u64 {
        let age_us = now.saturating_duration_since(self.at).as_micros() as u64;
        self.ready_in_us.saturating_sub(age_us)
    }
}

/// A probe that was not answered yet.
#[derive(Debug)]
struct Sent {
    model: String,
    node: NodeId,
    generation: u64,
    holding: Holding,
    at: Instant,
}

#[derive(Debug)]
struct Answers {
    list: Vec<Answer>,
    /// Until when the probes that are out are waited for, and how many are.
    round: Option<(Instant, usize)>,
    /// Whom the last probes went to.
    asked: Vec<Holding>,
    /// When a request wanted them last.
    wanted_at: Instant,
}

/// The pools of all models.
#[derive(Debug, Default)]
pub(super) struct Pool {
    models: BTreeMap<String, Answers>,
    /// Those of them whose probes are waited for.
    waiting: BTreeSet<String>,
    sent: BTreeMap<u64, Sent>,
}

impl Pool {
    /// The answers that may bind a choice now.
    pub(super) fn fresh(&mut self, model: &str, now: Instant) -> &[Answer] {
        let Some(answers) = self.models.get_mut(model) else {
            return &[];
        };
        answers.wanted_at = now;
        answers.list.retain(|answer| {
            answer.uses < ANSWER_USES_MAX && now.saturating_duration_since(answer.at) <= ANSWER_AGE_MAX
        });
        &answers.list
    }

    /// A choice used the answer of this device.
    pub(super) fn spend(&mut self, model: &str, holding: &Holding) {
        let answers = self.models.get_mut(model);
        let mut list = answers.map(|answers| &mut answers.list).into_iter().flatten();
        if let Some(answer) = list.find(|answer| answer.holding.is_at(holding)) {
            answer.uses += 1;
        }
    }

    /// How many more choices the answers would bind.
    pub(super) fn unspent(&self, model: &str) -> usize {
        let list = self.models.get(model).map(|answers| &answers.list).into_iter().flatten();
        list.map(|answer| usize::from(ANSWER_USES_MAX.saturating_sub(answer.uses))).sum()
    }

    /// Whether the last probes about the model went there, too.
    pub(super) fn was_asked(&self, model: &str, holding: &Holding) -> bool {
        self.models.get(model).is_some_and(|answers| answers.asked.iter().any(|asked| asked.is_at(holding)))
    }

    /// Until when probes about the model are waited for, where some are out.
    pub(super) fn round(&self, model: &str) -> Option<Instant> {
        Some(self.models.get(model)?.round?.0)
    }

    /// Whether this many more probes may be sent.
    pub(super) fn has_room(&self, probes: usize) -> bool {
        self.sent.len() + probes <= PROBES_MAX
    }

    /// Probes about a model go out, by nonce.
    pub(super) fn open(
        &mut self,
        model: &str,
        probes: &[(u64, Holding)],
        until: Instant,
        view: &View,
        now: Instant,
    ) {
        if !self.models.contains_key(model) && self.models.len() >= MODELS_MAX {
            let oldest = self.models.iter().min_by_key(|(_, answers)| answers.wanted_at);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.models.remove(&oldest);
                self.waiting.remove(&oldest);
                self.sent.retain(|_, sent| sent.model != oldest);
            }
        }
        for (nonce, holding) in probes {
            let node = view.node(holding.slot);
            let (node, generation) = (node.id, node.generation);
            let sent = Sent { model: model.to_owned(), node, generation, holding: *holding, at: now };
            self.sent.insert(*nonce, sent);
        }
        let answers = self.models.entry(model.to_owned()).or_insert_with(|| Answers {
            list: Vec::new(),
            round: None,
            asked: Vec::new(),
            wanted_at: now,
        });
        answers.asked = probes.iter().map(|(_, holding)| *holding).collect();
        answers.round = Some((until, probes.len()));
        self.waiting.insert(model.to_owned());
    }

    /// Takes an answer; the round trip that it took. `None` for one that nobody waits for.
    pub(super) fn take(&mut self, from: NodeId, reply: &LoadReply, now: Instant) -> Option<Duration> {
        if self.sent.get(&reply.nonce)?.node != from {
            return None;
        }
        let sent = self.sent.remove(&reply.nonce)?;
        let answers = self.models.get_mut(&sent.model)?;
        answers.round = answers.round.and_then(|(until, out)| (out > 1).then_some((until, out - 1)));
        if answers.round.is_none() {
            self.waiting.remove(&sent.model);
        }
        if let Some(state) = reply.model {
            let same = |answer: &Answer| answer.node == from && answer.holding.is_at(&sent.holding);
            answers.list.retain(|answer| !same(answer));
            if answers.list.len() == ANSWERS_MAX {
                answers.list.remove(0); // the oldest: answers are kept in the order in which they came
            }
            answers.list.push(Answer {
                node: from,
                generation: sent.generation,
                holding: sent.holding.now(state),
                at: now,
                ready_in_us: if state == ModelState::Loading { reply.ready_in_us.0 } else { 0 },
                uses: 0,
            });
        }
        Some(now.saturating_duration_since(sent.at))
    }

    /// When the next round ends.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|model| self.round(model)).min()
    }

    /// Ends the rounds that are over: what was not answered is not in the sample.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let Self { models, waiting, sent } = self;
        waiting.retain(|name| {
            let Some(answers) = models.get_mut(name) else {
                return false;
            };
            if answers.round.is_none_or(|(until, _)| now < until) {
                return true;
            }
            answers.round = None;
            sent.retain(|_, sent| sent.model != *name);
            false
        });
    }
}
