//! Callers who want twice what the device can, at open loop, and who come again when they are refused.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shoal_protocol::message::Priority;

use super::super::super::config::CoreConfig;
use super::super::super::ids::{ModelKey, RequestKey};
use super::virtual_device::{Behaviour, VirtualDevice};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Tokens of a request.
const TOKENS: u32 = 16;
/// Tokens that the device computes in a second, on average.
const CAPACITY: f64 = 1000.0;
/// Speeds of one second each, as shares of that: a machine with neighbours.
const SPEEDS: [f64; 5] = [1.0, 0.85, 1.1, 0.95, 1.1];
/// What a client comes again after waiting: so many a second, and for each first attempt of its calls.
const WAITS_PER_S: f64 = 10.0;
const WAITS_PER_CALL: f64 = 0.15;
const WAITS_SAVED_MAX: f64 = 10.0;
/// From the device to the caller.
const WAY_BACK: Duration = Duration::from_millis(3);

/// Who asks, and how it takes a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Manner {
    priority: Priority,
    model: usize,
    patience: Duration,
    /// Each attempt has the whole patience, and there are so many; `None`: as many as fit into it.
    attempts_max: Option<u32>,
}

const fn manner(priority: Priority, patience_ms: u64, attempts_max: Option<u32>) -> Manner {
    Manner { priority, model: 0, patience: Duration::from_millis(patience_ms), attempts_max }
}

const LIBRARY: Manner = manner(Priority::Interactive, 2000, None);
const HTTP: Manner = manner(Priority::Interactive, 2000, Some(3));
const BULK: Manner = manner(Priority::Bulk, 10_000, None);
/// Those of `shoal-bench overload`.
const USUAL: [Manner; 5] = [LIBRARY, HTTP, LIBRARY, HTTP, BULK];
/// They ask once.
const HASTY: Manner = manner(Priority::Interactive, 250, Some(1));
const PATIENT: Manner = manner(Priority::Interactive, 3000, Some(1));

#[derive(Clone, Copy, Debug)]
struct Asked {
    manner: Manner,
    due: Instant,
    deadline: Instant,
    attempts: u32,
    /// The last hint.
    pause: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    manner: Manner,
    due: Instant,
    took: Duration,
}

struct Callers {
    device: VirtualDevice,
    models: Vec<ModelKey>,
    start: Instant,
    /// What is to be sent when.
    sending: BTreeMap<(Instant, u64), Asked>,
    waiting: BTreeMap<RequestKey, Asked>,
    /// What the library's calls may still come again.
    waits: f64,
    waits_at: Instant,
    answers: Vec<Answer>,
    asked: Vec<Asked>,
    /// Refusals, and requests that were taken and not answered in time.
    refused: u64,
    late: Vec<Asked>,
    sent: u64,
    queue_tokens_max: u64,
}

impl Callers {
    fn new(models: usize) -> Self {
        let config = CoreConfig { threads: 1, ..CoreConfig::default() };
        let mut device = VirtualDevice::new(config);
        let behaviour = Behaviour { tokens_per_thread_s: CAPACITY, ..Behaviour::default() };
        let models: Vec<ModelKey> = (0..models).map(|_| device.model(behaviour)).collect();
        models.iter().for_each(|model| device.warm_up(*model));
        device.tokenize_takes(MS, usize::MAX);
        let start = device.now;
        Self {
            start,
            device,
            models,
            sending: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waits: WAITS_SAVED_MAX,
            waits_at: start,
            answers: Vec::new(),
            asked: Vec::new(),
            refused: 0,
            late: Vec::new(),
            sent: 0,
            queue_tokens_max: 0,
        }
    }

    /// Asks for `load` times the capacity for so long, everybody of `manners` in turn.
    fn ask(&mut self, manners: &[Manner], load: f64, time: Duration) {
        let gap = f64::from(TOKENS) / (load * CAPACITY);
        let from = self.device.now;
        let count = (time.as_secs_f64() / gap) as u64;
        for (number, manner) in (0..count).zip(manners.iter().cycle()) {
            let due = from + Duration::from_secs_f64(gap * number as f64);
            let asked =
                Asked { manner: *manner, due, deadline: due + manner.patience, attempts: 0, pause: MS };
            self.asked.push(asked);
            self.send_at(due, asked);
        }
        self.run_until(from + time);
    }

