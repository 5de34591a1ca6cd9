//! A call against a hostile node, in virtual time: late, duplicated, missing and foreign results, streams that end
//! without a word, refusals, silence. Whatever it does, every item has one outcome and what is in flight is bounded.

mod endings;
mod mesh;
mod overload;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use shoal_protocol::message::{
    Beacon, DenseBlock, End, Failure, Input, ItemOutcome, Numerics, Phase, Priority, ServedBy, Task,
    TaskRequest, TaskResult, Timings,
};
use shoal_protocol::{DeviceIndex, ErrorCode, Message, Micros, NodeId, RequestId};

use super::chance::Chance;
use super::fleet::origin;
use super::{AttemptFailure, AttemptKey, CallId, CallSpec, ClientCore, ClientError, View, WhenOverloaded};

enum Event {
    Sent,
    Frame(Message),
    Failed(AttemptFailure),
}

/// The node and the network: events by the time at which the client sees them.
struct World {
    chance: Chance,
    /// Attempts in a hundred that go wrong in some way.
    hostile_percent: u64,
    events: BTreeMap<(Instant, u64), (AttemptKey, Event)>,
    sequence: u64,
    /// Attempts that failed in a way which the retry budget pays for.
    lost: u64,
}

impl World {
    fn at(&mut self, when: Instant, key: AttemptKey, event: Event) {
        self.sequence += 1;
        self.events.insert((when, self.sequence), (key, event));
    }

    fn serve(&mut self, now: Instant, key: AttemptKey, request: &TaskRequest) {
        let when = now + Duration::from_millis(self.chance.below(20));
        let hostile = self.chance.percent(self.hostile_percent);
        let kind = if hostile { 1 + self.chance.below(9) } else { 0 };
        if kind == 1 {
            let failure = AttemptFailure::Unreachable("dial".into());
            return self.at(when, key, Event::Failed(failure));
        }
        self.at(when, key, Event::Sent);
        self.lost += u64::from((3..=5).contains(&kind));
        match kind {
            2 => {
                let failure = refusal(ErrorCode::Overloaded, Some(self.chance.below(200_000)));
                self.at(when, key, Event::Frame(failure));
            }
            3 => {
                let codes = [ErrorCode::DeviceFailed, ErrorCode::Internal];
                let failure = refusal(codes[self.chance.below(2) as usize], None);
                self.at(when, key, Event::Frame(failure));
            }
            _ => self.answer(kind, when, key, request),
        }
    }

    /// Results in any order and in frames of any size, with the fault of `kind`.
    fn answer(&mut self, kind: u64, mut when: Instant, key: AttemptKey, request: &TaskRequest) {
        let mut order: Vec<u32> = (0..request.items.len() as u32).collect();
        for slot in (1..order.len()).rev() {
            order.swap(slot, self.chance.below(slot as u64 + 1) as usize);
        }
        if kind == 4 {
            order.truncate(order.len() / 2); // an end with items missing, or none at all
        }
        while !order.is_empty() {
            let rows = order.split_off(order.len() - order.len().min(1 + self.chance.below(200) as usize));
            when += Duration::from_millis(self.chance.below(700));
            let mut frame = result(request, &rows);
            if kind == 5 && self.chance.percent(50) {
                frame.indices[0] = u32::MAX; // an item that was not asked for
            }
            for _ in 0..1 + u64::from(self.chance.percent(20)) {
                self.at(when, key, Event::Frame(Message::TaskResult(frame.clone())));
            }
            if self.chance.percent(30) {
                self.at(when, key, Event::Frame(beacon()));
            }
            match kind {
                6 if self.chance.percent(50) => {
                    return self.at(when, key, Event::Failed(AttemptFailure::Lost("cut".into())));
                }
                7 if self.chance.percent(50) => when += Duration::from_secs(5), // silence, then late frames
                8 => return,                                                    // silence for ever
                _ => {}
            }
        }
        if kind == 9 {
            let failure = AttemptFailure::Lost("no terminal frame".into());
            return self.at(when, key, Event::Failed(failure));
        }
        for _ in 0..1 + u64::from(self.chance.percent(10)) {
            self.at(when, key, Event::Frame(end(request)));
        }
    }
}

