//! What a cloud says about taking this machine away. Off unless configured: nothing else asks a metadata address.
//!
//! `Watch` is the pure half: it says what to ask when, and reads the answers; one file a cloud knows its paths, headers
//! and bodies. [`Watcher`] is the thread that asks.

mod aws;
mod azure;
mod gcp;
#[cfg(test)]
mod tests;
mod watcher;

use std::time::{Duration, Instant};

use self::aws::Aws;
use self::azure::Azure;
use self::gcp::Gcp;
use crate::config::NoticeSource;

pub use self::watcher::Watcher;

/// What the cloud has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The machine will be taken away, in half a minute or two: leave now. With the cloud's words.
    Leave(String),
    /// It may be taken away before long: it can go on, but what only it holds should be held elsewhere too.
    AtRisk(String),
}

/// How fast to ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between two looks at a service that cannot tell by itself.
    poll: Duration,
    /// For an answer that is not held back on purpose.
    wait: Duration,
    /// Between the first failure and the next question; doubles with every further one ...
    rest_min: Duration,
    /// ... up to this, because a notice may leave no more than 30 s.
    rest_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(5),
            wait: Duration::from_secs(2),
            rest_min: Duration::from_secs(1),
            rest_max: Duration::from_secs(8),
        }
    }
}

/// A question to the metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    is_put: bool,
    /// Below the base URL, with the query.
    path: String,
    header: (&'static str, String),
    /// How long the answer may take.
    wait: Duration,
}

impl Ask {
    fn get(path: impl Into<String>, header: (&'static str, &str), wait: Duration) -> Self {
        Self { is_put: false, path: path.into(), header: (header.0, header.1.to_owned()), wait }
    }
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    status: u16,
    etag: Option<String>,
    body: String,
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// There is something else to ask at once.
    Ask,
    /// Nothing new: look again later.
    Rest,
    /// Something to be told; then as `Rest`.
    Tell(Notice),
}

/// One cloud's way to tell.
trait Cloud: Send {
    /// The next question.
    fn ask(&mut self, pace: &Pace, now: Instant) -> Ask;
    /// What its answer says; an error says what is wrong with it.
    fn handle_answer(&mut self, answer: &Answer, now: Instant) -> Result<Step, String>;
    /// The question failed: start over.
    fn handle_failure(&mut self);
    /// Whether the service holds its answer back until there is news, so that nobody needs to wait before asking.
    fn tells_by_itself(&self) -> bool;
}

/// Watches one metadata service. Events: [`handle_answer`](Self::handle_answer), exactly once for each question. Outputs:
/// [`poll_ask`](Self::poll_ask), [`poll_notice`](Self::poll_notice). It is over once it has said
/// [`Notice::Leave`]: there is no way back.
pub(crate) struct Watch {
    cloud: Box<dyn Cloud>,
    pace: Pace,
    /// When to ask next; `None` while an answer is awaited, and once all is said.
    due: Option<Instant>,
    failures: u32,
    notice: Option<Notice>,
}

impl Watch {
    pub(crate) fn new(source: NoticeSource, pace: Pace, now: Instant) -> Self {
        let cloud: Box<dyn Cloud> = match source {
            NoticeSource::Aws => Box::<Aws>::default(),
            NoticeSource::Gcp => Box::<Gcp>::default(),
            NoticeSource::Azure => Box::<Azure>::default(),
        };
        Self { cloud, pace, due: Some(now), failures: 0, notice: None }
    }

    /// The question that is due.
    pub(crate) fn poll_ask(&mut self, now: Instant) -> Option<Ask> {
        self.due.take_if(|due| *due <= now)?;
        Some(self.cloud.ask(&self.pace, now))
    }

    /// The answer to the last question, or why there is none. An error says what is wrong; the question is repeated.
    pub(crate) fn handle_answer(
        &mut self,
        answer: Result<Answer, String>,
        now: Instant,
    ) -> Result<(), String> {
        let step = answer.and_then(|answer| self.cloud.handle_answer(&answer, now));
        let step = step.inspect_err(|_| {
            self.cloud.handle_failure();
            let rest = self.pace.rest_min.saturating_mul(1 << self.failures.min(16));
            self.failures = self.failures.saturating_add(1);
            self.due = Some(now + rest.min(self.pace.rest_max));
        })?;
        self.failures = 0;
        let pause = if self.cloud.tells_by_itself() { Duration::ZERO } else { self.pace.poll };
        self.due = match step {
            Step::Ask => Some(now),
            Step::Tell(Notice::Leave(_)) => None,
            Step::Rest | Step::Tell(_) => Some(now + pause),
        };
        if let Step::Tell(notice) = step {
            self.notice = Some(notice);
        }
        Ok(())
    }

    /// What is to be told.
    pub(crate) fn poll_notice(&mut self) -> Option<Notice> {
        self.notice.take()
    }

    /// When to ask next, and why; `None` while an answer is awaited, and once all is said.
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.due.map(|due| (due, "ask the metadata service"))
    }
}

/// An answer that is neither what was asked for nor a known way to say no.
fn unexpected(what: &str, answer: &Answer) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let body: String = answer.body.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{what}: status {}: {body:?}", answer.status)
}
