//! What follows a failed attempt: when to try again, and when to tell the caller instead.

use std::time::{Duration, Instant};

use shoal_protocol::limits::REDIRECTS_MAX;
use shoal_protocol::message::Failure;
use shoal_protocol::{ErrorCode, Place, Retry};

use super::chance::{mix, unit};
use super::dispatch::Dispatch;
use super::error::ClientError;
use super::part::Part;
use super::router::NoRoute;
use super::spec::{CallSpec, Target, WhenOverloaded};

/// Attempts at one part that a node told or showed to have failed, before the call fails.
const LOSSES_MAX: u32 = 4;
/// Nodes that may die or fall silent under one part before the call fails. Within the usual deadline of 30 s no more do,
/// since a silence takes 750 ms to be noticed; it bounds what a text can do that kills whoever reads it.
const DEATHS_MAX: u32 = 64;
/// First pause after a second loss; doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A node's retry hint is honoured up to here; a node that asks for more is asked again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// Shortest pause after an answer of overload: a hint of zero must not become a busy loop over the network.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);
/// How long a call without a deadline waits, without any progress, for a node to be reachable again.
const UNREACHABLE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a call without a deadline goes on, without any progress, while nodes are overloaded or die.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

/// Attempts of a part that may follow each other at ever other nodes without a pause.
const MOVES_MAX: u32 = 8;
/// Nodes on which a model may fail to load for one part before the call fails.
const LOADS_FAILED_MAX: u32 = 3;

/// One attempt at one part of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// The part, counted from zero.
    pub part: u32,
    /// The attempt at it, counted from zero.
    pub attempt: u32,
}

/// Why an attempt is no longer wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// Its call is over, it broke the protocol, or its twin was sooner.
    Unwanted,
    /// It was silent for too long: its connection may be dead, and a new one should be made for what follows.
    Silent,
}

/// How an attempt ended without a terminal frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// No connection; nothing was sent.
    Unreachable(String),
    /// The stream ended or broke, or carried what is not a frame: the node counts as gone. What was sent may have been
    /// worked on.
    Lost(String),
    /// The peer will never take it: identity or version. Nothing was done.
    Refused(ErrorCode, String),
}

/// A node's word that it has no room, while it is waited out.
#[derive(Debug)]
pub(super) struct Refusal {
    code: ErrorCode,
    message: String,
    /// As the node said.
    retry_after: Option<Duration>,
    /// As it is kept to.
    pause: Duration,
}

/// What to do about a part whose attempt failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Submit its unanswered items again, now or at this time.
    Again(Option<Instant>),
    /// The same, and have less work in flight: the node said that it has too much.
    AgainWithLess(Instant),
    /// The call fails.
    Fail(ClientError),
}

/// What the decision depends on, apart from the failure.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) spec: &'a CallSpec,
    /// When the call last came forward.
    pub(super) progress: Instant,
    pub(super) dispatch: &'a mut Dispatch,
}