fn refusal(code: ErrorCode, retry_after_us: Option<u64>) -> Message {
    Message::Failure(Failure {
        retry_after_us: retry_after_us.map(Micros),
        ..Failure::new(code, "hostile".to_owned())
    })
}

fn beacon() -> Message {
    Message::Beacon(Beacon { phase: Phase::Running, queue_tokens: 0, batches_done: 1, eta_us: Micros(0) })
}

/// The vector of a text is the number that it starts with.
fn value(input: &Input) -> f32 {
    let Input::Text(text) = input else {
        return -1.0;
    };
    text.split_once(' ').expect("a number first").0.parse().expect("a number")
}

fn result(request: &TaskRequest, rows: &[u32]) -> TaskResult {
    let data = rows.iter().map(|row| value(&request.items[*row as usize]));
    let outcome = ItemOutcome::Answered { tokens: 3, truncated: false };
    TaskResult {
        indices: rows.to_vec(),
        outcomes: vec![outcome; rows.len()],
        answers: DenseBlock {
            dims: 1,
            rows: rows.len() as u32,
            data: data.flat_map(f32::to_le_bytes).collect(),
            ..DenseBlock::default()
        }
        .into(),
    }
}

fn end(request: &TaskRequest) -> Message {
    Message::End(End {
        request_id: request.request_id,
        items: request.items.len() as u32,
        tokens: 3 * request.items.len() as u64,
        served_by: ServedBy {
            node: NodeId::default(),
            device: DeviceIndex(0),
            device_name: "fake".to_owned(),
            numerics: Numerics::F32,
        },
        timings: Timings::default(),
    })
}

struct Run {
    items: u64,
    given: u64,
    outcome: Result<(), ClientError>,
    took: Duration,
    attempts: u64,
    parts: u64,
    lost: u64,
}

/// One call, its application and its world. Panics where an invariant breaks.
struct Scene {
    seed: u64,
    now: Instant,
    world: World,
    inputs: std::vec::IntoIter<Input>,
    core: ClientCore,
    call: CallId,
    flying: BTreeSet<AttemptKey>,
    given: u64,
    attempts: u64,
    parts: u64,
}

impl Scene {
    fn new(seed: u64, hostile_percent: u64, deadline: Option<Duration>) -> Self {
        let start = origin();
        let mut chance = Chance::new(seed);
        let items = chance.below(4000);
        let inputs: Vec<_> = (0..items)
            .map(|n| Input::Text(format!("{n} {}", "x".repeat(chance.below(120) as usize))))
            .collect();
        let spec = CallSpec {
            request_id: RequestId::new(seed),
            model: "m".to_owned(),
            task: Task::default(),
            priority: Priority::Bulk,
            deadline: deadline.map(|after| start + after),
            when_overloaded: WhenOverloaded::Wait,
            seed,
            trace: None,
        };
        let mut core = ClientCore::new(View::of_entry(NodeId::default()), seed);
        Self {
            seed,
            now: start,
            world: World { chance, hostile_percent, events: BTreeMap::new(), sequence: 0, lost: 0 },
            inputs: inputs.into_iter(),
            call: core.start_call(spec, start),
            core,
            flying: BTreeSet::new(),
            given: 0,
            attempts: 0,
            parts: 0,
        }
    }

    fn feed_and_send(&mut self) {
        while self.core.wants_input(self.call) {
            match self.inputs.next() {
                Some(input) => self.core.handle_input(self.call, input),
                None => self.core.handle_input_end(self.call),
            }
        }
        while let Some((key, _reason)) = self.core.poll_cancel(self.call) {
            self.flying.remove(&key); // what is on its way arrives all the same
        }
        while let Some(submit) = self.core.poll_submit(self.call, self.now) {
            self.attempts += 1;
            self.parts += u64::from(submit.key.attempt == 0);
            let (seed, key) = (self.seed, submit.key);
            assert!(self.flying.insert(key), "seed {seed}: {key:?} sent twice");
            assert!(self.flying.len() <= 8, "seed {seed}: the window is bounded");
            self.world.serve(self.now, key, &submit.request);
        }
    }

