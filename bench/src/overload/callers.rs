//! Those who ask: client libraries that wait for single answers and for bulk, and HTTP clients that repeat what is
//! refused as OpenAI's does.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use shoal_mesh::{Client, ClientError, Encode, ItemResult};
use shoal_protocol::ErrorCode;
use shoal_protocol::message::{Priority, Truncate};
use tokio::time::{sleep, sleep_until, timeout};

use super::ground::MODEL;
use crate::http::{Answer, Connection, Target};
use crate::pipeline::AnyError;

/// Deadline of an interactive call of the library, and of each attempt over HTTP. The overload lasts much longer.
const INTERACTIVE_WAIT: Duration = Duration::from_secs(2);
/// Deadline of a bulk call.
const BULK_WAIT: Duration = Duration::from_secs(10);
/// What an HTTP client waits for all attempts at a request.
const HTTP_WAIT: Duration = Duration::from_secs(40);
/// Retries of an HTTP client, and the pauses between them where the answer names none: those of OpenAI's.
const HTTP_RETRIES: u32 = 2;
const HTTP_PAUSE_FIRST: Duration = Duration::from_millis(500);
const HTTP_PAUSE_MAX: Duration = Duration::from_secs(8);
/// A longer hint is not waited for.
const HTTP_HINT_MAX: Duration = Duration::from_secs(60);
/// HTTP requests under way; a further one is not sent, and counted.
const HTTP_MAX: u64 = 2048;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    Interactive,
    Http,
    Bulk,
}

impl Caller {
    pub(super) const ALL: [Self; 3] = [Self::Interactive, Self::Http, Self::Bulk];

    /// Of ten requests two are bulk, and of the others every second comes over HTTP.
    fn of(index: u64) -> Self {
        match index % 10 {
            4 | 9 => Self::Bulk,
            tenth if tenth % 2 == 0 => Self::Interactive,
            _ => Self::Http,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Interactive => "library, interactive",
            Self::Http => "HTTP",
            Self::Bulk => "library, bulk",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answered {
        tokens: u32,
    },
    /// Refused to the last, with the hint that came with it.
    Shed {
        retry_after: Option<Duration>,
    },
    /// The caller's own patience was over.
    Late,
    /// Too many of its kind were under way.
    Unsent,
    Failed,
}

/// A request and what became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) caller: Caller,
    /// When it was due, from the beginning of the load.
    pub(super) due: Duration,
    /// From then to its end.
    pub(super) took: Duration,
    pub(super) end: End,
}

/// What came of all requests.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) outcomes: Vec<Outcome>,
    /// Most of them that were under way at once.
    pub(super) calls_max: usize,
}

impl Asked {
    /// Room that is there from the beginning, page by page: what is written down must not look like memory that grows.
    fn with_room(count: usize) -> Self {
        let nothing =
            Outcome { caller: Caller::Bulk, due: Duration::ZERO, took: Duration::ZERO, end: End::Failed };
        let mut outcomes = vec![nothing; count];
        outcomes.clear();
        Self { outcomes, calls_max: 0 }
    }
}

/// So many requests a second for so long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub(super) rate: f64,
    pub(super) length: Duration,
}

pub(super) struct Callers {
    client: Client,
    texts: Vec<String>,
    /// One for each node.
    targets: Vec<Target>,
    /// Connections that nobody uses, by target.
    idle: Mutex<Vec<Vec<Connection>>>,
    http_under_way: AtomicU64,
    /// What failed in a way that is none of the others', first.
    first_failure: Mutex<Option<String>>,
}