impl Context<'_> {
    /// `pause` with the upper half left to chance, so that parts that failed together do not return together.
    fn jittered(&self, part: &Part, pause: Duration) -> Duration {
        let random = mix(self.spec.seed ^ u64::from(part.number) << 32 ^ u64::from(part.attempts));
        pause / 2 + pause.mul_f64(unit(random)) / 2
    }

    fn pause_after(&self, part: &Part, failures: u32) -> Duration {
        let pause = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
        self.jittered(part, pause.min(PAUSE_MAX))
    }

    fn passed(&self, at: Instant) -> bool {
        self.spec.deadline.is_some_and(|deadline| at >= deadline)
    }

    /// Whether another node can be asked at once. Where none can, those that were tried may be asked again, later.
    fn moves_on(&self, part: &mut Part) -> bool {
        if part.moves < MOVES_MAX && self.dispatch.is_placeable(self.spec, part, self.now) {
            part.moves += 1;
            return true;
        }
        part.moves = 0;
        part.forgive();
        false
    }

    /// After a connection that could not be made.
    pub(super) fn after_unreachable(&mut self, part: &mut Part, to: Target, what: String) -> Next {
        if to.via.is_none() && self.dispatch.view.handle_no_path(to.node) {
            return Next::Again(None); // through the entry node
        }
        self.dispatch.view.handle_doubt(to.node, self.now);
        part.exclude(to.node, false);
        part.unreached += 1;
        if self.moves_on(part) {
            return Next::Again(None);
        }
        self.wait_for_a_node(part, ClientError::Unreachable { what })
    }

    /// After a view in which no device can take the part.
    pub(super) fn after_no_route(&mut self, part: &mut Part, why: NoRoute) -> Next {
        if why == NoRoute::Excluded && part.forgive() {
            return Next::Again(None);
        }
        let (is_passing, model) = (why.is_passing(), self.spec.model.clone());
        let error = ClientError::NoRoute { model, why };
        if !is_passing || self.spec.when_overloaded == WhenOverloaded::Fail {
            return Next::Fail(error);
        }
        part.unreached += 1;
        self.wait_for_a_node(part, error)
    }

    fn wait_for_a_node(&self, part: &Part, error: ClientError) -> Next {
        let at = self.now + self.pause_after(part, part.unreached);
        if self.passed(at) || at.duration_since(self.progress) > UNREACHABLE_WAIT_MAX {
            return Next::Fail(error);
        }
        Next::Again(Some(at))
    }

    /// After an attempt whose node died or fell silent, as far as can be seen from here.
    ///
    /// The budget does not pay for it: a death takes with it whatever is in flight there, which may be more than any
    /// budget, and the node that is tried next may die as well. The deadline is the bound, and that a silence takes its
    /// time to be noticed: there is never more than one attempt of a part where there was one before.
    pub(super) fn after_death(&mut self, part: &mut Part, to: Target, what: String) -> Next {
        part.deaths += 1;
        part.exclude(to.node, false);
        let gives_up = self.stands_still(self.now) && part.deaths >= LOSSES_MAX;
        if gives_up || part.deaths >= DEATHS_MAX {
            return Next::Fail(ClientError::Lost { attempts: part.attempts, what });
        }
        self.elsewhere(part, part.deaths)
    }

    /// After an attempt that failed in a way which another try may mend. `told` is the node's own account; without it the
    /// node broke the protocol.
    ///
    /// A part's first failed device is covered by the part itself, as a node's death is: it fails all that it has at
    /// once. Everything else is paid for: it may happen on every node.
    pub(super) fn after_loss(
        &mut self,
        part: &mut Part,
        to: Target,
        what: String,
        told: Option<ErrorCode>,
    ) -> Next {
        part.losses += 1;
        part.exclude(to.node, false);
        let covered = part.losses == 1 && told == Some(ErrorCode::DeviceFailed);
        if part.losses >= LOSSES_MAX || !(covered || self.dispatch.shared.spend_retry()) {
            return Next::Fail(match told {
                Some(code) => ClientError::Refused { code, message: what, retry_after: None },
                None => ClientError::Lost { attempts: part.attempts, what },
            });
        }
        self.elsewhere(part, part.losses)
    }

    /// At another node at once; where there is none left, again after a pause that grows with the `failures`.
    fn elsewhere(&mut self, part: &mut Part, failures: u32) -> Next {
        if self.moves_on(part) {
            return Next::Again(None);
        }
        Next::Again((failures > 1).then(|| self.now + self.pause_after(part, failures - 1)))
    }

    /// Whether the call has no deadline and will have come no further for too long `at` some time.
    fn stands_still(&self, at: Instant) -> bool {
        self.spec.deadline.is_none() && at.duration_since(self.progress) > STANDSTILL_MAX
    }

    /// Whether the part can go to another node.
    fn has_others(&self, part: &mut Part, than: Target) -> bool {
        part.exclude(than.node, false);
        self.dispatch.is_placeable(self.spec, part, self.now)
    }

    /// After a node's own word that the attempt failed.
    pub(super) fn after_failure(&mut self, part: &mut Part, to: Target, failure: Failure) -> Next {
        let retry_after = failure.retry_after_us.map(Duration::from);
        match failure.code {
            ErrorCode::ModelNotFound | ErrorCode::ModelUnsupported | ErrorCode::ModelBroken => {
                self.after_useless(part, to, failure)
            }
            // Who forwards to the node has lost it. One that says so of itself, and is the only one, is believed.
            ErrorCode::Unavailable if to.via.is_some() || self.has_others(part, to) => {
                self.after_death(part, to, failure.message)
            }
            ErrorCode::Redirect if part.redirects < REDIRECTS_MAX => self.after_redirect(part, to, failure),
            code => match code.retry() {
                Retry::Never => {
                    Next::Fail(ClientError::Refused { code, message: failure.message, retry_after })
                }
                Retry::Elsewhere => self.after_loss(part, to, failure.message, Some(code)),
                Retry::Later => self.after_refusal(part, to, failure),
            },
        }
    }

    /// The node will not serve the model however often it is asked. Others may, but a model that fails on some fails on
    /// most, and each try costs a load.
    fn after_useless(&mut self, part: &mut Part, to: Target, failure: Failure) -> Next {
        part.exclude(to.node, true);
        part.loads_failed += 1;
        if part.loads_failed < LOADS_FAILED_MAX {
            if self.moves_on(part) {
                return Next::Again(None);
            }
            if self.dispatch.is_placeable(self.spec, part, self.now) {
                return Next::Again(Some(self.now + self.pause_after(part, part.loads_failed)));
            }
        }
        let Failure { code, message, .. } = failure;
        Next::Fail(match part.loads_failed {
            1 => ClientError::Refused { code, message, retry_after: None },
            nodes => ClientError::NeverLoads { nodes, cause: message },
        })
    }

    /// Another node would be sooner, says this one. After the last redirection the node that is asked queues the part.
    ///
    /// Where it names only nodes that failed to load the model, it has not heard of that yet, and is the one to load it.
    fn after_redirect(&mut self, part: &mut Part, to: Target, failure: Failure) -> Next {
        let named = &failure.alternatives;
        if let Some(device) = to.device.filter(|_| named.iter().all(|named| part.is_useless(named.node))) {
            part.redirects = REDIRECTS_MAX;
            part.redirect = Some(Place { node: to.node, device });
            return Next::Again(None);
        }
        part.exclude(to.node, false);
        match self.dispatch.best(self.spec, part, named, self.now) {
            Some(place) => {
                part.redirects += 1;
                part.redirect = Some(place);
                Next::Again(None)
            }
            None => self.after_refusal(part, to, failure),
        }
    }

    /// Nothing was done, and the node says when there is room: another may have room now.
    fn after_refusal(&mut self, part: &mut Part, to: Target, failure: Failure) -> Next {
        let Failure { mut code, mut message, retry_after_us, .. } = failure;
        let retry_after = retry_after_us.map(Duration::from);
        if code == ErrorCode::Redirect {
            // It leads nowhere new: to who called, all of them have too much to do.
            code = ErrorCode::Overloaded;
            "every node that could be asked named another".clone_into(&mut message);
        }
        if code == ErrorCode::Draining {
            self.dispatch.view.handle_draining(to.node);
        }
        part.exclude(to.node, false);
        part.overloads += 1;
        // Where all are known to be full, asking another one keeps it busy with refusing.
        let may_move = code != ErrorCode::Overloaded || self.dispatch.is_welcome(self.spec, part, self.now);
        if may_move && self.moves_on(part) && self.dispatch.shared.spend_refusal() {
            return Next::Again(None);
        }
        part.moves = 0;
        part.forgive();
        let pause = retry_after.unwrap_or_else(|| self.pause_after(part, part.overloads));
        let pause = pause.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
        let refusal = Refusal { code, message, retry_after, pause };
        let at = match code {
            ErrorCode::Loading => self.now + pause + self.jittered(part, pause / 8),
            _ => self.after_pause(part, pause),
        };
        if self.spec.when_overloaded == WhenOverloaded::Fail || self.passed(at) || self.stands_still(at) {
            return Next::Fail(refusal.into());
        }
        if code == ErrorCode::Loading {
            return Next::Again(Some(at));
        }
        part.waits_out = Some(refusal);
        Next::AgainWithLess(at)
    }

    /// Before an attempt: one that follows a refusal for want of room waits once more where the budget does not pay for it.
    /// However many calls wait, what they ask again stays a small part of what is asked first.
    pub(super) fn before_attempt(&mut self, part: &mut Part) -> Option<Next> {
        let refusal = part.waits_out.take()?;
        if self.dispatch.shared.spend_wait(self.now) {
            return None;
        }
        let at = self.after_pause(part, refusal.pause);
        if self.passed(at) || self.stands_still(at) {
            return Some(Next::Fail(refusal.into()));
        }
        part.waits_out = Some(refusal);
        Some(Next::Again(Some(at)))
    }

    /// After the pause that a node asked for, and up to as long again (2 s at most): what was refused together does not
    /// return together.
    fn after_pause(&self, part: &Part, pause: Duration) -> Instant {
        let random = mix(self.spec.seed ^ u64::from(part.number) << 32 ^ u64::from(part.attempts));
        self.now + pause + pause.min(PAUSE_MAX).mul_f64(unit(random))
    }
}

impl From<Refusal> for ClientError {
    fn from(Refusal { code, message, retry_after, .. }: Refusal) -> Self {
        Self::Refused { code, message, retry_after }
    }
}
