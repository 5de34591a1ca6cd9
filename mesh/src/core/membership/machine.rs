//! The machine: foca, its timers, and what SWIM leaves to its user.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use foca::{Foca, Member, NoCustomBroadcast, State, Timer};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use shoal_protocol::NodeId;

use super::super::member::{Life, MemberState};
use super::codec::{Datagram, DatagramCodec};
use super::interface::{
    DatagramRefused, MembershipCounters, MembershipEvent, MembershipOptions, MembershipTransmit,
};
use super::join::{Due, Join};
use super::member_id::MemberId;
use super::outputs::Outputs;
use super::parameters::{
    DATAGRAM_BYTES_MAX, GENERATION_MAX, JOIN_FANOUT, LATE_GRACE, LATE_MAX, MEMBERS_MAX, ROSTER_PERIOD,
    SEEDS_MAX, SUSPICION_SHOWS_AFTER, TRANSMITS_MAX, config,
};
use super::rebirth::Rebirth;
use super::roster::{MemberSeen, Roster};
use super::timers::Timers;

/// Who is there: SWIM (Das, Gupta, Motivala 2002) by foca, over datagrams whose sender the transport authenticated.
///
/// It collects garbage within seconds and is no failover signal. After every `handle_*` the owner drains
/// [`poll_transmit`](Self::poll_transmit), [`poll_dial`](Self::poll_dial) and [`poll_event`](Self::poll_event), and
/// it hands in what has arrived before it calls [`handle_timeout`](Self::handle_timeout).
pub struct Membership {
    life: Life,
    address: SocketAddr,
    foca: Foca<MemberId, DatagramCodec, SmallRng, NoCustomBroadcast>,
    timers: Timers,
    roster: Roster,
    join: Join,
    connected: BTreeMap<NodeId, SocketAddr>,
    chance: SmallRng,
    /// Members that the parameters are set for, rounded up to a power of two.
    configured: usize,
    roster_at: Instant,
    rebirth: Rebirth,
    left: bool,
    transmits: VecDeque<MembershipTransmit>,
    dials: BTreeSet<SocketAddr>,
    counters: MembershipCounters,
}

impl Membership {
    /// A node that knows nobody yet; [`poll_timeout`](Self::poll_timeout) is due at once.
    #[must_use]
    pub fn new(options: MembershipOptions, now: Instant) -> Self {
        let MembershipOptions { mut life, address, mut seeds, chance } = options;
        life.generation = life.generation.min(GENERATION_MAX);
        seeds.retain(|seed| *seed != address);
        seeds.truncate(SEEDS_MAX);
        let mut chance = SmallRng::seed_from_u64(chance);
        let foca =
            Foca::new(MemberId { life, address }, config(1), SmallRng::from_rng(&mut chance), DatagramCodec);
        Self {
            life,
            address,
            foca,
            timers: Timers::default(),
            roster: Roster::default(),
            join: Join::new(seeds, now),
            connected: BTreeMap::new(),
            chance,
            configured: 1,
            roster_at: now + ROSTER_PERIOD,
            rebirth: Rebirth::new(life.generation, now),
            left: false,
            transmits: VecDeque::new(),
            dials: BTreeSet::new(),
            counters: MembershipCounters::default(),
        }
    }

    /// This node's present life.
    #[must_use]
    pub fn life(&self) -> Life {
        self.life
    }

    /// Everybody else, the remembered dead included, by node.
    pub fn members(&self) -> impl Iterator<Item = &MemberSeen> {
        self.roster.iter()
    }