    /// The application takes what is there, but is sometimes busy.
    fn take(&mut self) {
        let seed = self.seed;
        while !self.world.chance.percent(5) {
            let Some((index, item)) = self.core.poll_item(self.call) else {
                break;
            };
            assert_eq!(index, self.given, "seed {seed}: in input order, once");
            let vector = item.vector().unwrap_or_else(|| panic!("seed {seed}: no item was failed"));
            assert_eq!(vector.as_f32().expect("f32")[0], index as f32, "seed {seed}");
            self.given += 1;
        }
        let (answered, taken) = self.core.items(self.call);
        assert!(self.given <= answered && answered <= taken);
        assert!(taken - self.given <= 13 * 2048, "seed {seed}: what is held is bounded");
    }

    /// Lets pass what comes first: an event, or the moment at which the machine wants to be woken.
    fn step(&mut self) {
        let Some((timeout, _)) = self.core.poll_timeout(self.call) else {
            return; // only the application is behind
        };
        let event = self.world.events.first_key_value().map(|((at, _), _)| *at);
        let next = event.map_or(timeout, |event| event.min(timeout));
        self.now = self.now.max(next);
        if event.is_none_or(|at| at > self.now) {
            return self.core.handle_timeout(self.call, self.now);
        }
        let (_, (key, event)) = self.world.events.pop_first().expect("seen above");
        match event {
            Event::Sent => self.core.handle_sent(self.call, key, self.now),
            Event::Frame(message) => {
                if message.kind().is_terminal() {
                    self.flying.remove(&key);
                }
                self.core.handle_frame(self.call, key, message, self.now);
            }
            Event::Failed(failure) => {
                self.flying.remove(&key);
                self.core.handle_failed(self.call, key, failure, self.now);
            }
        }
    }
}

/// One call of one seed, to its end.
fn run(seed: u64, hostile_percent: u64, deadline: Option<Duration>) -> Run {
    let mut scene = Scene::new(seed, hostile_percent, deadline);
    let (start, items) = (scene.now, scene.inputs.len() as u64);
    for _step in 0..200_000 {
        scene.feed_and_send();
        scene.take();
        if let Some(outcome) = scene.core.poll_outcome(scene.call) {
            let outcome = outcome.map(drop).map_err(Clone::clone);
            assert!(scene.core.poll_item(scene.call).is_none());
            assert!(scene.core.poll_submit(scene.call, scene.now).is_none());
            return Run {
                items,
                given: scene.given,
                outcome,
                took: scene.now - start,
                attempts: scene.attempts,
                parts: scene.parts,
                lost: scene.world.lost,
            };
        }
        scene.step();
    }
    panic!("seed {seed}: the call does not end");
}

#[test]
fn every_item_has_one_outcome_whatever_the_node_does() {
    let (mut done, mut failed) = (0, 0);
    for seed in 0..300 {
        let run = run(seed, seed % 60, None);
        match run.outcome {
            Ok(()) => {
                assert_eq!(run.given, run.items, "seed {seed}");
                done += 1;
            }
            Err(error) => {
                assert!(run.given <= run.items, "seed {seed}: {error}");
                failed += 1;
            }
        }
    }
    assert!(done > 150, "most calls survive: {done}");
    assert!(failed > 0, "the harshest ones do not: the test is hostile enough");
}

#[test]
fn a_friendly_node_is_asked_once_for_each_part() {
    for seed in 0..50 {
        let run = run(seed, 0, None);
        assert_eq!((run.outcome, run.attempts), (Ok(()), run.parts), "seed {seed}");
    }
}

#[test]
fn a_call_is_over_at_its_deadline() {
    let deadline = Duration::from_millis(900);
    let mut late = 0;
    for seed in 0..200 {
        let run = run(seed, 30, Some(deadline));
        assert!(run.took <= deadline, "seed {seed}: {:?}", run.took);
        late += u64::from(matches!(run.outcome, Err(ClientError::DeadlineExceeded { .. })));
    }
    assert!(late > 20, "some do not make it: {late}");
}

#[test]
fn retries_do_not_amplify_an_outage() {
    for seed in 0..100 {
        let run = run(seed, 100, None);
        // Each part covers its first failed device itself.
        let budget = run.parts + 10 + run.parts * 15 / 100 + 1;
        assert!(run.lost <= run.parts + budget, "seed {seed}: {} lost of {}", run.lost, run.parts);
    }
}
