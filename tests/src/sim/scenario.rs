//! What a run is made of. With its seed it decides everything that happens.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use shoal_mesh::simulation::{Peer, Weather};

use super::bug::Bug;
use super::machine::Machine;
use super::node::Ailments;
use super::policy::Policy;
use super::workload::tokens_mean;

/// Every fourth node is slower by this factor.
const SLOW_EVERY: u16 = 4;
const SLOW_FACTOR: f64 = 2.5;

/// Something that goes wrong, or right again.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The process is gone at once (`SIGKILL`).
    Kill(u16),
    /// A killed node starts again, as a new generation.
    Restart(u16),
    /// The process is stopped (`SIGSTOP`): what reaches it waits.
    Stop(u16),
    /// It goes on (`SIGCONT`).
    Continue(u16),
    /// The node is told to leave within this time.
    Drain(u16, Duration),
    /// The node is as ill as this from now on; the default is healthy.
    Ail(u16, Ailments),
    /// Nothing gets from the first to the second any more.
    Cut(Peer, Peer),
    /// All cuts are mended.
    Heal,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Chance.
    pub seed: u64,
    /// Nodes, of one device each.
    pub nodes: u16,
    /// The hardware of most nodes; every fourth is 2.5 times slower.
    pub machine: Machine,
    /// Clients, each a router of its own.
    pub clients: u16,
    /// Models in the catalogue; every node has all of them on disk.
    pub models: u16,
    /// How steeply their popularity falls.
    pub zipf: f64,
    /// How many times longer texts are than usual.
    pub text_scale: u16,
    /// Requests per second, in all.
    pub rate_per_s: f64,
    /// How long requests keep coming. What is open then is still answered.
    pub duration: Duration,
    /// The beginning of it, in which latencies are not counted.
    pub warm_up: Duration,
    /// From a request to its deadline.
    pub deadline: Duration,
    /// Who chooses.
    pub policy: Policy,
    /// Whether nodes tell clients their load unasked.
    pub load_gossip: bool,
    /// Whether every load probe is lost.
    pub loses_probes: bool,
    /// The links.
    pub weather: Weather,
    /// Nodes' clocks are ahead by up to this, and drift by up to 100 parts per million either way.
    pub clocks_ahead_max: Duration,
    /// What happens when.
    pub faults: Vec<(Duration, Fault)>,
    /// Whether the mesh may be asked for more than it can do, so that requests may miss their deadlines.
    pub may_overload: bool,
    /// Whether every choice is compared with the best one at its moment ([`Report::why`](super::Report::why)).
    pub asks_why: bool,
    /// Whether each model is on one node only at the start, instead of on more the more it is asked for.
    pub has_sole_copies: bool,
    /// A fault that is planted in every process.
    pub bug: Option<Bug>,
}

impl Scenario {
    /// 32 uneven nodes, 64 models of which six fit on each, one minute at 70 % load, no faults.
    #[must_use]
    pub fn usual(seed: u64) -> Self {
        let scenario = Self {
            seed,
            nodes: 32,
            machine: Machine::USUAL,
            clients: 32,
            models: 64,
            zipf: 1.0,
            text_scale: 1,
            rate_per_s: 0.0,
            duration: Duration::from_mins(1),
            warm_up: Duration::from_secs(20),
            deadline: Duration::from_secs(30),
            policy: Policy::Router,
            load_gossip: true,
            loses_probes: false,
            weather: Weather::CALM,
            clocks_ahead_max: Duration::from_hours(1),
            faults: Vec::new(),
            may_overload: false,
            asks_why: false,
            has_sole_copies: false,
            bug: None,
        };
        scenario.at_load(0.7)
    }

    /// The same at this share of what all nodes can do together.
    #[must_use]
    pub fn at_load(mut self, load: f64) -> Self {
        self.rate_per_s = load * self.capacity_per_s();
        self
    }

    /// Requests per second that all nodes can do together, each request a batch of its own.
    #[must_use]
    pub fn capacity_per_s(&self) -> f64 {
        let tokens = tokens_mean(self.text_scale);
        (0..self.nodes).map(|node| self.machine_of(node).requests_per_s(tokens)).sum()
    }

    /// Time that every node takes to load the models that it starts with.
    #[must_use]
    pub fn settling(&self) -> Duration {
        self.machine.load * u32::from(self.machine.models_resident + 1)
    }

    /// The hardware of a node.
    #[must_use]
    pub fn machine_of(&self, node: u16) -> Machine {
        if node % SLOW_EVERY == SLOW_EVERY - 1 { self.machine.slower(SLOW_FACTOR) } else { self.machine }
    }

    /// The same on a bad day: packets are lost, doubled and overtaken, and of the first half of the nodes each suffers
    /// something that chance chooses, at some time in the middle of the run. The second half stays well, so that every
    /// request can be answered.
    #[must_use]
    pub fn stormy(mut self) -> Self {
        self.weather = Weather::STORMY;
        let mut chance = SmallRng::seed_from_u64(self.seed ^ 0x5707_4d00);
        for node in 0..self.nodes / 2 {
            let at = self.duration.mul_f64(chance.random_range(0.2..0.5));
            let span = self.duration.mul_f64(chance.random_range(0.01..0.3));
            let (fault, cure) = self.misfortune(node, &mut chance);
            self.faults.push((at, fault));
            self.faults.extend(cure.map(|cure| (at + span, cure)));
        }
        self
    }

    fn misfortune(&self, node: u16, chance: &mut SmallRng) -> (Fault, Option<Fault>) {
        let well = Some(Fault::Ail(node, Ailments::default()));
        let ill = |ailments| Fault::Ail(node, ailments);
        let client = Peer::Client(chance.random_range(0..self.clients));
        match chance.random_range(0..10) {
            0 | 1 => (Fault::Kill(node), Some(Fault::Restart(node))),
            2 => (Fault::Kill(node), None),
            3 => (Fault::Stop(node), Some(Fault::Continue(node))),
            4 => (Fault::Drain(node, Duration::from_secs(25)), None),
            5 => (ill(Ailments { hangs: true, ..Ailments::default() }), well),
            6 => (ill(Ailments { loads_fail: 0.5, ..Ailments::default() }), well),
            7 => {
                (ill(Ailments { slowdown: 2.0, lag: Duration::from_millis(20), ..Ailments::default() }), well)
            }
            8 => (Fault::Cut(client, Peer::Node(node)), Some(Fault::Heal)),
            _ => (Fault::Cut(Peer::Node(node), client), Some(Fault::Heal)),
        }
    }
}