impl Callers {
    pub(super) fn new(client: Client, http: &[SocketAddr], texts: Vec<String>) -> Result<Self, AnyError> {
        let target = |addr| {
            let url = format!("http://{addr}/v1/embeddings");
            Target::new(&url, MODEL, &texts, "base64", None, Some(INTERACTIVE_WAIT))
        };
        let targets = http.iter().map(target).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            client,
            idle: Mutex::new(targets.iter().map(|_| Vec::new()).collect()),
            targets,
            texts,
            http_under_way: AtomicU64::new(0),
            first_failure: Mutex::new(None),
        })
    }

    /// Tokens of a text, on average.
    pub(super) async fn tokens_mean(&self) -> Result<f64, AnyError> {
        let call = Encode::new(MODEL, self.texts.clone()).truncate(Truncate::Right).no_deadline();
        Ok(self.client.encode(call).await?.tokens as f64 / self.texts.len() as f64)
    }

    /// What failed first in a way that is none of the expected ones.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.first_failure.lock().expect("nobody panics with it").take()
    }

    /// Keeps so many requests under way; tokens answered a second, from `warmup` on.
    pub(super) async fn closed(&self, in_flight: u64, warmup: Duration, length: Duration) -> f64 {
        let began = Instant::now();
        let (from, until) = (began + warmup, began + warmup + length);
        let mut flying = FuturesUnordered::new();
        let mut next = in_flight;
        (0..in_flight).for_each(|index| flying.push(self.one(index, Duration::ZERO, began)));
        let mut tokens_all = 0_u64;
        while let Some(outcome) = flying.next().await {
            let now = Instant::now();
            if now >= until {
                break;
            }
            if let End::Answered { tokens } = outcome.end
                && now >= from
            {
                tokens_all += u64::from(tokens);
            }
            flying.push(self.one(next, Duration::ZERO, began));
            next += 1;
        }
        tokens_all as f64 / length.as_secs_f64()
    }

    /// Sends every request when it is due, whatever became of the former ones, and waits for the last.
    pub(super) async fn open(&self, phases: &[Phase], began: Instant) -> Asked {
        let mut schedule = dues(phases).zip(0..).peekable();
        let (mut flying, mut asked) = (FuturesUnordered::new(), Asked::with_room(dues(phases).count()));
        loop {
            asked.calls_max = asked.calls_max.max(flying.len());
            let next = schedule.peek().copied();
            if next.is_none() && flying.is_empty() {
                return asked;
            }
            let due = next.map_or(began, |(due, _)| began + due);
            tokio::select! {
                Some(outcome) = flying.next(), if !flying.is_empty() => asked.outcomes.push(outcome),
                () = sleep_until(due.into()), if next.is_some() => {
                    // The runtime's timer counts in milliseconds: what is due by now goes together.
                    let elapsed = began.elapsed();
                    while let Some((due, index)) = schedule.next_if(|(due, _)| *due <= elapsed) {
                        flying.push(self.one(index, due, began));
                    }
                }
            }
        }
    }

    async fn one(&self, index: u64, due: Duration, began: Instant) -> Outcome {
        let caller = Caller::of(index);
        let end = match caller {
            Caller::Interactive => self.through_client(index, Priority::Interactive, INTERACTIVE_WAIT).await,
            Caller::Bulk => self.through_client(index, Priority::Bulk, BULK_WAIT).await,
            Caller::Http => self.http(index).await,
        };
        Outcome { caller, due, took: began.elapsed().saturating_sub(due), end }
    }

    async fn through_client(&self, index: u64, priority: Priority, deadline: Duration) -> End {
        let text = &self.texts[index as usize % self.texts.len()];
        let call = Encode::new(MODEL, [text.as_str()]).truncate(Truncate::Right);
        match self.client.encode(call.priority(priority).deadline(deadline)).await {
            Ok(encoded) => match encoded.items.first() {
                Some(ItemResult::Answered { tokens, .. }) => End::Answered { tokens: *tokens },
                other => self.failed(&format!("{other:?}")),
            },
            Err(error) => match error.code() {
                ErrorCode::DeadlineExceeded => End::Late,
                ErrorCode::Overloaded => End::Shed { retry_after: hint_of(&error) },
                _ => self.failed(&error),
            },
        }
    }

    async fn http(&self, index: u64) -> End {
        if self.http_under_way.fetch_add(1, Ordering::Relaxed) >= HTTP_MAX {
            self.http_under_way.fetch_sub(1, Ordering::Relaxed);
            return End::Unsent;
        }
        let end = timeout(HTTP_WAIT, self.http_with_retries(index)).await.unwrap_or(End::Late);
        self.http_under_way.fetch_sub(1, Ordering::Relaxed);
        end
    }

    async fn http_with_retries(&self, index: u64) -> End {
        let at = index as usize % self.targets.len();
        let mut pause = HTTP_PAUSE_FIRST;
        for retries_left in (0..=HTTP_RETRIES).rev() {
            let answer = match self.exchange(at, index).await {
                Ok(answer) => answer,
                Err(error) => return self.failed(&error),
            };
            match answer.status {
                200 => return End::Answered { tokens: u32::try_from(answer.tokens).unwrap_or(u32::MAX) },
                429 | 503 if retries_left > 0 => {
                    let hint = answer.retry_after.filter(|hint| *hint <= HTTP_HINT_MAX);
                    sleep(hint.unwrap_or(pause)).await;
                    pause = (pause * 2).min(HTTP_PAUSE_MAX);
                }
                429 | 503 => return End::Shed { retry_after: answer.retry_after },
                408 | 504 => return End::Late,
                status => return self.failed(&format!("status {status}: {}", answer.body)),
            }
        }
        End::Failed
    }

    async fn exchange(&self, at: usize, index: u64) -> std::io::Result<Answer> {
        let target = &self.targets[at];
        let idle = self.idle().get_mut(at).and_then(Vec::pop);
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(target.addr).await?,
        };
        let answer = connection.exchange(target.request(index)).await?;
        // The port closes a connection that it turned away.
        if !answer.closes {
            self.idle()[at].push(connection);
        }
        Ok(answer)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Connection>>> {
        self.idle.lock().expect("nobody panics with it")
    }

    fn failed(&self, what: &impl ToString) -> End {
        let mut first = self.first_failure.lock().expect("nobody panics with it");
        first.get_or_insert_with(|| what.to_string());
        End::Failed
    }
}

fn hint_of(error: &ClientError) -> Option<Duration> {
    match error {
        ClientError::Refused { retry_after, .. } => *retry_after,
        _ => None,
    }
}

/// When each request of the phases is due.
fn dues(phases: &[Phase]) -> impl Iterator<Item = Duration> + '_ {
    let begins = phases.iter().scan(Duration::ZERO, |end, phase| {
        let begin = *end;
        *end += phase.length;
        Some((begin, phase))
    });
    begins.flat_map(|(begin, phase)| {
        let count = (phase.rate * phase.length.as_secs_f64()) as u64;
        (0..count).map(move |index| begin + Duration::from_secs_f64(index as f64 / phase.rate))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_changes_its_rate_where_a_phase_ends() {
        let phase = |rate, ms| Phase { rate, length: Duration::from_millis(ms) };
        let dues: Vec<u128> =
            dues(&[phase(10.0, 300), phase(20.0, 200)]).map(|due| due.as_millis()).collect();
        assert_eq!(dues, [0, 100, 200, 300, 350, 400, 450]);
        let kinds = (0..10).map(Caller::of);
        assert_eq!(kinds.clone().filter(|caller| *caller == Caller::Bulk).count(), 2);
        assert_eq!(kinds.filter(|caller| *caller == Caller::Http).count(), 4);
    }
}
