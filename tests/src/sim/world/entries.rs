//! What members tell each other, and what nodes tell the clients that follow them.

use std::time::{Duration, Instant};

use shoal_mesh::core::{FEED_SILENCE_MAX, Feed, MemberState};
use shoal_mesh::simulation::{MemberStart, Peer, node_number};
use shoal_mesh::{Life, News};
use shoal_protocol::Message;
use shoal_protocol::message::FactsDigest;

use super::super::bug::Bug;
use super::super::policy::Policy;
use super::super::rules::version;
use super::{Event, Packet, World};

/// What changes within this time travels to a follower together, as in the link.
const GATHER: Duration = Duration::from_millis(50);
/// A node hands its followers' feeds the loads that it heard this often; the feed says how often it passes them on.
const LOADS_PERIOD: Duration = Duration::from_secs(1);
/// From an entry's last word until its client follows another.
const UNFOLLOW_WAIT: Duration = FEED_SILENCE_MAX;
/// Members whose addresses every node is given.
const SEEDS: u16 = 3;

/// A client's way to the mesh.
pub(super) struct Entry {
    /// The node that it follows.
    pub(super) node: u16,
    since: Instant,
    /// Rises with every stream: what comes on a former one is dropped.
    stream: u64,
    /// The node's end of it.
    feed: Option<Feed>,
    /// Frames stay in order: none arrives before this.
    arrives_after: Instant,
    feeds_at: Option<Instant>,
    loads_at: Instant,
}

impl Entry {
    pub(super) fn new(node: u16, now: Instant) -> Self {
        Self { node, since: now, stream: 0, feed: None, arrives_after: now, feeds_at: None, loads_at: now }
    }
}

impl World {
    /// Whether members matter in this run: baselines know better.
    pub(super) fn has_members(&self) -> bool {
        self.scenario.policy == Policy::Router
    }

    /// The node's process becomes a member, for the first time or again.
    pub(super) fn start_member(&mut self, number: u16) {
        if !self.has_members() {
            return;
        }
        // What a node persists: a life is higher than all of its former ones.
        let generation = self.members.life(number).map_or(1, |life| life.generation + 1);
        let start = MemberStart {
            generation,
            clock: self.processes[usize::from(number)].clock,
            seeds: (0..self.scenario.nodes.min(SEEDS)).collect(),
            chance: self.scenario.seed ^ u64::from(number) << 32 ^ generation << 48,
        };
        self.members.start(number, start);
        self.graves.forget(number);
        self.publish(number);
    }

    /// The node has something to say about itself.
    pub(super) fn publish(&mut self, number: u16) {
        if self.has_members() {
            let process = &self.processes[usize::from(number)];
            let facts = process.node.facts(process.clock.local(self.now()));
            if let Err(refused) = self.members.set_facts(number, facts) {
                self.history.violated(self.timeline.now(), format!("facts of node {number}: {refused}"));
            }
        }
    }

    /// The node's load is what it is now.
    pub(super) fn measure(&mut self, number: u16) {
        if self.has_members() && self.scenario.load_gossip {
            let process = &self.processes[usize::from(number)];
            let load = process.node.core().load_record(process.clock.local(self.now()));
            self.members.set_load(number, load);
        }
    }

    /// What members learnt goes on to those that follow them.
    pub(super) fn take_news(&mut self) {
        while let Some((number, news)) = self.members.poll_news() {
            self.look_for_ghosts(number, &news);
            if let News::Facts(record) = &news
                && node_number(record.node) == number
            {
                self.converging.handle_said(version(record), self.timeline.now());
            }
            for client in self.followers(number) {
                let Some(feed) = &mut self.entries[usize::from(client)].feed else {
                    continue;
                };
                match &news {
                    News::Member(seen) => feed.handle_member(seen.life, seen.state),
                    News::Renewed(life) => feed.handle_member(*life, MemberState::Alive),
                    News::Facts(_) if self.scenario.bug == Some(Bug::FeedsNoChanges) => {}
                    News::Facts(record) => feed.handle_facts(record),
                    _ => continue,
                }
                self.plan_feed(client, GATHER);
            }
            let process = &mut self.processes[usize::from(number)];
            let local = process.clock.local(self.timeline.now());
            process.node.handle_news(news, local);
            if process.node.has_deeds() {
                self.after_node(number);
            }
        }
    }