    fn send_at(&mut self, at: Instant, asked: Asked) {
        self.sent += 1;
        self.sending.insert((at, self.sent), asked);
    }

    fn run_until(&mut self, until: Instant) {
        while self.device.now < until {
            let next = self.sending.first_key_value().map_or(until, |((at, _), _)| *at);
            // Answers and refusals are looked at every millisecond.
            let at = next.clamp(self.device.now, self.device.now + MS).min(until);
            let second = (at - self.start).as_secs() as usize;
            for model in &self.models {
                let speed = CAPACITY * SPEEDS[second % SPEEDS.len()];
                self.device.behave(*model, |behaviour| behaviour.tokens_per_thread_s = speed);
            }
            self.device.run_for(at - self.device.now);
            self.hear();
            while let Some(entry) = self.sending.first_entry().filter(|entry| entry.key().0 <= at) {
                let asked = entry.remove();
                self.send(asked);
            }
            let load = self.device.core.load_record(at);
            self.queue_tokens_max = self.queue_tokens_max.max(load.queue_tokens);
        }
    }

    fn send(&mut self, mut asked: Asked) {
        let now = self.device.now;
        if asked.manner.attempts_max.is_none() && !self.pays(asked.attempts) {
            return self.come_again(asked);
        }
        asked.attempts += 1;
        let left = asked.deadline.saturating_duration_since(now);
        let Manner { priority, model, .. } = asked.manner;
        match self.device.submit(self.models[model], priority, Some(left), &[TOKENS]) {
            Ok(request) => drop(self.waiting.insert(request, asked)),
            Err(error) => self.refuse(asked, error.retry_after()),
        }
    }

    /// Whether the library's budget pays for an attempt.
    fn pays(&mut self, attempts: u32) -> bool {
        let now = self.device.now;
        let earned = (now - self.waits_at).as_secs_f64() * WAITS_PER_S;
        self.waits_at = now;
        let earned = if attempts == 0 { earned + WAITS_PER_CALL } else { earned };
        self.waits = (self.waits + earned).min(WAITS_SAVED_MAX);
        let pays = attempts == 0 || self.waits >= 1.0;
        self.waits -= if attempts > 0 && pays { 1.0 } else { 0.0 };
        pays
    }

    /// Takes note of what has ended.
    fn hear(&mut self) {
        let over = |request: &RequestKey| self.device.outcome(*request).is_some();
        let over: Vec<RequestKey> = self.waiting.keys().copied().filter(over).collect();
        for request in over {
            let Some(asked) = self.waiting.remove(&request) else { continue };
            let heard_at = self.device.requests[&request].ended_at + WAY_BACK;
            if self.device.is_finished(request) && heard_at <= asked.deadline {
                let took = heard_at - asked.due;
                self.answers.push(Answer { manner: asked.manner, due: asked.due, took });
                continue;
            }
            match self.device.is_finished(request) {
                false if self.device.failure(request).retry_after().is_some() => {
                    let hint = self.device.failure(request).retry_after();
                    self.refuse(asked, hint);
                }
                _ => self.late.push(asked),
            }
        }
    }

    fn refuse(&mut self, mut asked: Asked, hint: Option<Duration>) {
        self.refused += 1;
        if let Some(hint) = hint {
            asked.pause = hint;
            self.come_again(asked);
        }
    }

    /// After the last hint and up to as long again, if that is worth while.
    fn come_again(&mut self, mut asked: Asked) {
        let at = self.device.now + asked.pause + asked.pause * (self.sent % 8) as u32 / 8;
        match asked.manner.attempts_max {
            Some(max) if asked.attempts < max => {
                asked.deadline = at + asked.manner.patience;
                self.send_at(at, asked);
            }
            None if at < asked.deadline => self.send_at(at, asked),
            _ => {}
        }
    }

    /// Tokens a second of the answers that came in that time, as a share of what the device can.
    fn goodput(&self, (from, to): (Duration, Duration)) -> f64 {
        let at = |answer: &&Answer| answer.due + answer.took - self.start;
        let came = self.answers.iter().filter(|answer| (from..to).contains(&at(answer)));
        came.count() as f64 * f64::from(TOKENS) / (to - from).as_secs_f64() / CAPACITY
    }

