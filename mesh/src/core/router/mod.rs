//! Which device gets an attempt.
//!
//! Gossip is seconds old: whoever binds to its minimum sends everybody to the same device, and starts loads that evict
//! what others need. So gossip only makes a shortlist; some holders (and the model's owner, where a load there could win)
//! are asked how busy they are, and some more where all of these are busy; all answers are waited for, they serve for what
//! follows within 50 ms, and the cheapest is chosen. Without an answer two are drawn at random and the better one is taken
//! (Mitzenmacher 2000); the minimum of the whole gossip never is. A model that nobody holds is loaded by its rendezvous
//! owner only.

mod copies;
mod decision;
mod detours;
mod estimate;
mod no_route;
mod offers;
mod placement;
mod pool;
mod rounds;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use shoal_protocol::message::{LoadProbe, LoadReply, Numerics, Priority};
use shoal_protocol::{DeviceIndex, NodeId, Place};

use super::chance::Chance;
use super::view::{Holding, ModelView, Standing, View};
pub use copies::{Copies, CopyWindow, CopyWish, FurtherWorth};
use decision::CANDIDATES_MAX;
pub use decision::{Candidate, Decision, DecisionError, Reason, Source};
pub use estimate::Estimate;
pub use no_route::NoRoute;
use offers::{Found, Offer};
pub use placement::{
    Elsewhere, Further, Holders, Miss, elsewhere, further_holder, holders, place_miss, sooner_holder,
    standing_elsewhere,
};
use pool::Pool;
use rounds::PROBES_KNOWN;

/// Shortest wait for answers: a datagram each way in one data centre, with room for a busy receiver.
const PROBE_WAIT_MIN: Duration = Duration::from_millis(3);
/// Longest wait: choosing worse is cheaper than waiting longer.
const PROBE_WAIT_MAX: Duration = Duration::from_millis(50);
/// The wait where no round trip was measured yet.
const PROBE_WAIT_FIRST: Duration = Duration::from_millis(20);
/// A load must win by this factor over the holders (in halves): a copy costs others more than its time.
const FURTHER_HALVES: u64 = 3;
/// Unused answers below which the next probes go out ahead of need.
const ANSWERS_LOW: usize = 2;
/// Probes that wait to be sent. The driver takes them after each event; what it does not take, the oldest, is dropped,
/// and is a device that did not answer.
const OUTBOX_MAX: usize = 64;

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Model name or alias.
    pub model: &'a str,
    /// The precision class that its vectors must have.
    pub numerics: Numerics,
    /// Tokens of all texts, estimated.
    pub tokens: u64,
    /// Texts: as many lanes of a busy device as can work on it at once.
    pub texts: u64,
    /// Who waits.
    pub priority: Priority,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// Nodes that must not get it.
    pub excluded: &'a [NodeId],
    /// What the [`Route::Wait`] said with which this query was answered last; `None` at first.
    pub waits: Option<Waiting>,
}

impl Query<'_> {
    /// Rounds of probes that it waited for.
    fn rounds(&self) -> u8 {
        self.waits.map_or(0, |waiting| waiting.rounds)
    }
}

/// A query that waits for answers to probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Until when, if not all of them come sooner.
    pub until: Instant,
    /// Rounds of probes that it waited for, this one included.
    pub rounds: u8,
}

impl<'a> Query<'a> {
    /// Of nobody's work: where the model stands.
    #[must_use]
    pub fn of_any(model: &'a str, excluded: &'a [NodeId]) -> Self {
        Self {
            model,
            numerics: Numerics::Any,
            tokens: 0,
            texts: 1,
            priority: Priority::Interactive,
            deadline: None,
            excluded,
            waits: None,
        }
    }
}

/// Where an attempt goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: NodeId,
    /// Its device; `None` leaves it to the node.
    pub device: Option<DeviceIndex>,
    /// The model's canonical name, where it is known.
    pub model: Option<String>,
    /// Why.
    pub decision: Decision,
}