    /// One of them.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&MemberSeen> {
        self.roster.get(node)
    }

    /// What happened since the start.
    #[must_use]
    pub fn counters(&self) -> MembershipCounters {
        self.counters
    }

    /// A connection to a member stands; `life` and `address` are what its hello says, and its certificate names the
    /// node. That it shook hands proves that it lives.
    pub fn handle_connected(&mut self, life: Life, address: SocketAddr, now: Instant) {
        if self.left || life.node == self.life.node || self.connected.len() >= MEMBERS_MAX {
            return;
        }
        self.observe(now);
        self.connected.insert(life.node, address);
        let mut out = Outputs::default();
        let down = self.roster.get(life.node).is_some_and(|seen| seen.state == MemberState::Down);
        if self.foca.num_members() == 0 || down {
            // Down: it does not listen to us either, until it hears that and renews.
            self.announce(life.node, address, &mut out);
        }
        let fits = self.is_known(life.node) || self.foca.iter_membership_state().len() < MEMBERS_MAX;
        if self.rebirth.is_plausible(life.generation, now) && fits {
            let alive = Member::alive(MemberId { life, address });
            let applied = self.foca.apply_many(std::iter::once(alive), true, &mut out);
            self.counters.faults += u64::from(applied.is_err());
            out.touched.push(life.node);
        }
        self.settle(out, None, now);
    }

    /// The connection to a node is gone. Says nothing about the node: SWIM asks others before it concludes.
    pub fn handle_disconnected(&mut self, node: NodeId) {
        self.connected.remove(&node);
    }

    /// A datagram from the peer whose certificate names `from`.
    ///
    /// # Errors
    /// See [`DatagramRefused`]; nothing of it was used.
    pub fn handle_datagram(
        &mut self,
        from: NodeId,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DatagramRefused> {
        if self.left {
            return Ok(());
        }
        self.observe(now);
        let handled = self.accept(from, bytes, now);
        self.counters.refused += u64::from(handled.is_err());
        handled
    }

    fn accept(&mut self, from: NodeId, bytes: &[u8], now: Instant) -> Result<(), DatagramRefused> {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(DatagramRefused::Invalid);
        }
        let datagram = Datagram::read(bytes)?;
        let claimed = datagram.header.src.life.node;
        if claimed == self.life.node {
            return Err(DatagramRefused::FromSelf);
        }
        if claimed != from {
            return Err(DatagramRefused::Forged { from, claimed });
        }
        if let Some(life) = datagram.lives().find(|life| !self.rebirth.is_plausible(life.generation, now)) {
            return Err(DatagramRefused::Implausible(life));
        }
        let of_us = datagram.rumours().iter().map(|rumour| rumour.id().life);
        let of_us = of_us.filter(|life| life.node == self.life.node).map(|life| life.generation).max();
        if let Some(generation) = of_us.filter(|generation| *generation > self.life.generation) {
            // A former life that was ahead of our clock, or a lie; either way we are heard again only above it.
            self.rebirth.handle_claim(generation, now);
        }
        let mut out = Outputs::default();
        let unknown =
            datagram.rumours().iter().filter(|rumour| !self.is_known(rumour.id().life.node)).count();
        let room = MEMBERS_MAX.saturating_sub(self.foca.iter_membership_state().len());
        // One more than the rumours may be new: the source.
        let handled = if unknown < room {
            self.foca.handle_data(bytes, &mut out)
        } else if self.is_known(from) {
            self.counters.rumours_dropped += unknown as u64;
            self.foca.handle_data(&datagram.retain(|id| self.is_known(id.life.node)), &mut out)
        } else {
            self.counters.rumours_dropped += unknown as u64 + 1;
            Ok(())
        };
        out.suspects |= self.roster.is_contradicted_by(&datagram);
        self.settle(out, Some(from), now);
        handled.map_err(|_| DatagramRefused::Invalid)
    }

    fn is_known(&self, node: NodeId) -> bool {
        self.roster.get(node).is_some() || node == self.life.node
    }

    /// The datagrams that tell the mesh that this node leaves, so that nobody has to find out. The machine does
    /// nothing afterwards.
    pub fn handle_leave(&mut self, now: Instant) {
        if self.left {
            return;
        }
        self.left = true;
        let mut out = Outputs::default();
        let told = self.foca.leave_cluster(&mut out);
        // Twice: six members hear of it, and one datagram of them may well be lost.
        let again = self.foca.gossip(&mut out);
        self.counters.faults += u64::from(told.is_err()) + u64::from(again.is_err());
        self.settle(out, None, now);
    }

    /// Nothing is concluded from silence that our own sleep explains: if the next timer should have fired long ago,
    /// this process was stopped or starved, answers wait unread, and every timer starts over from here.
    fn observe(&mut self, now: Instant) {
        let Some(due) = self.timers.next() else {
            return;
        };
        let late = now.saturating_duration_since(due);
        if late > LATE_MAX {
            self.timers.postpone(late + LATE_GRACE);
            self.counters.stalls += 1;
        }
    }

    /// The time has come that [`poll_timeout`](Self::poll_timeout) named.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.left {
            return;
        }
        self.observe(now);
        let mut out = Outputs::default();
        while let Some(timer) = self.timers.pop(now) {
            self.fire(timer, &mut out);
            self.schedule(&mut out, now);
        }
        self.renew_if_due(&mut out, now);
        while let Some(due) = self.join.poll(now) {
            self.look_for_company(due, &mut out);
        }
        if self.roster_at <= now {
            self.roster_at = now + ROSTER_PERIOD;
            let seen = self.foca.iter_membership_state().map(MemberSeen::from);
            seen.filter(|seen| seen.life.node != self.life.node).for_each(|seen| self.roster.see(seen));
        }
        self.settle(out, None, now);
    }

    fn fire(&mut self, timer: Timer<MemberId>, out: &mut Outputs) {
        if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer {
            // foca 2.0.0 tells a suspect that it is dead when its time is over, even if it refuted meanwhile, and a
            // healthy node would renew for nothing. Refuted means that nothing is left to do.
            let mut members = self.foca.iter_membership_state();
            let stands = members.any(|member| {
                member.id() == member_id
                    && member.incarnation() == *incarnation
                    && member.state() == State::Suspect
            });
            if !stands {
                return;
            }
        }
        let removed = if let Timer::RemoveDown(id) = &timer { Some(id.life.node) } else { None };
        self.counters.faults += u64::from(self.foca.handle_timer(timer, out).is_err());
        if let Some(node) = removed
            && !self.foca.iter_membership_state().any(|member| member.id().life.node == node)
        {
            self.roster.forget(node);
        }
    }

    /// A mesh of another size needs other parameters.
    fn configure(&mut self) {
        let size = (self.foca.num_members() + 1).next_power_of_two();
        if size != self.configured {
            self.configured = size;
            self.counters.faults += u64::from(self.foca.set_config(config(size)).is_err());
        }
    }

    fn look_for_company(&mut self, due: Due, out: &mut Outputs) {
        let Self { roster, join, .. } = self;
        let member_at = |seed: &SocketAddr| {
            roster.iter().any(|seen| seen.address == *seed && seen.state != MemberState::Down)
        };
        match due {
            Due::Seed => self.dials.extend(join.next_seed(|seed| !member_at(seed))),
            Due::Round { alone } => {
                let peers = self.connected.iter().map(|(node, address)| (*node, *address));
                let mut targets = peers.sample(&mut self.chance, JOIN_FANOUT);
                if alone {
                    self.dials.extend(join.seeds());
                    let dead = roster.iter().map(|seen| (seen.life.node, seen.address));
                    targets.extend(dead.sample(&mut self.chance, JOIN_FANOUT));
                }
                targets.into_iter().for_each(|(node, address)| self.announce(node, address, out));
            }
        }
    }

    fn announce(&mut self, node: NodeId, address: SocketAddr, out: &mut Outputs) {
        // An announcement is for whatever life the node is in.
        let any_life = MemberId { life: Life { node, generation: 0 }, address };
        self.counters.faults += u64::from(self.foca.announce(any_life, out).is_err());
    }

    /// Goes on under a generation above every one that was held for dead or claimed.
    fn renew_if_due(&mut self, out: &mut Outputs, now: Instant) {
        let Some(generation) = self.rebirth.poll(self.life.generation, now) else {
            return;
        };
        self.life.generation = generation;
        let id = MemberId { life: self.life, address: self.address };
        let changed = self.foca.change_identity(id, &mut *out);
        // Says nothing new, but lets foca notice that it is connected.
        let resumed = self.foca.apply_many(std::iter::empty(), false, out);
        self.counters.faults += u64::from(changed.is_err()) + u64::from(resumed.is_err());
        self.counters.renewals += 1;
        self.join.handle_renewed(now);
    }

    fn schedule(&mut self, out: &mut Outputs, now: Instant) {
        for (after, timer) in out.timers.drain(..) {
            self.timers.insert(now + after, timer);
        }
    }

    /// Takes care of what foca wants; `from` is the peer whose datagram made it want that.
    fn settle(&mut self, mut out: Outputs, from: Option<NodeId>, now: Instant) {
        if std::mem::take(&mut out.defunct) && !self.left {
            self.rebirth.handle_defunct(now);
            self.renew_if_due(&mut out, now);
        }
        self.configure();
        if out.suspects {
            self.roster_at = self.roster_at.min(now + SUSPICION_SHOWS_AFTER);
        }
        self.schedule(&mut out, now);
        for node in out.touched.drain(..).filter(|node| *node != self.life.node) {
            let mut members = self.foca.iter_membership_state();
            if let Some(member) = members.find(|member| member.id().life.node == node) {
                self.roster.see(member.into());
            }
        }
        for (to, bytes) in out.datagrams.drain(..) {
            self.transmit(to, bytes, from);
        }
        self.join.handle_company(self.foca.num_members() == 0, now);
    }

    /// Datagrams go to members, to peers, and back to whom they answer. A peer may name anybody in a request for an
    /// indirect probe, and this node shall not send to, or dial, wherever it is told to.
    fn transmit(&mut self, to: MemberId, bytes: Vec<u8>, from: Option<NodeId>) {
        let node = to.life.node;
        let known = self.roster.get(node).map(|seen| seen.address);
        let address = known.or_else(|| self.connected.get(&node).copied());
        let address = address.or_else(|| (Some(node) == from).then_some(to.address));
        match address {
            Some(address) if node != self.life.node && self.transmits.len() < TRANSMITS_MAX => {
                self.transmits.push_back(MembershipTransmit { to: node, address, bytes });
            }
            _ => self.counters.transmits_dropped += 1,
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<MembershipTransmit> {
        self.transmits.pop_front()
    }

    /// The next address to dial: if a member answers there, tell [`handle_connected`](Self::handle_connected).
    pub fn poll_dial(&mut self) -> Option<SocketAddr> {
        self.dials.pop_first()
    }

    /// What changed.
    pub fn poll_event(&mut self) -> Option<MembershipEvent> {
        if self.rebirth.take_untold() {
            return Some(MembershipEvent::Renewed(self.life));
        }
        self.roster.poll().map(MembershipEvent::Member)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.left {
            return None;
        }
        [
            self.timers.next().map(|at| (at, "SWIM timer")),
            self.rebirth.next().map(|at| (at, "renewal")),
            Some((self.join.next(), "look for company")),
            Some((self.roster_at, "read the roster")),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }
}
