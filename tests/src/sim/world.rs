//! Nodes, clients and the network between them on one virtual clock: a single thread, a single source of chance.

mod audit;
mod clients;
mod entries;
mod faults;
mod nodes;

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use shoal_mesh::core::LoadSequence;
use shoal_mesh::simulation::{Clock, Members, Network, Peer, Timeline};
use shoal_protocol::Message;
use shoal_protocol::message::{FactsDigest, LoadProbe, LoadReply, TaskRequest};

use self::entries::Entry;
use super::client::Client;
use super::history::History;
use super::node::{Node, Work};
use super::report::Report;
use super::rules::{Converging, Graves};
use super::scenario::Scenario;
use super::unrouted::DeathWatch;
use super::why::Ledger;
use super::workload::Workload;

/// Time between two audits of everything.
const AUDIT_PERIOD: Duration = Duration::from_millis(100);
/// From the moment at which all nodes become members until the first request: by then they know each other.
const JOINING: Duration = Duration::from_secs(5);
/// After the last request: by then every answer came, every deadline passed and every retry ended.
const QUIESCENCE: Duration = Duration::from_secs(15);

/// What travels.
#[derive(Debug)]
pub(super) enum Packet {
    /// A whole request on a new stream.
    Request { stream: u64, request: TaskRequest },
    /// The reader of a stream stopped it.
    Stop { stream: u64 },
    /// A frame of the answer.
    Frame { stream: u64, message: Message },
    /// The connection of a stream is gone; `reached` tells whether the request may have arrived.
    Broken { stream: u64, reached: bool },
    /// A client wants to be told about the mesh, and holds these records.
    Follow { stream: u64, holds: FactsDigest },
    /// A frame for a follower.
    Told { stream: u64, message: Message },
    /// Asks for a device's load.
    Probe(LoadProbe),
    /// The answer.
    Reply(LoadReply),
}

/// What happens.
#[derive(Debug)]
pub(super) enum Event {
    /// The next request of a client's application.
    Arrival(u16),
    /// A packet arrives, at a node in the life that it was sent to.
    Packet {
        from: Peer,
        to: Peer,
        packet: Box<Packet>,
    },
    /// Work of a node ended.
    Work {
        node: u16,
        life: u64,
        work: Work,
    },
    /// A timer.
    Wake(Peer),
    /// The same, after the receiver's slow CPU came to it.
    Late(Box<Event>),
    /// A fault of the scenario, by its place there.
    Fault(usize),
    /// Every node has loaded what it starts with: all become members, and clients follow them.
    Join,
    /// A client would have noticed by now that the node which it follows is gone.
    Follow(u16),
    /// The node that a client follows tells it what is new.
    Feed(u16),
    Audit,
}

impl Hash for Event {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Arrival(client) | Self::Follow(client) | Self::Feed(client) => client.hash(state),
            Self::Packet { from, to, packet } => {
                let number = match packet.as_ref() {
                    Packet::Request { stream, .. }
                    | Packet::Stop { stream }
                    | Packet::Frame { stream, .. }
                    | Packet::Broken { stream, .. } => *stream,
                    Packet::Follow { stream, .. } | Packet::Told { stream, .. } => *stream,
                    Packet::Probe(probe) => probe.nonce,
                    Packet::Reply(reply) => reply.nonce,
                };
                (from, to, std::mem::discriminant(packet.as_ref()), number).hash(state);
            }
            Self::Work { node, life, work } => (node, life, work).hash(state),
            Self::Wake(peer) => peer.hash(state),
            Self::Late(event) => event.hash(state),
            Self::Fault(at) => at.hash(state),
            Self::Join | Self::Audit => {}
        }
    }
}

/// Whether a process runs.
#[derive(Debug)]
pub(super) enum Life {
    Running,
    /// What reached it meanwhile.
    Stopped(Vec<Event>),
    /// Since when.
    Dead(Instant),
}

