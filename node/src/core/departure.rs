//! Leaving the mesh: announce, hand over what only this node holds, finish what runs, go.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use shoal_mesh::core::Elsewhere;
use shoal_protocol::{NodeId, Place};

/// Sole copies that a node has others hold while it goes on, the most used first: each costs another node its memory, and
/// most notices of a risk come to nothing.
const SPREADS_MAX: usize = 8;
/// Part of the time left that the node waits for new owners after its own work is done.
const HAND_OVER_SHARE: u32 = 2;
/// A message is not acknowledged: whoever does not load by then is asked again ...
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// ... so often, and then the next owner is ...
const ASKS_MAX: u32 = 2;
/// ... and after so many the copy is given up: it holds the leaving no longer than 8 s.
const OWNERS_MAX: usize = 2;

/// A model that this node holds or loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Canonical name.
    pub model: String,
    /// How much it is used: more is handed over first.
    pub requests: u64,
    /// Where else it is.
    pub elsewhere: Elsewhere,
}

/// Whom a node that may have to leave without a word asks to load what only it holds, the most used first.
#[must_use]
pub fn hand_overs(mut copies: Vec<Copy>) -> Vec<(String, Place)> {
    most_used_first(&mut copies);
    let stored = copies.into_iter().filter_map(|Copy { model, elsewhere, .. }| match elsewhere {
        Elsewhere::Stored(to) => Some((model, to)),
        Elsewhere::Ready | Elsewhere::Loading | Elsewhere::Nowhere => None,
    });
    stored.take(SPREADS_MAX).collect()
}

fn most_used_first(copies: &mut [Copy]) {
    copies.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.model.cmp(&b.model)));
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Tell everybody; take nothing new.
    Announce,
    /// Finish what was admitted, and end what is left at the given time.
    Finish {
        /// The time.
        by: Instant,
    },
    /// Ask another node to load a model that only this one holds.
    HandOver {
        /// Canonical name.
        model: String,
        /// Who.
        to: Place,
    },
    /// Another node holds the model: what waits here and has not begun goes there.
    GiveBack {
        /// Canonical name.
        model: String,
    },
    /// Nothing keeps the node any more.
    Leave,
}

/// Who was asked to load a copy, when last, and how often.
#[derive(Clone, Copy, Debug)]
struct Asked {
    to: Place,
    at: Instant,
    times: u32,
}

#[derive(Debug)]
struct Handing {
    model: String,
    elsewhere: Elsewhere,
    asked: Option<Asked>,
    /// Those that did not begin although they were asked often enough.
    given_up: Vec<NodeId>,
    given_back: bool,
}

/// Where a node stands on its way out; made by the notice to leave. Events: [`handle_copies`](Self::handle_copies) when the
/// mesh changed, [`handle_finished`](Self::handle_finished) when no work is left, [`handle_notice`](Self::handle_notice)
/// for a further notice. Output: [`poll_step`](Self::poll_step), until it is `None`. Ends with [`Step::Leave`] at its
/// deadline, or before it.
///
/// A new owner is asked for one copy after the other, because it loads them one after the other: the most used are safe
/// first, and however many there are, what the time does not suffice for is what is missed least.
#[derive(Debug)]
pub struct Departure {
    deadline: Instant,
    /// Until when new owners are waited for.
    hand_over_until: Instant,
    /// The most used first.
    models: Vec<Handing>,
    announced: bool,
    finishing: bool,
    finished: bool,
    left: bool,
}

impl Departure {
    /// A notice came: the node is to be gone by `deadline`.
    #[must_use]
    pub fn new(deadline: Instant, now: Instant) -> Self {
        let mut departure = Self {
            deadline,
            hand_over_until: deadline,
            models: Vec::new(),
            announced: false,
            finishing: false,
            finished: false,
            left: false,
        };
        departure.handle_notice(deadline, now);
        departure
    }

    /// A further notice, which can only shorten the time.
    pub fn handle_notice(&mut self, deadline: Instant, now: Instant) {
        self.deadline = deadline.min(self.deadline);
        let left = self.deadline.saturating_duration_since(now);
        self.hand_over_until = self.hand_over_until.min(now + left / HAND_OVER_SHARE);
    }

    /// The models that this node holds, and where else they are now. The first call says which are followed.
    pub fn handle_copies(&mut self, mut copies: Vec<Copy>) {
        if self.models.is_empty() {
            most_used_first(&mut copies);
            let handing = |Copy { model, elsewhere, .. }| Handing {
                model,
                elsewhere,
                asked: None,
                given_up: Vec::new(),
                given_back: false,
            };
            self.models = copies.into_iter().map(handing).collect();
            return;
        }
        for copy in copies {
            if let Some(handing) = self.models.iter_mut().find(|handing| handing.model == copy.model) {
                handing.elsewhere = copy.elsewhere;
            }
        }
    }

