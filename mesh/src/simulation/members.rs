//! The members and the clock: what happens at whom, and what they do then.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::message::{LoadRecord, NodeFacts};
use shoal_protocol::{Message, NodeId};

use super::clock::Clock;
use super::connection::{Connection, Said};
use super::member::{Event, Member, Power};
use super::network::Network;
use super::timeline::Timeline;
use super::{address, node_id};
use crate::core::{FactsRefused, Life, LoadSequence, MemberSeen, MembershipOptions, OwnFacts};
use crate::peer::links::{Arrival, LinkId, Verdict};
use crate::peer::machines::{Machines, Outcome};
use crate::peer::{HeardLoad, MeshState, News, PeerCounters};

/// How a process starts.
#[derive(Clone, Debug)]
pub struct MemberStart {
    /// Of its life.
    pub generation: u64,
    /// What it believes the time to be.
    pub clock: Clock,
    /// The nodes whose addresses it was given.
    pub seeds: Vec<u16>,
    /// Seed of its choices.
    pub chance: u64,
}

/// What was sent, with what QUIC, UDP and IP put around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Datagrams and messages of streams.
    pub packets: u64,
}

/// The members of a mesh, numbered from 0, and everything between them. Whoever owns it advances its clock
/// ([`handle_timeout`](Self::handle_timeout)) and tells it what happens from outside, at the time that it shows.
pub struct Members {
    pub(super) timeline: Timeline<Event>,
    /// The links, of which others may make use as well.
    pub network: Network,
    pub(super) members: Vec<Option<Member>>,
    pub(super) connections: BTreeMap<LinkId, Connection>,
    pub(super) links_made: LinkId,
    /// Since when a link is cut.
    pub(super) cuts: BTreeMap<(u16, u16), Instant>,
    news: VecDeque<(u16, News)>,
    breaches: Vec<String>,
    pub(super) traffic: Traffic,
}

