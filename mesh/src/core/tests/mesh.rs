//! Several calls against several nodes that die, come back, refuse and redirect, in virtual time: nothing is lost while
//! one node lives, nothing comes twice, and an outage is not amplified.

use shoal_protocol::message::{Alternative, LoadReply, ModelState, NodeFacts};

use super::*;
use crate::core::fleet::{facts, life, load, model, node};
use crate::core::{MemberState, Probe, Submit};

const NODES: u64 = 5;
const CALLS: u64 = 12;
const ITEMS: u64 = 150;
/// From a death to membership's word on it.
const DOWN_AFTER: Duration = Duration::from_secs(3);

enum News {
    Sent,
    Frame(Message),
    Reply(LoadReply),
    /// Membership's word on the life.
    Down,
    Restart,
}

/// News of a node's life: those of a life that is over do not arrive, but for what others say of it.
struct Arrival {
    number: u64,
    generation: u64,
    call: Option<(CallId, AttemptKey)>,
    news: News,
}

struct Fleet {
    core: ClientCore,
    now: Instant,
    chance: Chance,
    arrivals: BTreeMap<(Instant, u64), Arrival>,
    sequence: u64,
    generations: [u64; NODES as usize],
    alive: [bool; NODES as usize],
    attempts: u64,
    deaths: u64,
}

impl Fleet {
    fn new(seed: u64) -> Self {
        let mut fleet = Self {
            core: ClientCore::new(View::default(), seed),
            now: origin(),
            chance: Chance::new(seed),
            arrivals: BTreeMap::new(),
            sequence: 0,
            generations: [1; NODES as usize],
            alive: [true; NODES as usize],
            attempts: 0,
            deaths: 0,
        };
        (0..NODES).for_each(|number| fleet.announce(number));
        fleet
    }

    fn announce(&mut self, number: u64) {
        let generation = self.generations[number as usize];
        let state = if number < 3 { ModelState::Ready } else { ModelState::Stored };
        let record = NodeFacts { generation, ..facts(number, vec![model("m", state)]) };
        assert!(self.core.handle_facts(&record, self.now));
        self.core.handle_load(node(number), &load(1, 0), self.now);
    }

    fn after(&mut self, wait: Duration, number: u64, call: Option<(CallId, AttemptKey)>, news: News) {
        self.sequence += 1;
        let generation = self.generations[number as usize];
        let arrival = Arrival { number, generation, call, news };
        self.arrivals.insert((self.now + wait, self.sequence), arrival);
    }

    fn number_of(&self, id: NodeId) -> u64 {
        (0..NODES).find(|number| node(*number) == id).expect("a node of the fleet")
    }

    fn probe(&mut self, probe: &Probe) {
        let number = self.number_of(probe.to);
        if self.alive[number as usize] && !self.chance.percent(10) {
            let wait = Duration::from_micros(300 + self.chance.below(2000));
            let (nonce, ready_in_us) = (probe.probe.nonce, Micros(0));
            let (load, model) = (load(2, self.chance.below(50)), Some(ModelState::Ready));
            self.after(wait, number, None, News::Reply(LoadReply { nonce, load, model, ready_in_us }));
        }
    }

    fn serve(&mut self, call: CallId, submit: &Submit) {
        self.attempts += 1;
        let number = self.number_of(submit.to.node);
        let key = Some((call, submit.key));
        if !self.alive[number as usize] {
            return; // silence
        }
        let wait = Duration::from_millis(1 + self.chance.below(3));
        self.after(wait, number, key, News::Sent);
        let failure = match self.chance.below(100) {
            0..4 => Some((ErrorCode::Overloaded, Vec::new())),
            4..6 => Some((ErrorCode::Loading, Vec::new())),
            6..10 if submit.request.redirects < 2 => {
                let other = node(self.chance.below(NODES));
                Some((ErrorCode::Redirect, vec![Alternative { node: other, load: load(1, 0) }]))
            }
            _ => None,
        };
        if let Some((code, alternatives)) = failure {
            let retry_after_us = Some(Micros(20_000));
            let failure = Failure { retry_after_us, alternatives, ..Failure::new(code, "no".to_owned()) };
            return self.after(wait, number, key, News::Frame(Message::Failure(failure)));
        }
        self.after(wait, number, key, News::Frame(beacon()));
        let items: Vec<u32> = (0..submit.request.items.len() as u32).collect();
        let mut wait = wait;
        for rows in items.chunks(40) {
            wait += Duration::from_millis(self.chance.below(120));
            self.after(wait, number, key, News::Frame(Message::TaskResult(result(&submit.request, rows))));
        }
        self.after(wait, number, key, News::Frame(end(&submit.request)));
    }

