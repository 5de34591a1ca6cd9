//! How soon a killed node gets no attempts any more, from those who talked to it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::scenario::{Fault, Scenario};

/// A client keeps a connection that it does not use for so long.
const CONNECTION_KEPT: Duration = Duration::from_secs(60);

/// A node is killed this often ...
const KILL_PERIOD: Duration = Duration::from_secs(10);
/// ... and starts again after this time.
const DEAD_FOR: Duration = Duration::from_secs(9);

impl Scenario {
    /// The same, and one node after the other is killed and comes back.
    #[must_use]
    pub fn with_kills(mut self) -> Self {
        let deaths = (self.duration.as_secs() / KILL_PERIOD.as_secs()) as u16;
        for death in 0..deaths {
            // Another stride than that of the slow nodes, so that those die, too.
            let (node, at) = (death * 5 % self.nodes, KILL_PERIOD * u32::from(death));
            self.faults.extend([(at, Fault::Kill(node)), (at + DEAD_FOR, Fault::Restart(node))]);
        }
        self
    }
}

/// How a client stood to a node when that was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tie {
    /// It waited for an answer.
    Attempt,
    /// It had a connection, and waited for nothing.
    Connection,
    /// Neither.
    Stranger,
}

#[derive(Debug)]
struct Death {
    at: Instant,
    clients: Vec<Parting>,
}

/// How a client left a node that was killed.
#[derive(Clone, Copy, Debug)]
struct Parting {
    tie: Tie,
    /// Since when it waited there in vain: from the death, or from its first attempt after it.
    waits_since: Option<Instant>,
    /// When its last attempt there began.
    last: Option<Instant>,
}

/// The deaths of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unrouted {
    /// To the last attempt that a client began there, from the kill and from when it first waited in vain, each in order;
    /// zero where there was none.
    lasts: BTreeMap<Tie, [Vec<Duration>; 2]>,
}

/// From when the time is counted to a client's last attempt at a dead node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// From the kill.
    Death,
    /// From when it waited there in vain: before its first attempt it has no way to know, but from others.
    Wait,
}

impl Unrouted {
    /// Clients of such a tie, all deaths together, and the quantile (0 to 1) of their last attempts.
    #[must_use]
    pub fn last(&self, tie: Tie, since: Since, quantile: f64) -> (usize, Duration) {
        let lasts = self.lasts.get(&tie).map_or(&[][..], |lasts| &lasts[since as usize]);
        let at = (quantile * lasts.len().saturating_sub(1) as f64).round() as usize;
        (lasts.len(), lasts.get(at).copied().unwrap_or_default())
    }

    fn add(&mut self, death: &Death) {
        for Parting { tie, waits_since, last } in &death.clients {
            let after = |since: Option<Instant>| {
                let times = last.zip(since);
                times.map(|(last, since)| last.saturating_duration_since(since)).unwrap_or_default()
            };
            let [from_death, from_wait] = self.lasts.entry(*tie).or_default();
            from_death.push(after(Some(death.at)));
            from_wait.push(after(*waits_since));
        }
    }
}

impl fmt::Display for Unrouted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<24} {:>7} {:>8} {:>8} {:>8} {:>21} {:>8}",
            "last attempt at a killed",
            "clients",
            "p50 ms",
            "p99 ms",
            "most ms",
            "of its wait: p99 ms",
            "most ms"
        )?;
        for (tie, name) in [
            (Tie::Attempt, "who waited for it"),
            (Tie::Connection, "who was connected"),
            (Tie::Stranger, "nobody to it"),
        ] {
            let ms = |since, quantile| self.last(tie, since, quantile).1.as_millis();
            let (clients, most) = self.last(tie, Since::Death, 1.0);
            let [p50, p99] = [0.5, 0.99].map(|quantile| ms(Since::Death, quantile));
            let most = most.as_millis();
            let [wait_p99, wait_most] = [0.99, 1.0].map(|quantile| ms(Since::Wait, quantile));
            write!(f, "\n{name:<24} {clients:>7} {p50:>8} {p99:>8} {most:>8} {wait_p99:>21} {wait_most:>8}")?;
        }
        Ok(())
    }
}

/// Watches who sends to the dead.
#[derive(Debug, Default)]
pub(super) struct DeathWatch {
    /// When a client last used its connection to a node.
    used: BTreeMap<(u16, u16), Instant>,
    deaths: BTreeMap<u16, Death>,
    over: Unrouted,
}

impl DeathWatch {
    /// A client sent to a node, or heard of it.
    pub(super) fn handle_used(&mut self, client: u16, node: u16, now: Instant) {
        self.used.insert((client, node), now);
    }

    /// A node is dead. `waits` says whether a client waited for it.
    pub(super) fn handle_death(
        &mut self,
        node: u16,
        clients: u16,
        waits: impl Fn(u16) -> bool,
        now: Instant,
    ) {
        let is_connected = |client| {
            let used = self.used.get(&(client, node));
            used.is_some_and(|used| now.saturating_duration_since(*used) < CONNECTION_KEPT)
        };
        let tie = |client| match (waits(client), is_connected(client)) {
            (true, _) => Tie::Attempt,
            (false, true) => Tie::Connection,
            (false, false) => Tie::Stranger,
        };
        let parting = |client| {
            let tie = tie(client);
            Parting { tie, waits_since: (tie == Tie::Attempt).then_some(now), last: None }
        };
        let clients = (0..clients).map(parting).collect();
        self.deaths.insert(node, Death { at: now, clients });
    }

    /// A client begins an attempt; if the node is dead, since when the client waits there in vain.
    pub(super) fn handle_attempt(&mut self, client: u16, node: u16, now: Instant) -> Option<Instant> {
        let parting = self.deaths.get_mut(&node)?.clients.get_mut(usize::from(client))?;
        parting.last = Some(now);
        Some(*parting.waits_since.get_or_insert(now))
    }

    /// The node lives again.
    pub(super) fn handle_start(&mut self, node: u16) {
        self.used.retain(|(_, used), _| *used != node);
        if let Some(death) = self.deaths.remove(&node) {
            self.over.add(&death);
        }
    }

    /// What it came to.
    pub(super) fn figures(&self) -> Unrouted {
        let mut figures = self.over.clone();
        self.deaths.values().for_each(|death| figures.add(death));
        figures.lasts.values_mut().flatten().for_each(|lasts| lasts.sort_unstable());
        figures
    }
}