impl Choice {
    /// The node and its device, where both are known.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.device.map(|device| Place { node: self.node, device })
    }
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Send it there.
    To(Choice),
    /// Probes are out: ask again after each of their answers, at the latest when their time is over.
    Wait(Waiting),
}

/// A probe to be sent as a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whom to ask.
    pub to: NodeId,
    /// What.
    pub probe: LoadProbe,
}

/// Chooses devices for one client. [`Router::route`] decides; [`Router::poll_probe`] says what to ask,
/// [`Router::handle_reply`] takes the answers.
#[derive(Debug)]
pub struct Router {
    chance: Chance,
    pool: Pool,
    outbox: VecDeque<Probe>,
}

impl Router {
    /// A router whose chance comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed), pool: Pool::default(), outbox: VecDeque::new() }
    }

    /// Where the query goes. A choice counts as sent: its tokens are added to what the view knows of the device's load.
    ///
    /// # Errors
    /// When no device can take it: see [`NoRoute`].
    pub fn route(&mut self, view: &mut View, query: &Query<'_>, now: Instant) -> Result<Route, NoRoute> {
        let Some(model) = view.model(query.model) else {
            let none = if view.has_facts() { NoRoute::UnknownModel } else { NoRoute::NoNode };
            return entry(view, query, now).ok_or(none);
        };
        if let Some(waiting) = self.is_waiting(&model, query, now) {
            return Ok(Route::Wait(waiting));
        }
        let (found, doubted) = offers::find(view, &model, query, &mut self.chance, now)?;
        self.ask_silent(view, &model, &doubted, now);
        let (choice, holding) = match found {
            Found::Owner { owner, is_second } => {
                let reason = if is_second { Reason::SecondOwner } else { Reason::Owner };
                choice(&model, reason, vec![owner], 0)
            }
            Found::Holders { holders, owner } => {
                self.ask_silent(view, &model, &holders, now);
                match self.among(view, &model, (holders, owner), query, now) {
                    Ok(chosen) => chosen,
                    Err(waiting) => return Ok(Route::Wait(waiting)),
                }
            }
        };
        view.handle_sent(&holding, query.tokens);
        Ok(Route::To(choice))
    }

    /// Whoever waits, waits for all that were asked: the first to answer is the nearest and no choice.
    fn is_waiting(&self, model: &ModelView<'_>, query: &Query<'_>, now: Instant) -> Option<Waiting> {
        let round = self.pool.round(model.name).filter(|until| now < *until);
        query.waits.filter(|waiting| now < waiting.until && round.is_some())
    }

    /// Chooses among holders, and the owner that would load the model next; or waits for probes.
    fn among(
        &mut self,
        view: &View,
        model: &ModelView<'_>,
        (mut holders, owner): (Vec<Offer>, Option<Offer>),
        query: &Query<'_>,
        now: Instant,
    ) -> Result<(Choice, Holding), Waiting> {
        let (fresh, fresh_owner) = self.answered(view, model, owner.as_ref(), query, now);
        let is_loading = |offers: &[Offer]| offers.iter().any(|offer| offer.estimate.cold_us > 0);
        // One further copy at a time: while one is being loaded no other is.
        let owner = owner.filter(|_| !is_loading(&holders) && !is_loading(&fresh));
        let fresh_owner = fresh_owner.filter(|_| owner.is_some());
        let could_win = |offers: &[Offer]| owner.as_ref().is_some_and(|owner| wins(owner, offers));
        if holders.len() == 1 && fresh.len() <= 1 && !could_win(&holders) {
            return Ok(choice(model, Reason::Only, holders, 0));
        }
        let round = self.pool.round(model.name).filter(|until| now < *until);
        let mut asked = rounds::next(&self.pool, model.name, query, &holders, &fresh);
        let asks_owner = query.rounds() == 0 && fresh_owner.is_none() && could_win(&fresh);
        if !asked.is_empty() || asks_owner {
            asked.extend(owner.filter(|owner| fresh_owner.is_none() && wins(owner, &holders)));
            if let Some(until) = round.or_else(|| self.ask(view, model, &asked, now)) {
                return Err(Waiting { until, rounds: query.rounds() + 1 });
            }
        }
        if fresh.is_empty() {
            return Ok(self.two_choices(model, Reason::TwoChoices, holders));
        }
        let chosen = by_answers(model, fresh, fresh_owner);
        self.pool.spend(model.name, &chosen.1);
        if holders.len() > 1 && round.is_none() && self.pool.unspent(model.name) < ANSWERS_LOW {
            holders.sort_by_key(Offer::total_us);
            holders.truncate(PROBES_KNOWN);
            self.ask(view, model, &holders, now);
        }
        Ok(chosen)
    }

    /// The answers that may bind a choice: of holders, and of the owner.
    fn answered(
        &mut self,
        view: &View,
        model: &ModelView<'_>,
        owner: Option<&Offer>,
        query: &Query<'_>,
        now: Instant,
    ) -> (Vec<Offer>, Option<Offer>) {
        let (mut holders, mut of_owner) = (Vec::new(), None);
        for answer in self.pool.fresh(model.name, now) {
            let (node, holding) = (view.node(answer.holding.slot), &answer.holding);
            let is_same_life = node.id == answer.node && node.generation == answer.generation;
            if !is_same_life || !offers::is_open(view, holding, query, Standing::Good, now) {
                continue;
            }
            let offer = || Offer::answered(view, holding, answer.ready_in_us(now), query, now);
            if holding.is_held() {
                holders.push(offer());
            } else if owner.is_some_and(|owner| owner.holding.is_at(holding)) {
                of_owner = Some(offer());
            }
        }
        (holders, of_owner)
    }

    /// The better of two at random.
    fn two_choices(
        &mut self,
        model: &ModelView<'_>,
        reason: Reason,
        holders: Vec<Offer>,
    ) -> (Choice, Holding) {
        let first = self.chance.below(holders.len() as u64) as usize;
        let other = self.chance.below(holders.len().saturating_sub(1) as u64) as usize;
        let second = if other < first { other } else { (other + 1).min(holders.len() - 1) };
        let at = if holders[second].total_us() < holders[first].total_us() { second } else { first };
        choice(model, reason, holders, at)
    }

    /// Sends probes; until when their answers are waited for. `None` where nobody is asked, or there is no room for more.
    fn ask(&mut self, view: &View, model: &ModelView<'_>, asked: &[Offer], now: Instant) -> Option<Instant> {
        if !self.pool.has_room(asked.len()) {
            return None;
        }
        let nodes = asked.iter().map(|offer| view.node(offer.holding.slot));
        let round_trip = nodes.map(|node| node.round_trip()).max()?;
        let wait = round_trip.map_or(PROBE_WAIT_FIRST, |round_trip| 2 * round_trip);
        let until = now + wait.clamp(PROBE_WAIT_MIN, PROBE_WAIT_MAX);
        let probes: Vec<_> = asked.iter().map(|offer| (self.chance.next(), offer.holding)).collect();
        self.pool.open(model.name, &probes, until, view, now);
        for ((nonce, _), offer) in probes.into_iter().zip(asked) {
            self.send(offer, nonce, model);
        }
        Some(until)
    }

    /// Asks those that are silent whether they are there. Nobody waits for their answers.
    fn ask_silent(&mut self, view: &View, model: &ModelView<'_>, offers: &[Offer], now: Instant) {
        let is_silent = |offer: &&Offer| view.node(offer.holding.slot).wants_probe(now);
        for offer in offers.iter().filter(is_silent) {
            if !self.outbox.iter().any(|probe| probe.to == offer.node) {
                let nonce = self.chance.next();
                self.send(offer, nonce, model);
            }
        }
    }

    fn send(&mut self, offer: &Offer, nonce: u64, model: &ModelView<'_>) {
        let probe = LoadProbe { nonce, device: offer.holding.device, model: model.name.to_owned() };
        if self.outbox.len() == OUTBOX_MAX {
            self.outbox.pop_front();
        }
        self.outbox.push_back(Probe { to: offer.node, probe });
    }

    /// The next probe to send.
    pub fn poll_probe(&mut self) -> Option<Probe> {
        self.outbox.pop_front()
    }

    /// An answer to a probe; one that came too late, or from another than was asked, says only that the node is there.
    pub fn handle_reply(&mut self, view: &mut View, from: NodeId, reply: &LoadReply, now: Instant) {
        let round_trip = self.pool.take(from, reply, now);
        if round_trip.is_some() {
            view.handle_answer(from, &reply.load, now);
        }
        view.handle_answered(from, round_trip, now);
    }

    /// When [`Self::handle_timeout`] is due next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Some((self.pool.poll_timeout()?, "probes unanswered"))
    }

    /// Time passed: probes that were not answered are not waited for any longer.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.pool.handle_timeout(now);
    }
}