    /// Now and then a node dies, if another lives: it says nothing more, and is found dead later.
    fn disaster(&mut self) {
        let number = self.chance.below(NODES);
        let living = self.alive.iter().filter(|alive| **alive).count();
        if self.chance.percent(1) && living > 1 && self.alive[number as usize] {
            self.alive[number as usize] = false;
            self.deaths += 1;
            self.after(DOWN_AFTER, number, None, News::Down);
            self.after(DOWN_AFTER * 2, number, None, News::Restart);
        }
    }

    fn arrive(&mut self, Arrival { number, generation, call, news }: Arrival) {
        let lives = self.alive[number as usize] && self.generations[number as usize] == generation;
        match (news, call) {
            (News::Down, _) => {
                self.core.handle_member(life(number, generation), MemberState::Down, self.now);
            }
            (News::Restart, _) => {
                self.alive[number as usize] = true;
                self.generations[number as usize] += 1;
                self.announce(number);
            }
            (News::Reply(reply), _) if lives => self.core.handle_reply(node(number), &reply, self.now),
            (News::Sent, Some((call, key))) if lives => self.core.handle_sent(call, key, self.now),
            (News::Frame(frame), Some((call, key))) if lives => {
                self.core.handle_frame(call, key, frame, self.now);
            }
            _ => {}
        }
    }

    /// Whether the call is over; takes what it gives.
    fn drive(&mut self, call: CallId, given: &mut u64) -> bool {
        while self.core.poll_cancel(call).is_some() {}
        while let Some(submit) = self.core.poll_submit(call, self.now) {
            self.serve(call, &submit);
        }
        while let Some(probe) = self.core.poll_probe(self.now) {
            self.probe(&probe);
        }
        while let Some((index, item)) = self.core.poll_item(call) {
            assert_eq!(index, *given, "in order, once");
            let vector = item.vector().expect("no item was failed");
            assert_eq!(vector.as_f32().expect("f32")[0], index as f32);
            *given += 1;
        }
        self.core.poll_outcome(call).is_some()
    }

    fn step(&mut self, calls: &[CallId]) {
        let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at);
        let timeouts = calls.iter().filter_map(|call| self.core.poll_timeout(*call)).map(|(at, _)| at);
        let timeout = timeouts.min();
        let next = arrival.into_iter().chain(timeout).min().expect("something is waited for");
        self.now = self.now.max(next);
        if arrival.is_some_and(|at| at <= self.now) {
            let (_, arrival) = self.arrivals.pop_first().expect("seen above");
            return self.arrive(arrival);
        }
        calls.iter().for_each(|call| self.core.handle_timeout(*call, self.now));
    }
}

/// Calls that overlap, to their ends: attempts and deaths.
fn run(seed: u64) -> (u64, u64) {
    let mut fleet = Fleet::new(seed);
    let mut calls: Vec<(CallId, u64)> = Vec::new();
    let mut started = 0;
    for _step in 0..100_000 {
        if started < CALLS && calls.len() < 4 {
            let spec = CallSpec {
                request_id: RequestId::new(started),
                model: "m".to_owned(),
                task: Task::default(),
                priority: if started % 3 == 0 { Priority::Bulk } else { Priority::Interactive },
                deadline: None,
                when_overloaded: WhenOverloaded::Wait,
                seed: seed ^ started,
                trace: None,
            };
            let call = fleet.core.start_call(spec, fleet.now);
            for number in 0..ITEMS {
                fleet.core.handle_input(call, Input::Text(format!("{number} {}", "x".repeat(600))));
            }
            fleet.core.handle_input_end(call);
            calls.push((call, 0));
            started += 1;
        }
        calls.retain_mut(|(call, given)| {
            let over = fleet.drive(*call, given);
            if over {
                let outcome = fleet.core.poll_outcome(*call).expect("over");
                assert!(outcome.is_ok(), "seed {seed}: {outcome:?} while a node lives");
                assert_eq!(*given, ITEMS, "seed {seed}");
                fleet.core.end_call(*call);
            }
            !over
        });
        if calls.is_empty() && started == CALLS {
            return (fleet.attempts, fleet.deaths);
        }
        fleet.disaster();
        let open: Vec<_> = calls.iter().map(|(call, _)| *call).collect();
        fleet.step(&open);
    }
    panic!("seed {seed}: the calls do not end");
}

#[test]
fn nothing_is_lost_while_a_node_lives() {
    let (mut attempts, mut deaths) = (0, 0);
    for seed in 0..60 {
        let (sent, died) = run(seed);
        attempts += sent;
        deaths += died;
    }
    assert!(deaths > 60, "the test is hostile enough: {deaths} deaths");
    // 600 texts of 600 bytes are 150 x 4 parts; refusals and deaths cost further attempts.
    let parts = 60 * CALLS * (ITEMS * 152).div_ceil(8192);
    assert!(attempts < parts * 2, "{attempts} attempts at {parts} parts, {deaths} deaths");
}
