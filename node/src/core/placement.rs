//! Where a model is served and loaded, as far as this node has a say: what it does with an attempt before it takes
//! responsibility, and when a model that it holds should have another holder, or one less.

mod copies;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use shoal_mesh::core::{
    Elsewhere, Life, MemberState, Miss, Query, View, elsewhere, place_miss, sooner_holder, standing_elsewhere,
};
use shoal_protocol::limits::REDIRECTS_MAX;
use shoal_protocol::message::{Alternative, LoadRecord, ModelState, NodeFacts, Numerics, Priority};
use shoal_protocol::{NodeId, Place};

use copies::Windows;
pub use copies::{CopyDeed, ServedTokens};

/// A wait in the own queue from which another holder is named where that one is much sooner: what a caller knew of the two
/// when it chose is less than this old.
const WAIT_REDIRECT_MIN: Duration = Duration::from_millis(500);
/// How much sooner: what gossip says of others may be a second old.
const SOONER_PARTS: u64 = 4;
/// Bytes of a text for one token, about, where nobody has tokenized it yet.
const BYTES_PER_TOKEN: u64 = 4;

/// An attempt as placing it sees it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Canonical name of its model, where this node knows one.
    pub model: &'a str,
    /// The precision class that it must have.
    pub numerics: Numerics,
    /// Bytes of its texts.
    pub bytes: u64,
    /// Who waits.
    pub priority: Priority,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// How often it was redirected. `None`: its caller knows no other node, and leaves it to this one.
    pub redirects: Option<u8>,
}

impl<'a> Arrival<'a> {
    fn query(&self) -> Query<'a> {
        Query {
            model: self.model,
            numerics: self.numerics,
            tokens: self.bytes / BYTES_PER_TOKEN,
            texts: 1,
            priority: self.priority,
            deadline: self.deadline,
            excluded: &[],
            waits: None,
        }
    }
}

/// How the own device stands to the model of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct OwnStanding {
    /// Its load now.
    pub load: LoadRecord,
    /// Where the model stands on it; `None`: the node does not have it.
    pub state: Option<ModelState>,
    /// Time until it is ready, while it loads.
    pub ready_in: Duration,
}

/// What becomes of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The device may have it; its gates decide.
    Take,
    /// Others would do it sooner, best first; at least one.
    Redirect(Vec<Alternative>),
    /// The model is being loaded, and ready only after the deadline.
    Loading {
        /// When it is.
        ready_in: Duration,
    },
}

/// One node's part in routing. Pure: who drives it feeds what is known of the mesh, asks about each attempt, tells what was
/// served, and does what [`poll_deed`](Self::poll_deed) says.
#[derive(Debug)]
pub struct Placement {
    own: Place,
    view: View,
    windows: Windows,
    /// Whether a model is being loaded here, by the own record.
    is_loading: bool,
}

impl Placement {
    /// A node that knows nobody: it takes everything.
    #[must_use]
    pub fn new(own: Place) -> Self {
        Self { own, view: View::default(), windows: Windows::default(), is_loading: false }
    }

    /// A node's own record, whole; this node's, too, which is one of the owners among which models are divided.
    pub fn handle_facts(&mut self, facts: &NodeFacts, now: Instant) {
        if facts.node == self.own.node {
            self.is_loading = facts.models.iter().any(|model| model.state == ModelState::Loading);
        }
        self.view.handle_facts(facts, now);
    }

    /// What membership says about a life of another node.
    pub fn handle_member(&mut self, life: Life, state: MemberState, now: Instant) {
        self.view.handle_member(life, state, now);
    }

    /// The load of another node's device, `at` which it was heard.
    pub fn handle_load(&mut self, node: NodeId, record: &LoadRecord, at: Instant) {
        self.view.handle_load(node, record, at);
    }

    /// What to do with an attempt, before anything of it is done.
    ///
    /// A model that is resident, or being loaded in time, is served here, unless the queue is long and another holder would
    /// be much sooner. A model that is neither is loaded by its rendezvous owner only; all others name it, and the holders.
    pub fn handle_arrival(&mut self, arrival: &Arrival<'_>, own: &OwnStanding, now: Instant) -> Verdict {
        self.view.handle_load(self.own.node, &own.load, now);
        let may_redirect = arrival.redirects.is_some_and(|redirects| redirects < REDIRECTS_MAX);
        match own.state {
            Some(ModelState::Ready) if may_redirect => self.beside_queue(arrival, own, now),
            Some(ModelState::Ready) => Verdict::Take,
            Some(ModelState::Loading) => self.beside_load(arrival, own, may_redirect, now),
            Some(ModelState::Stored | ModelState::Failed) | None => {
                let redirects = arrival.redirects.unwrap_or(REDIRECTS_MAX);
                match place_miss(&self.view, self.own.node, &arrival.query(), redirects, now) {
                    Miss::Load => Verdict::Take,
                    Miss::Redirect(places) => Verdict::Redirect(places),
                }
            }
        }
    }

    fn beside_queue(&self, arrival: &Arrival<'_>, own: &OwnStanding, now: Instant) -> Verdict {
        if Duration::from_micros(own.load.wait_us) < WAIT_REDIRECT_MIN {
            return Verdict::Take;
        }
        let limit_us = own.load.wait_us / SOONER_PARTS;
        let sooner = sooner_holder(&self.view, self.own.node, &arrival.query(), limit_us, now);
        sooner.map_or(Verdict::Take, |place| Verdict::Redirect(vec![place]))
    }

    fn beside_load(
        &self,
        arrival: &Arrival<'_>,
        own: &OwnStanding,
        may_redirect: bool,
        now: Instant,
    ) -> Verdict {
        let ready_in = own.ready_in;
        if arrival.deadline.is_none_or(|deadline| now + ready_in < deadline) {
            return Verdict::Take;
        }
        let limit_us = u64::try_from(ready_in.as_micros()).unwrap_or(u64::MAX);
        let holder = may_redirect
            .then(|| sooner_holder(&self.view, self.own.node, &arrival.query(), limit_us, now))
            .flatten();
        holder.map_or(Verdict::Loading { ready_in }, |place| Verdict::Redirect(vec![place]))
    }

    /// Who else could take an attempt that the own device refused, best first.
    #[must_use]
    pub fn alternatives(&self, arrival: &Arrival<'_>, now: Instant) -> Vec<Alternative> {
        elsewhere(&self.view, self.own.node, &arrival.query(), now)
    }

    /// Whether another node that stays holds the model, or loads it.
    #[must_use]
    pub fn is_held_elsewhere(&self, model: &str, now: Instant) -> bool {
        matches!(self.elsewhere(model, &[], now), Elsewhere::Ready | Elsewhere::Loading)
    }

    /// What is left of a model that this node holds once it is gone; nobody of `given_up` is named to load it.
    #[must_use]
    pub fn elsewhere(&self, model: &str, given_up: &[NodeId], now: Instant) -> Elsewhere {
        standing_elsewhere(&self.view, self.own.node, given_up, model, now)
    }
}
