//! Leaving the mesh: announce, hand over what only this node holds, finish what runs, go.

use std::time::{Duration, Instant};

use shoal_protocol::Place;

/// Sole copies that are handed over, the most used first: a new owner loads them one after the other, and the notice of a
/// spot machine leaves no time for more. The others are loaded elsewhere when they are next asked for.
const HAND_OVERS_MAX: usize = 8;
/// Part of the time left that the node waits for new owners after its own work is done.
const HAND_OVER_SHARE: u32 = 2;
/// A message is not acknowledged: whoever does not load by then is asked again, or the next owner is.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How a model that this node holds stands elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// Another node holds it.
    Ready,
    /// Another node loads it.
    Loading,
    /// It is on disk where this names; that node would load it next.
    Stored(Place),
    /// Nobody else has it.
    Nowhere,
}

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
    stored.take(HAND_OVERS_MAX).collect()
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

#[derive(Debug)]
struct Handing {
    model: String,
    elsewhere: Elsewhere,
    asked_at: Option<Instant>,
    given_back: bool,
}

/// Where a node stands on its way out; made by the notice to leave. Events: [`handle_copies`](Self::handle_copies) when the
/// mesh changed, [`handle_finished`](Self::handle_finished) when no work is left, [`handle_notice`](Self::handle_notice)
/// for a further notice. Output: [`poll_step`](Self::poll_step), until it is `None`. Ends with [`Step::Leave`] at its
/// deadline, or before it.
#[derive(Debug)]
pub struct Departure {
    deadline: Instant,
    /// Until when new owners are waited for.
    hand_over_until: Instant,
    /// The most used first.
    models: Vec<Handing>,
    /// Of these were handed over, or tried.
    handed_over: usize,
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
            handed_over: 0,
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
                asked_at: None,
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
        for handing in &mut self.models {
            let is_first = handing.asked_at.is_none();
            let may_ask = if is_first { self.handed_over < HAND_OVERS_MAX } else { handing.is_late(now) };
            match handing.elsewhere {
                Elsewhere::Ready if !handing.given_back => {
                    handing.given_back = true;
                    return Some(Step::GiveBack { model: handing.model.clone() });
                }
                Elsewhere::Stored(to) if may_ask => {
                    handing.asked_at = Some(now);
                    self.handed_over += usize::from(is_first);
                    return Some(Step::HandOver { model: handing.model.clone(), to });
                }
                Elsewhere::Ready | Elsewhere::Loading | Elsewhere::Stored(_) | Elsewhere::Nowhere => {}
            }
        }
        let is_handed_over = now >= self.hand_over_until || !self.models.iter().any(Handing::is_under_way);
        self.left = now >= self.deadline || (self.finished && is_handed_over);
        self.left.then_some(Step::Leave)
    }

    /// When to poll again although nothing happened, and why.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<(Instant, &'static str)> {
        if self.left {
            return None;
        }
        let stored = self.models.iter().filter(|handing| matches!(handing.elsewhere, Elsewhere::Stored(_)));
        let again = stored.filter_map(|handing| handing.asked_at).min().map(|at| at + ASK_AGAIN_AFTER);
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
    /// Whether who was asked should have begun.
    fn is_late(&self, now: Instant) -> bool {
        self.asked_at.is_some_and(|at| now >= at + ASK_AGAIN_AFTER)
    }

    /// Whether somebody is going to hold it.
    fn is_under_way(&self) -> bool {
        match self.elsewhere {
            Elsewhere::Loading => true,
            Elsewhere::Stored(_) => self.asked_at.is_some(),
            Elsewhere::Ready | Elsewhere::Nowhere => false,
        }
    }
}

#[cfg(test)]
mod tests;