/// The cheapest of those that answered, or the owner where a load there is over sooner.
///
/// Prequal (Wydrowski et al., NSDI 2024) passes over devices with many requests because latencies lag behind. A device
/// here foretells its wait from the work that it has: where few requests were preferred, the wait was 67 ms longer than at
/// the best holder, in the mean, and 19 ms where the cheapest was.
fn by_answers(model: &ModelView<'_>, mut fresh: Vec<Offer>, owner: Option<Offer>) -> (Choice, Holding) {
    if let Some(owner) = owner.filter(|owner| wins(owner, &fresh)) {
        fresh.insert(0, owner);
        return choice(model, Reason::Further, fresh, 0);
    }
    let cheapest = (0..fresh.len()).min_by_key(|at| fresh[*at].total_us());
    choice(model, Reason::Cheapest, fresh, cheapest.unwrap_or(0))
}

/// Whether a load at the owner is over sooner than any of the holders would be done, by far enough.
fn wins(owner: &Offer, holders: &[Offer]) -> bool {
    let best = holders.iter().map(Offer::total_us).min();
    best.is_some_and(|best| owner.total_us().saturating_mul(FURTHER_HALVES) / 2 < best)
}

/// The entry node, which knows what no facts say here; `None` where there is none that may be asked.
fn entry(view: &View, query: &Query<'_>, now: Instant) -> Option<Route> {
    let node = view.entry().filter(|node| !query.excluded.contains(node))?;
    if view.find(node).is_some_and(|node| node.standing(now) > Standing::Doubted) {
        return None;
    }
    let decision = Decision::bare(Reason::Entry);
    Some(Route::To(Choice { node, device: None, model: None, decision }))
}

/// The choice of one offer, with what else was considered as far as the record has room.
fn choice(model: &ModelView<'_>, reason: Reason, mut offers: Vec<Offer>, at: usize) -> (Choice, Holding) {
    offers.swap(0, at);
    let Offer { node, holding, .. } = offers[0];
    let candidate = |offer: &Offer| Candidate {
        place: Place { node: offer.node, device: offer.holding.device },
        state: offer.holding.state,
        source: offer.source,
        age_ms: offer.age_ms,
        requests: u16::try_from(offer.requests).unwrap_or(u16::MAX),
        estimate: offer.estimate,
    };
    let candidates = offers.iter().take(CANDIDATES_MAX).map(candidate).collect();
    let decision = Decision { reason, candidates };
    let (device, model) = (Some(holding.device), Some(model.name.to_owned()));
    (Choice { node, device, model, decision }, holding)
}

#[cfg(test)]
mod tests;
