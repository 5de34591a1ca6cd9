//! What members tell each other: how soon all know it, and what it costs.

use std::fmt;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use shoal_mesh::core::MemberState;
use shoal_mesh::simulation::{Clock, MemberStart, Members, Network, Timeline, Weather};
use shoal_protocol::message::{LoadRecord, ModelState};

use super::answer::facts;
use super::machine::Machine;

/// Models that each member has on its disk; the first six are loaded.
const MODELS: u16 = 64;
const MODELS_READY: u16 = 6;
/// How long the cost is measured, at peace and at work.
const SPAN: Duration = Duration::from_secs(30);
/// What has not happened by then never will.
const PATIENCE: Duration = Duration::from_secs(60);
/// How exactly times are measured.
const STEP: Duration = Duration::from_millis(10);

/// Members without clients: times until everybody knows, and what each sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GossipFigures {
    /// Members.
    pub members: u16,
    /// From the start of a newcomer until it sees all, all see it, and all hold each other's facts.
    pub joined: Duration,
    /// From a change of what a member holds until all know it.
    pub changed: Duration,
    /// From a member's death until none of the others gives it new work for membership's word alone. Who talks to it
    /// notices by beacons, sooner.
    pub unrouted: Duration,
    /// What each sends while nothing changes, and while each device's load class changes every second: bytes a second.
    pub bytes_per_s: [u64; 2],
}

struct Ground {
    members: Members,
    chance: SmallRng,
}

impl Ground {
    fn start(&mut self, number: u16) {
        let now = self.members.now();
        let ahead = Duration::from_secs(self.chance.random_range(0..3600));
        let start = MemberStart {
            generation: 1,
            clock: Clock::new(now, ahead, self.chance.random_range(-100..=100)),
            seeds: vec![0, 1, 2],
            chance: self.chance.random(),
        };
        self.members.start(number, start);
        self.hold(number, MODELS_READY);
        self.load(number, 0);
    }

    fn hold(&mut self, number: u16, ready: u16) {
        let state = |model| if model < ready { ModelState::Ready } else { ModelState::Stored };
        let states = (0..MODELS).map(|model| (model, state(model)));
        let told = self.members.set_facts(number, facts(&Machine::USUAL, false, states));
        debug_assert!(told.is_ok(), "within the limits");
    }

    fn load(&mut self, number: u16, wait_us: u64) {
        self.members.set_load(number, LoadRecord { wait_us, ..LoadRecord::default() });
    }

    fn run(&mut self, span: Duration) {
        let end = self.members.now() + span;
        while let Some(at) = self.members.poll_timeout().filter(|at| *at <= end) {
            self.members.handle_timeout(at);
            while self.members.poll_news().is_some() {}
        }
        self.members.handle_timeout(end);
    }

    fn until(&mut self, done: impl Fn(&Members) -> bool) -> Duration {
        let start = self.members.now();
        while !done(&self.members) && self.members.now() < start + PATIENCE {
            self.run(STEP);
        }
        self.members.now() - start
    }

    /// Bytes a second that each sent meanwhile.
    fn cost(&mut self, meanwhile: impl Fn(&mut Self)) -> u64 {
        let before = self.members.traffic().bytes;
        let start: Instant = self.members.now();
        while self.members.now() < start + SPAN {
            meanwhile(self);
            self.run(Duration::from_secs(1));
        }
        let sent = self.members.traffic().bytes - before;
        sent / SPAN.as_secs() / self.members.running().count().max(1) as u64
    }
}

impl GossipFigures {
    /// Measures so many members in one data centre.
    #[must_use]
    pub fn measure(members: u16, seed: u64) -> Self {
        let start = Timeline::<u8>::new().start();
        let network = Network::new(Weather::CALM, seed);
        let mut ground =
            Ground { members: Members::new(network, start), chance: SmallRng::seed_from_u64(seed) };
        (0..members - 1).for_each(|number| ground.start(number));
        ground.until(|members| members.see_each_other() && members.agree());
        ground.run(SPAN);
        ground.start(members - 1);
        let joined = ground.until(|members| members.see_each_other() && members.agree());
        ground.run(Duration::from_secs(1));
        ground.hold(1, MODELS_READY + 1);
        let changed = ground.until(Members::agree);
        ground.run(SPAN);
        let peace = ground.cost(|_| {});
        let work = ground.cost(|ground| {
            let half = ground.members.now().duration_since(start).as_secs() % 2;
            (0..members).for_each(|number| ground.load(number, half * 100_000));
        });
        ground.members.kill(members / 2);
        let gone = [MemberState::Suspect, MemberState::Down];
        let unrouted = ground.until(|known| known.all_see(members / 2, &gone));
        Self { members, joined, changed, unrouted, bytes_per_s: [peace, work] }
    }

    /// The names of the columns that [`fmt::Display`] writes.
    pub const COLUMNS: &'static str =
        "members  joined ms  changed ms  unrouted ms  B/s at peace  B/s at work";
}

impl fmt::Display for GossipFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { members, joined, changed, unrouted, bytes_per_s: [peace, work] } = self;
        let (joined, changed, unrouted) = (joined.as_millis(), changed.as_millis(), unrouted.as_millis());
        write!(f, "{members:>7} {joined:>10} {changed:>11} {unrouted:>12} {peace:>13} {work:>12}")
    }
}
