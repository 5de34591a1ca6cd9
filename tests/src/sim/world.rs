//! Nodes, clients and the network between them on one virtual clock: a single thread, a single source of chance.

mod clients;
mod faults;
mod gossip;
mod members;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use shoal_mesh::core::{Life as NodeLife, MemberSeen, Membership};
use shoal_protocol::Message;
use shoal_protocol::message::{EncodeRequest, LoadProbe, LoadRecord, LoadReply, NodeFacts};

use super::client::Client;
use super::clock::Clock;
use super::history::History;
use super::network::{Network, Peer};
use super::node::{Node, Work};
use super::report::Report;
use super::scenario::Scenario;
use super::timeline::Timeline;
use super::workload::Workload;

/// Time between two audits of everything.
const AUDIT_PERIOD: Duration = Duration::from_millis(100);
/// After the last request: by then every answer came, every deadline passed and every retry ended.
const QUIESCENCE: Duration = Duration::from_secs(15);

/// What travels.
#[derive(Debug)]
pub(super) enum Packet {
    /// A whole request on a new stream.
    Request { stream: u64, request: EncodeRequest },
    /// The reader of a stream stopped it.
    Stop { stream: u64 },
    /// A frame of the answer.
    Frame { stream: u64, message: Message },
    /// The connection of a stream is gone; `reached` tells whether the request may have arrived.
    Broken { stream: u64, reached: bool },
    /// What a node says about itself, to a client.
    Facts(Arc<NodeFacts>),
    /// Its load, unasked.
    Load(LoadRecord),
    /// Asks for it.
    Probe(LoadProbe),
    /// The answer.
    Reply(LoadReply),
    /// A datagram of membership.
    Swim(Vec<u8>),
    /// The end of a handshake between two nodes, with the sender's life.
    Connected(NodeLife),
    /// How a member is, from the node that a client follows.
    Member(MemberSeen),
}

/// What nodes tell unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Gossip {
    Facts,
    Load,
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
    /// A node publishes its facts, or its load.
    Gossip {
        node: u16,
        generation: u64,
        what: Gossip,
    },
    /// The same, after the receiver's slow CPU came to it.
    Late(Box<Event>),
    /// A fault of the scenario, by its place there.
    Fault(usize),
    /// A client noticed that the node which it follows is gone, and follows another.
    Follow(u16),
    Audit,
}

impl Hash for Event {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Arrival(client) | Self::Follow(client) => client.hash(state),
            Self::Packet { from, to, packet } => {
                let number = match packet.as_ref() {
                    Packet::Request { stream, .. }
                    | Packet::Stop { stream }
                    | Packet::Frame { stream, .. }
                    | Packet::Broken { stream, .. } => *stream,
                    Packet::Facts(facts) => facts.version,
                    Packet::Load(load) | Packet::Reply(LoadReply { load, .. }) => load.sequence.into(),
                    Packet::Probe(probe) => probe.nonce,
                    Packet::Swim(bytes) => bytes.len() as u64,
                    Packet::Connected(life) => life.generation,
                    Packet::Member(seen) => seen.life.generation,
                };
                (from, to, std::mem::discriminant(packet.as_ref()), number).hash(state);
            }
            Self::Work { node, life, work } => (node, life, work).hash(state),
            Self::Wake(peer) => peer.hash(state),
            Self::Gossip { node, generation, what } => (node, generation, what).hash(state),
            Self::Late(event) => event.hash(state),
            Self::Fault(at) => at.hash(state),
            Self::Audit => {}
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
    /// Rises with every start.
    pub(super) generation: u64,
    pub(super) clock: Clock,
    pub(super) membership: Membership,
    /// When its next timer event comes, if one is planned.
    wake_at: Option<Instant>,
    /// Of its facts, and when the next one is due at the earliest and whether it is planned.
    pub(super) version: u64,
    publish_after: Instant,
    is_publishing: bool,
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
    pub(super) network: Network,
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
    /// Connections between nodes.
    links: BTreeSet<(u16, u16)>,
    /// The node that each client follows.
    followed: Vec<u16>,
    /// When a client learnt that a node is dead: it waited there in vain.
    evidence: BTreeMap<(u16, u16), Instant>,
}

impl World {
    /// The beginning of a scenario: every node holds some models, drawn by their popularity.
    #[must_use]
    pub fn new(scenario: Scenario) -> Self {
        let mut timeline = Timeline::new();
        let start = timeline.now();
        let mut chance = SmallRng::seed_from_u64(scenario.seed);
        let workload = Workload::new(scenario.rate_per_s, scenario.clients, scenario.models, scenario.zipf);
        let opens_at = start + scenario.settling();
        for client in 0..scenario.clients {
            timeline.plan(opens_at + workload.gap(&mut chance), Event::Arrival(client));
        }
        for (place, (at, _)) in scenario.faults.iter().enumerate() {
            timeline.plan(opens_at + *at, Event::Fault(place));
        }
        timeline.plan(start + AUDIT_PERIOD, Event::Audit);
        let mut world = Self {
            network: Network::new(scenario.weather, chance.random()),
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
            links: BTreeSet::new(),
            followed: (0..scenario.clients).map(|client| client % scenario.nodes).collect(),
            evidence: BTreeMap::new(),
            timeline,
            scenario,
        };
        world.network.set_loses_probes(world.scenario.loses_probes);
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
            while held.len() < usize::from(room) {
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
            self.start_gossip(number);
        }
    }

    /// A process at its start.
    fn start_process(&mut self, number: u16, generation: u64) -> Process {
        let ahead = self.scenario.clocks_ahead_max.mul_f64(self.chance.random_range(0.0..1.0));
        let drift_ppm = self.chance.random_range(-100..=100);
        let machine = self.scenario.machine_of(number);
        let clock = Clock::new(self.timeline.start(), ahead, drift_ppm);
        Process {
            node: Node::new(number, machine, self.scenario.models, self.chance.random()),
            life: Life::Running,
            generation,
            clock,
            membership: self.membership_of(number, generation, clock.local(self.now())),
            wake_at: None,
            version: 0,
            publish_after: self.now(),
            is_publishing: false,
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
        while self.history.violations().is_empty()
            && let Some(event) = self.timeline.next(end)
        {
            self.handle(event);
        }
        if self.history.violations().is_empty() {
            self.audit_quiescence();
        }
        Report::new(&self)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrival(client) => self.arrival(client),
            Event::Packet { from, to: Peer::Client(client), packet } => self.at_client(client, from, *packet),
            Event::Packet { to: Peer::Node(node), .. }
            | Event::Work { node, .. }
            | Event::Gossip { node, .. }
            | Event::Wake(Peer::Node(node)) => self.at_node(node, event),
            Event::Late(event) => match *event {
                Event::Packet { to: Peer::Node(node), .. }
                | Event::Work { node, .. }
                | Event::Gossip { node, .. }
                | Event::Wake(Peer::Node(node)) => self.in_node(node, *event),
                other => self.handle(other),
            },
            Event::Wake(Peer::Client(client)) => self.client_timeout(client),
            Event::Fault(place) => self.suffer(place),
            Event::Follow(client) => self.follow(client),
            Event::Audit => {
                self.audit();
                self.timeline.plan(self.now() + AUDIT_PERIOD, Event::Audit);
            }
        }
    }
}
