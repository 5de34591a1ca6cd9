//! Which connection stands for which member, and whom to dial when. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shoal_protocol::NodeId;

use super::dial::DIAL_WAIT;
use crate::core::{Chance, Life, MemberSeen, MemberState};

/// Members connected at once: two cells of 512. A further one is refused.
pub(super) const LINKS_MAX: usize = 1024;
/// Dials under way at once; further ones wait.
const DIALS_MAX: usize = 64;
/// Addresses that are dialed or rest after a failure. A further one is not dialed: whoever wanted it asks again.
const TARGETS_MAX: usize = 2048;
/// Datagrams kept for a member while it is dialed: a probe and what follows it. The oldest gives way.
const WAITING_MAX: usize = 4;
/// Between the first failure and the next dial; doubles with every further one ...
const REST_MIN: Duration = Duration::from_millis(100);
/// ... up to this. Not longer, because a partition shall heal within a few seconds.
const REST_MAX: Duration = Duration::from_secs(2);
/// A seed that led to a connected member under another address than the member's own is dialed again only after so long:
/// each time costs a handshake and replaces the connection. Not never, because a name may lead to another member later,
/// and seeds are what heals a long partition.
const ALIAS_REST: Duration = Duration::from_secs(600);
/// Such seeds; there are no more seeds than that.
const ALIASES_MAX: usize = 64;
/// A connection that lasted this long makes up for the failures before it.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Both ends of a new pair want a connection; the smaller id leaves the first dial to the larger one for this long.
const PRECEDENCE: Duration = Duration::from_millis(200);
/// Dials of both ends that ended within this time of each other were simultaneous; one that came later was made because
/// its end holds the former connection for lost.
const SIMULTANEOUS: Duration = DIAL_WAIT;

/// A connection, by the order of its arrival in this process.
pub(crate) type LinkId = u64;

/// A connection that was greeted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) link: LinkId,
    /// Whose it is, by its certificate and its hello.
    pub(crate) life: Life,
    /// Whether this end dialed.
    pub(crate) dialed: bool,
}

/// What becomes of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stands for the member from now on.
    Keep {
        /// A former one to close.
        replaces: Option<LinkId>,
        /// Datagrams that waited for it.
        waiting: VecDeque<Vec<u8>>,
    },
    /// Another one stands for the member.
    Duplicate,
    /// No room.
    Full,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    link: LinkId,
    generation: u64,
    dialed: bool,
    since: Instant,
    failures: u32,
    /// That life is over: any other connection is better.
    is_down: bool,
}

#[derive(Debug, Default)]
struct Target {
    /// Who is expected there; a seed may be anybody.
    node: Option<NodeId>,
    due: Option<Instant>,
    rested: Option<Instant>,
    failures: u32,
    dialing: bool,
    waiting: VecDeque<Vec<u8>>,
}

/// One connection for each pair of members. Where both dial at once, the dial of the larger id stays.
#[derive(Debug)]
pub(crate) struct Links {
    own: NodeId,
    members: BTreeMap<NodeId, SocketAddr>,
    held: BTreeMap<NodeId, Held>,
    targets: BTreeMap<SocketAddr, Target>,
    /// To whom seeds led, and when.
    aliases: BTreeMap<SocketAddr, (NodeId, Instant)>,
    dialing: usize,
    chance: Chance,
    /// Dials and datagrams that found no room.
    pub(super) dropped: u64,
}

impl Links {
    pub(super) fn new(own: NodeId, chance: u64) -> Self {
        Self {
            own,
            members: BTreeMap::new(),
            held: BTreeMap::new(),
            targets: BTreeMap::new(),
            aliases: BTreeMap::new(),
            dialing: 0,
            chance: Chance::new(chance),
            dropped: 0,
        }
    }

    /// The connection that stands for a member.
    pub(crate) fn of(&self, node: NodeId) -> Option<LinkId> {
        self.held.get(&node).map(|held| held.link)
    }