    /// The nodes that were asked in vain to load a model: somebody else should be.
    #[must_use]
    pub fn given_up(&self, model: &str, now: Instant) -> Vec<NodeId> {
        let handing = self.models.iter().find(|handing| handing.model == model);
        handing.map_or_else(Vec::new, |handing| {
            handing.given_up.iter().copied().chain(handing.lapsed(now)).collect()
        })
    }

    /// What was admitted is done, or was ended.
    pub fn handle_finished(&mut self) {
        self.finished = true;
    }

    /// The next thing to do.
    pub fn poll_step(&mut self, now: Instant) -> Option<Step> {
        if self.left {
            return None;
        }
        if !std::mem::replace(&mut self.announced, true) {
            return Some(Step::Announce);
        }
        if !std::mem::replace(&mut self.finishing, true) {
            return Some(Step::Finish { by: self.deadline });
        }
        if let Some(step) = self.poll_copies(now) {
            return Some(step);
        }
        let is_handed_over =
            now >= self.hand_over_until || !self.models.iter().any(|handing| handing.is_under_way(now));
        self.left = now >= self.deadline || (self.finished && is_handed_over);
        self.left.then_some(Step::Leave)
    }

    fn poll_copies(&mut self, now: Instant) -> Option<Step> {
        let loading = |handing: &Handing| handing.loads_at(now);
        let mut busy: BTreeSet<NodeId> = self.models.iter().filter_map(loading).collect();
        for handing in &mut self.models {
            match handing.elsewhere {
                Elsewhere::Ready if !handing.given_back => {
                    handing.given_back = true;
                    return Some(Step::GiveBack { model: handing.model.clone() });
                }
                Elsewhere::Stored(to) if now < self.hand_over_until && handing.may_ask(to, now) => {
                    let is_again = handing.asked.is_some_and(|asked| asked.to == to);
                    if busy.insert(to.node) {
                        let times = if is_again { handing.times() } else { 0 };
                        handing.given_up.extend(handing.lapsed(now));
                        handing.asked = Some(Asked { to, at: now, times: times + 1 });
                        return Some(Step::HandOver { model: handing.model.clone(), to });
                    }
                }
                Elsewhere::Ready | Elsewhere::Loading | Elsewhere::Stored(_) | Elsewhere::Nowhere => {}
            }
        }
        None
    }

    /// When to poll again although nothing happened, and why.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<(Instant, &'static str)> {
        if self.left {
            return None;
        }
        let again = self.models.iter().filter_map(|handing| handing.ask_ends(now)).min();
        let wait = Some(self.hand_over_until).filter(|at| *at > now);
        [
            (Some(self.deadline), "leave, whatever is left"),
            (wait, "wait for no new owner any more"),
            (again, "ask for a load again"),
        ]
        .into_iter()
        .filter_map(|(at, why)| Some((at?, why)))
        .min()
    }
}

impl Handing {
    fn times(&self) -> u32 {
        self.asked.map_or(0, |asked| asked.times)
    }

    /// Whether this owner was not asked yet, or was and should have begun; not where it was asked often enough.
    fn may_ask(&self, to: Place, now: Instant) -> bool {
        let asked = self.asked.filter(|asked| asked.to == to);
        let is_due = |asked: Asked| asked.times < ASKS_MAX && now >= asked.at + ASK_AGAIN_AFTER;
        asked.map_or(self.given_up.len() + usize::from(self.lapsed(now).is_some()) < OWNERS_MAX, is_due)
    }

    /// Who was asked last, if that was in vain.
    fn lapsed(&self, now: Instant) -> Option<NodeId> {
        let lapsed = self.asked.filter(|asked| asked.times >= ASKS_MAX && now >= asked.at + ASK_AGAIN_AFTER);
        lapsed.map(|asked| asked.to.node).filter(|node| !self.given_up.contains(node))
    }

    /// Until when who was asked is waited for, while it has not begun.
    fn ask_ends(&self, now: Instant) -> Option<Instant> {
        let Elsewhere::Stored(to) = self.elsewhere else {
            return None;
        };
        let asked = self.asked.filter(|asked| asked.to == to)?;
        Some(asked.at + ASK_AGAIN_AFTER).filter(|end| now < *end)
    }

    /// The node that loads it, or was asked to and may be about to.
    fn loads_at(&self, now: Instant) -> Option<NodeId> {
        let is_loading = self.elsewhere == Elsewhere::Loading || self.ask_ends(now).is_some();
        self.asked.filter(|_| is_loading).map(|asked| asked.to.node)
    }

    /// Whether somebody is going to hold it.
    fn is_under_way(&self, now: Instant) -> bool {
        match self.elsewhere {
            Elsewhere::Loading => true,
            Elsewhere::Stored(to) => self.ask_ends(now).is_some() || self.may_ask(to, now),
            Elsewhere::Ready | Elsewhere::Nowhere => false,
        }
    }
}

#[cfg(test)]
mod tests;
