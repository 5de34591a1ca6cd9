//! What follows a failed attempt: when to try again, and when to tell the caller instead.

use std::time::{Duration, Instant};

use shoal_protocol::message::Failure;
use shoal_protocol::{ErrorCode, Retry};

use super::chance::{mix, unit};
use super::error::ClientError;
use super::part::Part;
use super::shared::Shared;

/// Lost or failed attempts at one part before the call fails.
const LOSSES_MAX: u32 = 4;
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
/// How long a call without a deadline waits, without any progress, for an overloaded node.
const OVERLOAD_WAIT_MAX: Duration = Duration::from_secs(60);

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
    /// Its call is over, or it broke the protocol.
    Unwanted,
    /// It was silent for too long: its connection may be dead, and a new one should be made for what follows.
    Silent,
}

/// How an attempt ended without a terminal frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// No connection; nothing was sent.
    Unreachable(String),
    /// The stream ended or broke, or carried what is not a frame. What was sent may have been worked on.
    Lost(String),
    /// The peer will never take it: identity or version. Nothing was done.
    Refused(ErrorCode, String),
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
    pub(super) deadline: Option<Instant>,
    /// When the call last came forward.
    pub(super) progress: Instant,
    /// Whether overload is waited out.
    pub(super) waits_for_room: bool,
    /// Chance, for the jitter of pauses.
    pub(super) seed: u64,
    pub(super) shared: &'a mut Shared,
}

impl Context<'_> {
    /// `pause` with the upper half left to chance, so that parts that failed together do not return together.
    fn jittered(&self, part: &Part, pause: Duration) -> Duration {
        let random = mix(self.seed ^ u64::from(part.number) << 32 ^ u64::from(part.attempts));
        pause / 2 + pause.mul_f64(unit(random)) / 2
    }

    fn pause_after(&self, part: &Part, failures: u32) -> Duration {
        let pause = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
        self.jittered(part, pause.min(PAUSE_MAX))
    }

    fn passed(&self, at: Instant) -> bool {
        self.deadline.is_some_and(|deadline| at >= deadline)
    }

    /// After a connection that could not be made.
    pub(super) fn after_unreachable(&self, part: &mut Part, what: String) -> Next {
        part.unreached += 1;
        let at = self.now + self.pause_after(part, part.unreached);
        if self.passed(at) || at.duration_since(self.progress) > UNREACHABLE_WAIT_MAX {
            return Next::Fail(ClientError::Unreachable { what });
        }
        Next::Again(Some(at))
    }

    /// After an attempt that broke, or failed in a way that another try may mend. `told` is the node's own account.
    ///
    /// A part's first loss without a word is covered by the part itself and not by the budget: a node's death takes
    /// with it whatever is in flight there, which may be more than any budget. Every further loss is paid for.
    pub(super) fn after_loss(&mut self, part: &mut Part, what: String, told: Option<ErrorCode>) -> Next {
        part.losses += 1;
        let covered = part.losses == 1 && told.is_none();
        if part.losses >= LOSSES_MAX || !(covered || self.shared.spend_retry()) {
            return Next::Fail(match told {
                Some(code) => ClientError::Refused { code, message: what, retry_after: None },
                None => ClientError::Lost { attempts: part.attempts, what },
            });
        }
        let pause = (part.losses > 1).then(|| self.now + self.pause_after(part, part.losses - 1));
        Next::Again(pause)
    }

    /// After a node's own word that the attempt failed.
    pub(super) fn after_failure(&mut self, part: &mut Part, failure: Failure) -> Next {
        let Failure { code, message, retry_after_us } = failure;
        let retry_after = retry_after_us.map(Duration::from);
        let refused = |message| Next::Fail(ClientError::Refused { code, message, retry_after });
        match code.retry() {
            Retry::Never => refused(message),
            // There is one node to send to, and its files stay broken until somebody repairs them.
            Retry::Elsewhere if code == ErrorCode::ModelBroken => refused(message),
            Retry::Elsewhere => self.after_loss(part, message, Some(code)),
            Retry::Later => {
                part.overloads += 1;
                let pause = retry_after.unwrap_or_else(|| self.pause_after(part, part.overloads));
                let pause = pause.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
                let at = self.now + pause + self.jittered(part, pause / 8);
                let stuck = at.duration_since(self.progress) > OVERLOAD_WAIT_MAX;
                if !self.waits_for_room || self.passed(at) || (self.deadline.is_none() && stuck) {
                    return refused(message);
                }
                Next::AgainWithLess(at)
            }
        }
    }
}