    /// Members are connected to for as long as they are not gone.
    pub(super) fn handle_member(&mut self, seen: MemberSeen, now: Instant) {
        let node = seen.life.node;
        if seen.state == MemberState::Down {
            self.members.remove(&node);
            let held = self.held.get_mut(&node).filter(|held| held.generation <= seen.life.generation);
            held.into_iter().for_each(|held| held.is_down = true);
            let gone = self.targets.values_mut().filter(|target| target.node == Some(node));
            gone.for_each(|target| target.due = None);
            return;
        }
        self.members.insert(node, seen.address);
        if !self.held.contains_key(&node) {
            let head_start = if self.own < node { PRECEDENCE } else { Duration::ZERO };
            self.want(seen.address, Some(node), now + head_start, now);
        }
    }

    /// A dial of an address led to a node.
    pub(super) fn handle_found(&mut self, address: SocketAddr, node: NodeId, now: Instant) {
        let is_seed = self.targets.get(&address).is_some_and(|target| target.node.is_none());
        if is_seed && (self.aliases.len() < ALIASES_MAX || self.aliases.contains_key(&address)) {
            self.aliases.insert(address, (node, now));
        }
    }

    /// Somebody may be there.
    pub(super) fn handle_seed(&mut self, address: SocketAddr, now: Instant) {
        let is_known = |node: &NodeId| {
            if *node == self.own { !self.held.is_empty() } else { self.held.contains_key(node) }
        };
        let known = self.aliases.get(&address).filter(|(node, _)| is_known(node));
        if known.is_some_and(|(_, found_at)| now < *found_at + ALIAS_REST) {
            return;
        }
        self.want(address, None, now, now);
    }

    /// A datagram for a node: comes back with the connection to send it on, or waits for one that is dialed.
    pub(super) fn handle_transmit(
        &mut self,
        node: NodeId,
        address: SocketAddr,
        bytes: Vec<u8>,
        now: Instant,
    ) -> Option<(LinkId, Vec<u8>)> {
        if let Some(Held { link, is_down, .. }) = self.held.get(&node).copied() {
            if is_down {
                // Another process may live there by now, which knows nothing of this connection; it would last until nothing
                // was heard on it for too long. Where it is the same one, it hears this at once.
                self.want(address, Some(node), now, now);
            }
            return Some((link, bytes));
        }
        if let Some(target) = self.want(address, Some(node), now, now) {
            target.waiting.push_back(bytes);
            if target.waiting.len() > WAITING_MAX {
                target.waiting.pop_front();
                self.dropped += 1;
            }
        }
        None
    }

    fn want(
        &mut self,
        address: SocketAddr,
        node: Option<NodeId>,
        at: Instant,
        now: Instant,
    ) -> Option<&mut Target> {
        if self.targets.len() >= TARGETS_MAX && !self.targets.contains_key(&address) {
            self.targets
                .retain(|_, target| target.dialing || target.due.is_some() || target.rested > Some(now));
            if self.targets.len() >= TARGETS_MAX {
                self.dropped += 1;
                return None;
            }
        }
        let target = self.targets.entry(address).or_default();
        target.node = node.or(target.node);
        let soonest = target.rested.map_or(at, |rested| rested.max(at));
        target.due = Some(target.due.map_or(soonest, |due| due.min(soonest)));
        Some(target)
    }

    /// The next address to dial.
    pub(crate) fn poll_dial(&mut self, now: Instant) -> Option<SocketAddr> {
        if self.dialing >= DIALS_MAX {
            return None;
        }
        let is_due = |target: &Target| !target.dialing && target.due.is_some_and(|due| due <= now);
        let (address, target) = self.targets.iter_mut().find(|(_, target)| is_due(target))?;
        (target.dialing, target.due) = (true, None);
        self.dialing += 1;
        Some(*address)
    }