    /// Of the answers to those who were due in that time and are so minded.
    fn p99(&self, is_it: impl Fn(&Manner) -> bool, (from, to): (Duration, Duration)) -> Duration {
        let due = |answer: &&Answer| (from..to).contains(&(answer.due - self.start));
        let answers = self.answers.iter().filter(due).filter(|answer| is_it(&answer.manner));
        let mut took: Vec<Duration> = answers.map(|answer| answer.took).collect();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }

    /// How many of those who were due in that time and are so minded were answered.
    fn answered(&self, is_it: impl Fn(&Manner) -> bool, (from, to): (Duration, Duration)) -> f64 {
        let within = |due: Instant| (from..to).contains(&(due - self.start));
        let answers = self.answers.iter().filter(|answer| within(answer.due) && is_it(&answer.manner));
        let asked = self.asked.iter().filter(|asked| within(asked.due) && is_it(&asked.manner));
        answers.count() as f64 / asked.count() as f64
    }
}

fn is_interactive(manner: &Manner) -> bool {
    manner.priority == Priority::Interactive
}

fn is_bulk(manner: &Manner) -> bool {
    !is_interactive(manner)
}

fn seconds(from: u64, to: u64) -> (Duration, Duration) {
    (Duration::from_secs(from), Duration::from_secs(to))
}

#[test]
fn twice_the_capacity_leaves_the_goodput_and_is_over_when_it_is_over() {
    let mut callers = Callers::new(1);
    callers.ask(&USUAL, 0.5, 5 * SECOND);
    callers.ask(&USUAL, 2.0, 20 * SECOND);
    callers.ask(&USUAL, 0.5, 8 * SECOND);
    let goodput = callers.goodput(seconds(6, 25));
    let late = callers.late.len() as f64 / callers.answers.len() as f64;
    assert!(goodput >= 0.95, "{goodput}");
    assert!(late <= 0.01, "{late} of those who were taken were not served in time");
    let queue = callers.queue_tokens_max as f64 / CAPACITY;
    assert!(queue <= 2.0, "{queue} s of work waited");
    let bulk = callers.answered(is_bulk, seconds(8, 25));
    assert!(bulk >= 0.2, "{bulk} of bulk: an eighth of the device is half of this");
    // Two seconds after it nobody is refused, and nobody waits for more than three batches.
    let (after, p99) = (seconds(27, 33), callers.p99(is_interactive, seconds(27, 33)));
    assert_eq!(callers.answered(is_interactive, after), 1.0);
    assert!(p99 <= 200 * MS, "{p99:?}");
}

#[test]
fn the_hasty_do_not_make_the_patient_late() {
    let mut callers = Callers::new(1);
    callers.ask(&[HASTY, HASTY, HASTY, PATIENT], 2.0, 15 * SECOND);
    let (goodput, all) = (callers.goodput(seconds(1, 15)), seconds(3, 14));
    let late = callers.late.len() as f64 / callers.answers.len() as f64;
    let [hasty, patient] = [HASTY, PATIENT].map(|kind| callers.answered(|manner| *manner == kind, all));
    assert!(goodput >= 0.95, "{goodput}");
    assert!(late <= 0.03, "{late}: what was promised is kept");
    assert!(hasty >= 0.2 && patient >= 0.2, "{hasty} {patient}");
}

#[test]
fn two_models_in_overload_share_the_device() {
    let mut callers = Callers::new(2);
    let second = |manner| Manner { model: 1, ..manner };
    callers.ask(&[LIBRARY, second(HTTP), BULK, second(BULK)], 2.0, 15 * SECOND);
    let goodput = callers.goodput(seconds(2, 15));
    let late = callers.late.len() as f64 / callers.answers.len() as f64;
    let within = seconds(3, 14);
    let [first, second] = [0, 1].map(|model| callers.answered(|manner| manner.model == model, within));
    assert!(goodput >= 0.95, "{goodput}");
    assert!(late <= 0.05, "{late}");
    assert!(first >= 0.25 && second >= 0.25, "{first} {second}");
}