/// A node with what the world knows of it.
pub(super) struct Process {
    pub(super) node: Node,
    pub(super) life: Life,
    /// Rises with every start of the process.
    pub(super) generation: u64,
    pub(super) clock: Clock,
    /// It left, and closed its connections with a word.
    pub(super) has_left: bool,
    /// When it must be gone, if it was told to leave.
    pub(super) leaves_by: Option<Instant>,
    /// When its next timer event comes, if one is planned.
    wake_at: Option<Instant>,
    /// Since when it could have served anybody; `None` while it cannot.
    pub(super) well_since: Option<Instant>,
}

impl Process {
    pub(super) fn is_running(&self) -> bool {
        matches!(self.life, Life::Running)
    }
}

/// A stream, as the two connections' ends see it.
pub(super) struct Stream {
    node: u16,
    generation: u64,
    /// Frames stay in order: none arrives before this.
    arrives_after: Instant,
    /// A frame was lost for good.
    is_broken: bool,
}

/// The simulated world.
pub struct World {
    pub(super) scenario: Scenario,
    pub(super) timeline: Timeline<Event>,
    /// The nodes as members, and all links.
    pub(super) members: Members,
    pub(super) processes: Vec<Process>,
    clients: Vec<Client>,
    client_wakes: Vec<Option<Instant>>,
    streams: BTreeMap<u64, Stream>,
    workload: Workload,
    chance: SmallRng,
    calls_made: u64,
    /// When the first request may come: every node has loaded what it starts with.
    opens_at: Instant,
    ends_at: Instant,
    pub(super) history: History,
    /// Each client's way to the mesh.
    entries: Vec<Entry>,
    graves: Graves,
    /// Of the requests whose latency counts, if anybody wants to know.
    pub(super) ledger: Option<Ledger>,
    pub(super) deaths: DeathWatch,
    converging: Converging,
    /// Members may not hear each other until then.
    pub(super) parted_until: Option<Instant>,
}

impl World {
    /// The beginning of a scenario: every node holds some models, drawn by their popularity.
    #[must_use]
    pub fn new(scenario: Scenario) -> Self {
        let mut timeline = Timeline::new();
        let start = timeline.now();
        let mut chance = SmallRng::seed_from_u64(scenario.seed);
        let workload = Workload::new(&scenario);
        let opens_at = start + scenario.settling() + JOINING;
        for client in 0..scenario.clients {
            timeline.plan(opens_at + workload.gap(&mut chance), Event::Arrival(client));
        }
        for (place, (at, _)) in scenario.faults.iter().enumerate() {
            timeline.plan(opens_at + *at, Event::Fault(place));
        }
        timeline.plan(start + AUDIT_PERIOD, Event::Audit);
        let mut world = Self {
            members: Members::new(Network::new(scenario.weather, chance.random()), start),
            processes: Vec::new(),
            clients: (0..scenario.clients)
                .map(|number| Client::new(number, scenario.policy, chance.random()))
                .collect(),
            client_wakes: vec![None; usize::from(scenario.clients)],
            streams: BTreeMap::new(),
            workload,
            chance,
            calls_made: 0,
            opens_at,
            ends_at: opens_at + scenario.duration,
            history: History::new(start, opens_at + scenario.warm_up),
            entries: (0..scenario.clients).map(|client| Entry::new(client % scenario.nodes, start)).collect(),
            graves: Graves::default(),
            ledger: scenario.asks_why.then(Ledger::default),
            deaths: DeathWatch::default(),
            converging: Converging::default(),
            parted_until: None,
            timeline,
            scenario,
        };
        world.members.network.set_loses_probes(world.scenario.loses_probes);
        world.settle_nodes();
        world
    }