    fn look_for_ghosts(&mut self, observer: u16, news: &News) {
        let life = match news {
            News::Member(seen) if seen.state == MemberState::Down => {
                return self.graves.bury(observer, seen.life);
            }
            News::Member(seen) => seen.life,
            News::Facts(record) => Life { node: record.node, generation: record.generation },
            _ => return,
        };
        if let Some(what) = self.graves.rises(observer, life).filter(|_| node_number(life.node) != observer) {
            self.history.violated(self.timeline.now(), what);
        }
    }

    /// The node that a client follows, and since when.
    pub(super) fn followed_since(&self, client: u16) -> (u16, Instant) {
        let Entry { node, since, .. } = self.entries[usize::from(client)];
        (node, since)
    }

    fn followers(&self, number: u16) -> Vec<u16> {
        let follows = |client: &u16| self.entries[usize::from(*client)].node == number;
        (0..self.scenario.clients).filter(follows).collect()
    }

    fn plan_feed(&mut self, client: u16, wait: Duration) {
        let at = self.now() + wait;
        let entry = &mut self.entries[usize::from(client)];
        if entry.feeds_at.is_none_or(|planned| at < planned) {
            entry.feeds_at = Some(at);
            self.timeline.plan(at, Event::Feed(client));
        }
    }

    /// A node tells a follower what is new.
    pub(super) fn feed(&mut self, client: u16) {
        let now = self.now();
        let entry = &mut self.entries[usize::from(client)];
        if entry.feeds_at.take_if(|at| *at <= now).is_none() {
            return; // it was done sooner
        }
        let number = entry.node;
        let (loads_are_due, stream) = (entry.loads_at <= now, entry.stream);
        if !self.members.is_running(number) {
            return;
        }
        let Some(mut feed) = entry.feed.take() else {
            return;
        };
        if loads_are_due {
            self.entries[usize::from(client)].loads_at = now + LOADS_PERIOD;
            let loads = self.members.loads(number);
            loads.for_each(|(node, heard)| feed.handle_load(node, &heard.record, heard.at));
        }
        let local = self.members.local(number);
        while let Some(message) = feed.poll_message(local) {
            if !self.tell(client, stream, message) {
                return;
            }
        }
        self.entries[usize::from(client)].feed = Some(feed);
        self.plan_feed(client, LOADS_PERIOD);
    }

    /// A frame of the feed, behind those before it. `false` where the link is cut: the stream is lost.
    fn tell(&mut self, client: u16, stream: u64, message: Message) -> bool {
        let entry = &mut self.entries[usize::from(client)];
        let (from, to) = (Peer::Node(entry.node), Peer::Client(client));
        let Some(delay) = self.members.network.stream(from, to) else {
            return false;
        };
        entry.arrives_after = entry.arrives_after.max(self.timeline.now() + delay) + Duration::from_nanos(1);
        let packet = Box::new(Packet::Told { stream, message });
        self.timeline.plan(entry.arrives_after, Event::Packet { from, to, packet });
        true
    }

    /// A follower comes: it is told all that it does not hold, and then all that changes.
    pub(super) fn followed(&mut self, number: u16, client: u16, stream: u64, holds: &FactsDigest) {
        let Some(state) = self.members.state(number) else {
            return;
        };
        let entry = &mut self.entries[usize::from(client)];
        if (entry.node, entry.stream) != (number, stream) {
            return;
        }
        let mut feed = Feed::new(holds);
        feed.handle_member(state.life, MemberState::Alive);
        state.members.iter().for_each(|seen| feed.handle_member(seen.life, seen.state));
        state.facts.values().for_each(|record| feed.handle_facts(record));
        // Should this node hear later of whom the follower knows already, it tells.
        feed.forget(|node| state.facts.contains_key(&node));
        entry.feed = Some(feed);
        (entry.feeds_at, entry.loads_at) = (None, self.timeline.now());
        self.plan_feed(client, Duration::ZERO);
    }

