//! What a mesh of members promises, against the network's moods.

mod cost;
mod facts;
mod figures;
mod membership;

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use shoal_protocol::message::ModelState;

use super::{Clock, MemberStart, Members, Network, Peer, Weather, node_id};
use crate::core::fleet::{load, model, origin};
use crate::core::{MemberSeen, MemberState, OwnFacts};
use crate::peer::News;

const COUNT: u16 = 8;

/// One data centre.
const CALM: Weather = Weather {
    delay: Duration::from_millis(1),
    jitter: Duration::from_micros(500),
    loss: 0.0,
    duplicate: 0.0,
};

const fn stormy(loss: f64) -> Weather {
    Weather { delay: Duration::from_millis(20), jitter: Duration::from_millis(5), loss, duplicate: 0.01 }
}

fn weathers() -> [Weather; 3] {
    [CALM, stormy(0.05), stormy(0.1)]
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn own(names: &[&str]) -> OwnFacts {
    let models = names.iter().map(|name| model(name, ModelState::Ready)).collect();
    OwnFacts { models, ..OwnFacts::default() }
}

/// Members of which each holds a model and has a clock of its own, and what each was told about the others.
struct Ground {
    members: Members,
    count: u16,
    log: Vec<(Instant, u16, MemberSeen)>,
    chance: SmallRng,
    seed: u64,
}

impl Ground {
    fn new(count: u16, weather: Weather, seed: u64) -> Self {
        let members = Members::new(Network::new(weather, seed), origin());
        let chance = SmallRng::seed_from_u64(seed);
        let mut ground = Self { members, count: 0, log: Vec::new(), chance, seed };
        for _ in 0..count {
            ground.join();
        }
        ground
    }

    /// One more member, which knows number 0's address.
    fn join(&mut self) -> u16 {
        self.count += 1;
        self.start(self.count - 1, 1_000);
        self.count - 1
    }

    fn start(&mut self, number: u16, generation: u64) {
        let ahead = Duration::from_secs(self.chance.random_range(0..3600));
        let start = MemberStart {
            generation,
            clock: Clock::new(self.members.now(), ahead, self.chance.random_range(-100..=100)),
            seeds: vec![0],
            chance: self.chance.random(),
        };
        self.members.start(number, start);
        self.members.set_load(number, load(0, 0));
        self.hold(number, &[&format!("first-of-{number}")]);
    }

    fn hold(&mut self, number: u16, names: &[&str]) {
        self.members.set_facts(number, own(names)).expect("within the limits");
    }

    fn now(&self) -> Instant {
        self.members.now()
    }

    fn run(&mut self, span: Duration) {
        let end = self.now() + span;
        while let Some(at) = self.members.poll_timeout().filter(|at| *at <= end) {
            self.members.handle_timeout(at);
            while let Some((at, news)) = self.members.poll_news() {
                if let News::Member(seen) = news {
                    self.log.push((self.members.now(), at, seen));
                }
            }
        }
        self.members.handle_timeout(end);
        assert_eq!(self.members.breaches(), [""; 0], "seed {}", self.seed);
    }

    /// Runs until `done`; the virtual time that it took. Fails after `limit`.
    fn until(&mut self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now();
        while !done(self) {
            let late = self.now() >= start + limit;
            assert!(!late, "{what}: not within {limit:?}, seed {}: {:?}", self.seed, self.census());
            self.run(Duration::from_millis(10));
        }
        self.now() - start
    }

    /// How many each holds for alive.
    fn census(&self) -> Vec<usize> {
        let alive =
            |number| self.members.seen_by(number).filter(|seen| seen.state == MemberState::Alive).count();
        (0..self.count).map(alive).collect()
    }

    fn state_of(&self, by: u16, of: u16) -> Option<(u64, MemberState)> {
        let seen = self.members.seen_by(by).find(|seen| seen.life.node == node_id(of))?;
        Some((seen.life.generation, seen.state))
    }

    fn generation(&self, number: u16) -> u64 {
        self.members.life(number).expect("a member").generation
    }

    /// Members below `side` against the others.
    fn partition(&mut self, side: u16) {
        for (a, b) in (0..side).flat_map(|a| (side..self.count).map(move |b| (a, b))) {
            self.members.cut(Peer::Node(a), Peer::Node(b));
            self.members.cut(Peer::Node(b), Peer::Node(a));
        }
    }
}

fn complete(ground: &Ground) -> bool {
    ground.members.see_each_other()
}

fn agreed(ground: &Ground) -> bool {
    ground.members.agree()
}

fn all_say(ground: &Ground, gone: u16, wanted: &[MemberState]) -> bool {
    ground.members.all_see(gone, wanted)
}

fn settled(weather: Weather, seed: u64) -> Ground {
    let mut ground = Ground::new(COUNT, weather, seed);
    ground.until("everybody sees everybody", seconds(3), complete);
    ground.run(seconds(5));
    ground
}