impl Members {
    /// Nobody yet.
    #[must_use]
    pub fn new(network: Network, start: Instant) -> Self {
        Self {
            timeline: Timeline::starting_at(start),
            network,
            members: Vec::new(),
            connections: BTreeMap::new(),
            links_made: 0,
            cuts: BTreeMap::new(),
            news: VecDeque::new(),
            breaches: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    /// A process starts, for the first time or again.
    pub fn start(&mut self, number: u16, start: MemberStart) {
        let MemberStart { generation, clock, seeds, chance } = start;
        let local = clock.local(self.now());
        let options = MembershipOptions {
            life: Life { node: node_id(number), generation },
            address: address(number),
            seeds: seeds.into_iter().map(address).collect(),
            chance,
        };
        self.kill(number);
        if self.members.len() <= usize::from(number) {
            self.members.resize_with(usize::from(number) + 1, || None);
        }
        let epoch = self.member(number).map_or(0, |former| former.epoch + 1);
        self.members[usize::from(number)] = Some(Member {
            machines: Machines::new(options, LoadSequence::new(local), local),
            clock,
            power: Power::Running,
            lag: Duration::ZERO,
            epoch,
            wake_at: None,
            record_bytes: None,
        });
        self.after(number);
    }

    pub(super) fn member(&self, number: u16) -> Option<&Member> {
        self.members.get(usize::from(number))?.as_ref()
    }

    pub(super) fn member_mut(&mut self, number: u16) -> Option<&mut Member> {
        self.members.get_mut(usize::from(number))?.as_mut()
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.timeline.now()
    }

    /// What a member believes the time to be.
    #[must_use]
    pub fn local(&self, number: u16) -> Instant {
        self.member(number).map_or(self.now(), |member| member.clock.local(self.now()))
    }

    /// A hash of all that has happened.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.timeline.trace()
    }

    /// What all sent so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// What members did that no member may do; they are all honest.
    #[must_use]
    pub fn breaches(&self) -> &[String] {
        &self.breaches
    }

    /// The node's facts are these now.
    ///
    /// # Errors
    /// [`FactsRefused::Limit`]: they could not be sent.
    pub fn set_facts(&mut self, number: u16, facts: OwnFacts) -> Result<(), FactsRefused> {
        let local = self.local(number);
        if let Some(member) = self.member_mut(number).filter(|member| member.is_running()) {
            member.machines.facts.handle_own(facts, local)?;
            self.after(number);
        }
        Ok(())
    }

    /// The load of one of its devices is this now.
    pub fn set_load(&mut self, number: u16, load: LoadRecord) {
        let local = self.local(number);
        if let Some(member) = self.member_mut(number).filter(|member| member.is_running()) {
            member.machines.handle_own_load(load, local);
            let due = member.machines.loads.gossip.poll_timeout().map(|(at, _)| member.clock.world(at));
            if due.is_some_and(|due| member.wake_at.is_none_or(|planned| due < planned)) {
                self.arm(number);
            }
        }
    }

    /// Says something to another member on the stream between them, if they are connected.
    pub fn send(&mut self, from: u16, to: u16, message: Message) {
        let link = self.member(from).and_then(|member| member.machines.links.of(node_id(to)));
        if let Some(link) = link {
            self.stream(from, link, Said::Other(Box::new(message)));
        }
    }

    /// What one of them did not know yet.
    pub fn poll_news(&mut self) -> Option<(u16, News)> {
        self.news.pop_front()
    }

    /// How a member sees the others.
    pub fn seen_by(&self, number: u16) -> impl Iterator<Item = &MemberSeen> {
        self.member(number).into_iter().flat_map(|member| member.machines.membership.members())
    }

    /// The life that a member is in.
    #[must_use]
    pub fn life(&self, number: u16) -> Option<Life> {
        self.member(number).map(|member| member.machines.membership.life())
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_running(&self, number: u16) -> bool {
        self.member(number).is_some_and(Member::is_running)
    }

    /// The records that a member holds, by node.
    pub fn records(&self, number: u16) -> impl Iterator<Item = &Arc<NodeFacts>> {
        self.member(number).into_iter().flat_map(|member| member.machines.facts.records())
    }

    /// The record that a member holds of a node.
    #[must_use]
    pub fn record(&self, number: u16, of: NodeId) -> Option<&Arc<NodeFacts>> {
        self.member(number)?.machines.facts.record(of)
    }

    /// All that a member knows, by its own clock.
    pub fn state(&mut self, number: u16) -> Option<MeshState> {
        let local = self.local(number);
        Some(self.member_mut(number)?.machines.state(local))
    }

    /// The loads that a member heard of from others, by its own clock.
    pub fn loads(&self, number: u16) -> impl Iterator<Item = (NodeId, &HeardLoad)> {
        let all = self.member(number).into_iter().flat_map(|member| member.machines.loads.heard());
        all.filter(move |(node, _)| *node != node_id(number))
    }

    /// What happened to a member.
    #[must_use]
    pub fn counters(&self, number: u16) -> Option<PeerCounters> {
        self.member(number).map(|member| member.machines.counters())
    }

    /// When something happens next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timeline.poll_timeout()
    }

    /// Time goes on to `now`, which is not after [`poll_timeout`](Self::poll_timeout); at most one thing happens.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(event) = self.timeline.next(now) {
            self.happen(event);
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Handshake(dial) => self.shake_hands(dial),
            Event::Loads { from, to, records } => self.spread(from, &to, &records),
            Event::Left(number) => self.end(number),
            Event::Late(event) => self.at_member(*event),
            event => match event.receiver().and_then(|number| self.member(number)) {
                Some(member) if member.is_running() && !member.lag.is_zero() => {
                    let at = self.now() + member.lag;
                    self.timeline.plan(at, Event::Late(Box::new(event)));
                }
                _ => self.at_member(event),
            },
        }
    }

    /// A member handles an event: if it lives and is not stopped.
    fn at_member(&mut self, event: Event) {
        let (Some(number), now) = (event.receiver(), self.now()) else {
            return;
        };
        let Some(member) = self.members.get_mut(usize::from(number)).and_then(Option::as_mut) else {
            return;
        };
        match &mut member.power {
            Power::Running => {}
            Power::Stopped { waiting, .. } => return waiting.push(event),
            Power::Dead { .. } => return,
        }
        let local = member.clock.local(now);
        match event {
            // One that was planned before an earlier one took its place says nothing.
            Event::Wake(_) if member.wake_at.is_none_or(|at| at > now) => return,
            Event::Wake(_) => {
                member.wake_at = None;
                member.machines.handle_timeout(local);
            }
            Event::Said { from, link, said, .. } => self.hear(number, from, link, said, local),
            Event::Greeted { life, link, dialed, .. } => self.greet(number, Arrival { link, life, dialed }),
            Event::Missed(dial) if dial.epoch == member.epoch => {
                member.machines.links.handle_dialed(address(dial.to), false, local);
            }
            Event::Closed { link, .. } => self.lose(number, link),
            Event::Idle { link, .. } => self.look_for_silence(number, link),
            _ => return,
        }
        self.after(number);
    }

    fn hear(&mut self, number: u16, from: u16, link: LinkId, said: Said, local: Instant) {
        let is_open = |connection: &Connection| connection.is_open_at(number);
        if !self.connections.get(&link).is_some_and(is_open) {
            return self.reset(number, from, link);
        }
        let Some(Member { machines, .. }) = self.member_mut(number) else {
            return;
        };
        let peer = node_id(from);
        let outcome = match said {
            Said::Swim(bytes) => machines.handle_datagram(peer, &bytes, local),
            Said::Facts(message) => machines.handle_facts(peer, message, local),
            Said::Other(message) => machines.handle_message(peer, *message, local),
            Said::Loads(records) => {
                machines.handle_loads(peer, &records, local);
                Outcome::Fine
            }
        };
        if let Outcome::Breach(why) = outcome {
            self.breaches.push(format!("member {from} broke the protocol at {number}: {why}"));
            self.close(number, link);
        }
    }

    /// A connection whose other end is known: kept, or closed.
    pub(super) fn greet(&mut self, number: u16, arrival: Arrival) {
        let Arrival { link, life, .. } = arrival;
        let local = self.local(number);
        if !self.connections.contains_key(&link) {
            return; // the other end did not want it
        }
        let Some(member) = self.member_mut(number) else {
            return;
        };
        let whose = address(super::node_number(life.node));
        match member.machines.handle_arrival(arrival, whose, local) {
            Verdict::Keep { replaces, waiting } => {
                self.connections.get_mut(&link).map(|connection| connection.set_open(number, true));
                if let Some(former) = replaces {
                    self.close(number, former);
                }
                waiting.into_iter().for_each(|bytes| self.datagram(number, link, bytes));
            }
            Verdict::Duplicate | Verdict::Full => self.close(number, link),
        }
    }

    /// Does what a member's machines want done.
    pub(super) fn after(&mut self, number: u16) {
        let now = self.now();
        let Some(member) = self.member_mut(number) else {
            return;
        };
        let local = member.clock.local(now);
        member.machines.settle(local);
        let (mut news, mut datagrams, mut dials) = (Vec::new(), Vec::new(), Vec::new());
        let (mut facts, mut loads) = (Vec::new(), Vec::new());
        let machines = &mut member.machines;
        news.extend(std::iter::from_fn(|| machines.poll_news()));
        datagrams.extend(std::iter::from_fn(|| machines.poll_datagram(local)));
        facts.extend(std::iter::from_fn(|| machines.facts.poll_send()));
        loads.extend(std::iter::from_fn(|| machines.loads.gossip.poll_send()));
        dials.extend(std::iter::from_fn(|| machines.links.poll_dial(local)));
        self.news.extend(news.into_iter().map(|news| (number, news)));
        datagrams.into_iter().for_each(|(link, bytes)| self.datagram(number, link, bytes));
        facts.into_iter().for_each(|send| self.send_facts(number, &send));
        loads.into_iter().for_each(|send| self.send_loads(number, send));
        dials.into_iter().for_each(|address| self.dial(number, address));
        self.arm(number);
    }

    /// Plans the next timer event of a member.
    fn arm(&mut self, number: u16) {
        let now = self.now();
        let Some(member) = self.member_mut(number).filter(|member| member.is_running()) else {
            return;
        };
        let Some(local) = member.poll_timeout() else {
            return;
        };
        let at = member.clock.world(local).max(now);
        if member.wake_at.is_none_or(|planned| at < planned) {
            member.wake_at = Some(at);
            self.timeline.plan(at, Event::Wake(number));
        }
    }
}