    /// A client was told something by the node that it follows; whether its calls may have something to send.
    pub(super) fn told(&mut self, client: u16, stream: u64, message: Message) -> bool {
        let now = self.now();
        if self.entries[usize::from(client)].stream != stream {
            return false;
        }
        let only_loads = matches!(&message, Message::MeshUpdate(update) if update.members.is_empty());
        if let Err(broken) = self.clients[usize::from(client)].handle_told(message, now) {
            // Nothing is lost on a stream that stands.
            self.history.violated(now, format!("the feed of client {client} is broken: {broken}"));
        }
        !only_loads
    }

    /// The client asks a node to be told about the mesh.
    pub(super) fn follow(&mut self, client: u16, number: u16) {
        let now = self.now();
        let entry = &mut self.entries[usize::from(client)];
        *entry = Entry { stream: entry.stream + 1, ..Entry::new(number, now) };
        let (stream, holds) = (entry.stream, self.clients[usize::from(client)].handle_follow());
        let (from, to) = (Peer::Client(client), Peer::Node(number));
        if let Some(delay) = self.members.network.stream(from, to) {
            let packet = Box::new(Packet::Follow { stream, holds });
            self.timeline.plan(now + delay, Event::Packet { from, to, packet });
        }
        self.timeline.plan(now + UNFOLLOW_WAIT, Event::Follow(client));
    }

    /// Something may have happened to the nodes that clients follow: they will have noticed after a while.
    pub(super) fn doubt_entries(&mut self) {
        if self.has_members() {
            let at = self.now() + UNFOLLOW_WAIT;
            (0..self.scenario.clients).for_each(|client| self.timeline.plan(at, Event::Follow(client)));
        }
    }

    /// The client follows another node, if nothing comes from the one that it follows.
    pub(super) fn look_after_entry(&mut self, client: u16) {
        let serves = |world: &Self, number| {
            let (node, own) = (Peer::Node(number), Peer::Client(client));
            let network = &world.members.network;
            world.members.is_running(number) && network.is_open(own, node) && network.is_open(node, own)
        };
        let Entry { node: former, feed, .. } = &self.entries[usize::from(client)];
        if serves(self, *former) && feed.is_some() {
            return;
        }
        let nodes = self.scenario.nodes;
        let next = (1..=nodes).map(|step| (former + step) % nodes).find(|number| serves(self, *number));
        match next {
            Some(next) => self.follow(client, next),
            None => self.timeline.plan(self.now() + UNFOLLOW_WAIT, Event::Follow(client)),
        }
    }

    /// A process goes on, and tells its followers what it learnt meanwhile.
    pub(super) fn wake_feeds(&mut self, number: u16) {
        self.followers(number).into_iter().for_each(|client| self.plan_feed(client, Duration::ZERO));
    }

    /// The feeds of a process that is gone went with it.
    pub(super) fn drop_feeds(&mut self, number: u16) {
        for client in self.followers(number) {
            self.entries[usize::from(client)].feed = None;
        }
    }

    /// A datagram, which arrives never, once or twice.
    pub(super) fn send_datagram(&mut self, from: Peer, to: Peer, packet: Packet) {
        let is_probe = matches!(packet, Packet::Probe(_));
        let delays = self.members.network.datagram(from, to, is_probe);
        for delay in delays.into_iter().flatten() {
            let copy = match &packet {
                Packet::Probe(probe) => Packet::Probe(probe.clone()),
                Packet::Reply(reply) => Packet::Reply(*reply),
                // Streams carry all others.
                _ => return,
            };
            self.timeline.plan(self.now() + delay, Event::Packet { from, to, packet: Box::new(copy) });
        }
    }
}