    fn settle_nodes(&mut self) {
        for number in 0..self.scenario.nodes {
            let process = self.start_process(number, 1);
            self.processes.push(process);
            // The k-th model of node n is the same in every run of this many nodes and models; so that each model is
            // somewhere, the first ones go round.
            let models = self.scenario.models;
            let room = self.scenario.machine.models_resident.min(models);
            let mut held = vec![(u32::from(number) * u32::from(room) % u32::from(models)) as u16];
            if self.scenario.has_sole_copies {
                held = (number..models)
                    .step_by(usize::from(self.scenario.nodes))
                    .take(usize::from(room))
                    .collect();
            }
            while held.len() < usize::from(room) && !self.scenario.has_sole_copies {
                let model = match held.len() {
                    1 => (held[0] + 1) % models,
                    _ => self.workload.model(&mut self.chance),
                };
                if !held.contains(&model) {
                    held.push(model);
                }
            }
            let now = self.processes[usize::from(number)].clock.local(self.now());
            self.processes[usize::from(number)].node.preload(held, now);
            self.after_node(number);
        }
        self.timeline.plan(self.opens_at - JOINING, Event::Join);
    }

    /// The mesh comes together, warm: how it does while its members load is what other scenarios restart nodes for.
    fn join(&mut self) {
        (0..self.scenario.nodes).for_each(|number| self.start_member(number));
        if self.has_members() {
            (0..self.scenario.clients).for_each(|client| self.follow(client, client % self.scenario.nodes));
        }
    }

    /// A process at its start.
    fn start_process(&mut self, number: u16, generation: u64) -> Process {
        let ahead = self.scenario.clocks_ahead_max.mul_f64(self.chance.random_range(0.0..1.0));
        let drift_ppm = self.chance.random_range(-100..=100);
        let machine = self.scenario.machine_of(number);
        let clock = Clock::new(self.timeline.start(), ahead, drift_ppm);
        let sequence = LoadSequence::new(clock.local(self.now()));
        let (models, bug) = (self.scenario.models, self.scenario.bug);
        let mut node = Node::new(number, machine, models, sequence, self.chance.random());
        node.plant(bug);
        Process {
            node,
            life: Life::Running,
            generation,
            clock,
            has_left: false,
            leaves_by: None,
            wake_at: None,
            well_since: Some(self.now()),
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.timeline.now()
    }

    /// Load probes that all clients sent.
    pub(super) fn probes(&self) -> u64 {
        self.clients.iter().map(|client| client.probes).sum()
    }

    /// Lives through the scenario until a rule is broken or everything is over and quiet.
    #[must_use]
    pub fn run(mut self) -> Report {
        let end = self.ends_at + self.scenario.deadline + QUIESCENCE;
        while self.history.violations().is_empty() {
            let members = self.members.poll_timeout().filter(|at| *at <= end);
            match self.timeline.next(members.unwrap_or(end)) {
                Some(event) => {
                    self.members.handle_timeout(self.timeline.now());
                    self.handle(event);
                }
                None if members.is_some() => self.members.handle_timeout(self.timeline.now()),
                None => break,
            }
            self.take_news();
        }
        self.timeline.note(self.members.trace());
        if self.history.violations().is_empty() {
            self.audit_quiescence();
            self.audit_agreement();
        }
        Report::new(&self)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrival(client) => self.arrival(client),
            Event::Packet { from, to: Peer::Client(client), packet } => self.at_client(client, from, *packet),
            Event::Packet { to: Peer::Node(node), .. }
            | Event::Work { node, .. }
            | Event::Wake(Peer::Node(node)) => self.at_node(node, event),
            Event::Late(event) => match *event {
                Event::Packet { to: Peer::Node(node), .. }
                | Event::Work { node, .. }
                | Event::Wake(Peer::Node(node)) => self.in_node(node, *event),
                other => self.handle(other),
            },
            Event::Wake(Peer::Client(client)) => self.client_timeout(client),
            Event::Fault(place) => self.suffer(place),
            Event::Join => self.join(),
            Event::Follow(client) => self.look_after_entry(client),
            Event::Feed(client) => self.feed(client),
            Event::Audit => {
                self.audit();
                self.audit_convergence();
                self.timeline.plan(self.now() + AUDIT_PERIOD, Event::Audit);
            }
        }
    }
}
