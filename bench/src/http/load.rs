//! The two loops. Requests are futures on one task: no spawns, no locks, nothing to wake but the socket.

use std::collections::VecDeque;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;

use super::connection::{Answer, Connection};
use super::target::Target;
use crate::pipeline::AnyError;

/// Latencies that the histogram holds: 1 us to 10 minutes with three digits.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Arrivals between the pacing thread and the loop; beyond it the load generator itself is too slow, and says so.
const ARRIVALS_MAX: usize = 1 << 16;
/// Time for what is still open after the last arrival.
const DRAIN: Duration = Duration::from_secs(10);

/// What came back.
pub(super) struct Measured {
    pub(super) latency_us: Histogram<u64>,
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) shed: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    pub(super) tokens: u64,
}

impl Measured {
    fn new() -> Self {
        Self {
            latency_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("sound bounds"),
            sent: 0,
            answered: 0,
            shed: 0,
            errors: 0,
            first_error: None,
            tokens: 0,
        }
    }

    fn record(&mut self, result: &io::Result<Answer>, latency: Duration) {
        match result {
            Ok(answer) if answer.status == 200 => {
                self.answered += 1;
                self.tokens += answer.tokens;
                let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                self.latency_us.saturating_record(latency_us.max(1));
            }
            Ok(answer) if answer.status == 429 || answer.status == 503 => self.shed += 1,
            Ok(answer) => self.fail(format!("status {}: {}", answer.status, answer.body)),
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn fail(&mut self, what: String) {
        self.errors += 1;
        self.first_error.get_or_insert(what);
    }
}

/// A request that came back, with its connection if that is still good.
struct Done {
    connection: Option<Connection>,
    /// The time from which its latency counts.
    from: Instant,
    result: io::Result<Answer>,
}

async fn exchange(target: &Target, connection: Option<Connection>, index: u64, from: Instant) -> Done {
    let asked = async {
        let mut connection = match connection {
            Some(connection) => connection,
            None => Connection::open(target.addr).await?,
        };
        let answer = connection.exchange(target.request(index)).await?;
        Ok((connection, answer))
    };
    match asked.await {
        Ok((connection, answer)) => Done { connection: Some(connection), from, result: Ok(answer) },
        Err(error) => Done { connection: None, from, result: Err(error) },
    }
}

/// Keeps `connections` requests in flight. Counted is what came back within the measured time.
pub(super) async fn closed(
    target: &Target,
    connections: usize,
    warmup: Duration,
    measure: Duration,
) -> Measured {
    let start = Instant::now();
    let (from, until) = (start + warmup, start + warmup + measure);
    let mut measured = Measured::new();
    let mut flights = FuturesUnordered::new();
    let mut index = 0;
    let mut next = |connection| {
        index += 1;
        exchange(target, connection, index - 1, Instant::now())
    };
    for _ in 0..connections {
        flights.push(next(None));
    }
    while let Some(done) = flights.next().await {
        let now = Instant::now();
        if now >= until {
            break;
        }
        if now >= from {
            measured.sent += 1;
            measured.record(&done.result, now - done.from);
        }
        if done.result.is_err() {
            // A server that refuses connections must not turn this into a busy loop.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        flights.push(next(done.connection));
    }
    measured
}

/// Sends at fixed times, `1 / rate` apart, on as many connections as it takes up to `connections_max`; beyond that a
/// request waits here, and its latency counts from the time at which it should have been sent.
pub(super) async fn open(
    target: &Target,
    connections_max: usize,
    rate: f64,
    warmup: Duration,
    measure: Duration,
) -> Result<Measured, AnyError> {
    if !(rate.is_finite() && rate > 0.0) {
        return Err("--rate must be above zero".into());
    }
    let start = Instant::now() + Duration::from_millis(20);
    let from = start + warmup;
    let (arrivals, mut arrived) = mpsc::channel(ARRIVALS_MAX);
    let pacer = thread::spawn(move || pace(&arrivals, start, rate, warmup + measure));
    let mut measured = Measured::new();
    let mut flights = FuturesUnordered::new();
    let (mut idle, mut waiting) = (Vec::new(), VecDeque::new());
    let (mut index, mut is_over) = (0, false);
    let deadline = tokio::time::sleep_until((start + warmup + measure + DRAIN).into());
    let mut deadline = std::pin::pin!(deadline);
    while !(is_over && flights.is_empty()) {
        tokio::select! {
            biased;
            Some(done) = flights.next() => {
                let done: Done = done;
                if done.from >= from {
                    measured.record(&done.result, done.from.elapsed());
                }
                idle.extend(done.connection);
            }
            arrival = arrived.recv(), if !is_over => match arrival {
                Some(intended) => waiting.push_back(intended),
                None => is_over = true,
            },
            () = &mut deadline => break,
        }
        while flights.len() < connections_max
            && let Some(intended) = waiting.pop_front()
        {
            measured.sent += u64::from(intended >= from);
            flights.push(exchange(target, idle.pop(), index, intended));
            index += 1;
        }
    }
    pacer.join().map_err(|_| "the pacing thread panicked")??;
    let left = waiting.len() as u64 + (measured.sent - measured.answered - measured.shed - measured.errors);
    if left > 0 {
        measured.fail(format!("{left} requests had no answer {} s after the last was sent", DRAIN.as_secs()));
        measured.errors += left - 1;
    }
    Ok(measured)
}

/// Tells the intended times as they come. A thread of its own, because the runtime's timer counts in milliseconds.
fn pace(
    arrivals: &mpsc::Sender<Instant>,
    start: Instant,
    rate: f64,
    length: Duration,
) -> Result<(), &'static str> {
    for count in 0_u64.. {
        let after = Duration::from_secs_f64(count as f64 / rate);
        if after >= length {
            break;
        }
        let intended = start + after;
        if let Some(left) = intended.checked_duration_since(Instant::now()) {
            thread::sleep(left);
        }
        match arrivals.try_send(intended) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err("the load generator is too slow for this rate");
            }
            Err(mpsc::error::TrySendError::Closed(_)) => break,
        }
    }
    Ok(())
}