    /// A dial is over; `reached` says whether somebody of this mesh was there whose connection was offered to
    /// [`handle_arrival`](Self::handle_arrival) before.
    pub(crate) fn handle_dialed(&mut self, address: SocketAddr, reached: bool, now: Instant) {
        self.dialing = self.dialing.saturating_sub(1);
        let Some(target) = self.targets.get_mut(&address) else {
            return;
        };
        target.dialing = false;
        target.waiting.clear();
        // A member that somebody else answers for is not there any more.
        let missed = target.node.filter(|node| !self.held.contains_key(node));
        if reached && missed.is_none() {
            self.targets.remove(&address);
            return;
        }
        let rested = now + rest(target.failures, &mut self.chance);
        target.failures = target.failures.saturating_add(1);
        target.rested = Some(rested);
        let still_there = missed.is_some_and(|node| self.members.get(&node) == Some(&address));
        target.due = still_there.then_some(rested);
    }

    /// A connection was greeted.
    pub(super) fn handle_arrival(&mut self, arrival: Arrival, now: Instant) -> Verdict {
        let Arrival { link, life, dialed } = arrival;
        let node = life.node;
        let former = self.held.get(&node).copied();
        if node == self.own || former.is_some_and(|former| !self.is_better(&former, arrival, now)) {
            return Verdict::Duplicate;
        }
        if former.is_none() && self.held.len() >= LINKS_MAX {
            self.dropped += 1;
            return Verdict::Full;
        }
        let mut waiting = VecDeque::new();
        let mut failures = 0;
        // A dial that is under way still ends; of the others only the failures are kept, with the connection.
        self.targets.retain(|_, target| {
            if target.node != Some(node) {
                return true;
            }
            waiting.append(&mut target.waiting);
            target.due = None;
            failures = failures.max(target.failures);
            target.dialing
        });
        let held = Held { link, generation: life.generation, dialed, since: now, failures, is_down: false };
        self.held.insert(node, held);
        Verdict::Keep { replaces: former.map(|former| former.link), waiting }
    }

    fn is_better(&self, former: &Held, new: Arrival, now: Instant) -> bool {
        if former.is_down {
            return true;
        }
        if new.life.generation != former.generation {
            return new.life.generation > former.generation;
        }
        let simultaneous = now.saturating_duration_since(former.since) <= SIMULTANEOUS;
        if former.dialed == new.dialed || !simultaneous {
            return true;
        }
        new.dialed == (self.own > new.life.node)
    }

    /// A connection is over; says whether it stood for the node.
    pub(super) fn handle_closed(&mut self, link: LinkId, node: NodeId, now: Instant) -> bool {
        let Some(held) = self.held.get(&node).copied().filter(|held| held.link == link) else {
            return false;
        };
        self.held.remove(&node);
        if let Some(address) = self.members.get(&node).copied() {
            let stable = now.saturating_duration_since(held.since) >= STABLE_AFTER;
            let failures = if stable { 0 } else { held.failures };
            let rested = now + rest(failures, &mut self.chance);
            if let Some(target) = self.want(address, Some(node), rested, now) {
                (target.failures, target.rested) = (failures.saturating_add(1), Some(rested));
                target.due = target.due.map(|due| due.max(rested));
            }
        }
        true
    }

    /// When [`poll_dial`](Self::poll_dial) has something next.
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.dialing >= DIALS_MAX {
            return None; // until one is over
        }
        let waiting = self.targets.values().filter(|target| !target.dialing);
        waiting.filter_map(|target| target.due).min().map(|due| (due, "dial"))
    }

    /// Members connected now.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

/// A pause after so many failures, somewhere in the upper half of its length, so that peers do not meet in step.
fn rest(failures: u32, chance: &mut Chance) -> Duration {
    let whole = REST_MIN.saturating_mul(1 << failures.min(16)).min(REST_MAX);
    whole / 2 + Duration::from_micros(chance.below(whole.as_micros() as u64 / 2))
}

#[cfg(test)]
mod tests;
