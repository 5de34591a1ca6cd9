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
    /// How each client stood to it, and when after the death that began its last attempt there.
    clients: Vec<(Tie, Duration)>,
}

/// The deaths of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unrouted {
    /// From a kill to the last attempt that a client began there, in order; zero where there was none.
    lasts: BTreeMap<Tie, Vec<Duration>>,
}

impl Unrouted {
    /// Clients of such a tie, all deaths together, and the quantile (0 to 1) of their last attempts.
    #[must_use]
    pub fn last(&self, tie: Tie, quantile: f64) -> (usize, Duration) {
        let lasts = self.lasts.get(&tie).map_or(&[][..], Vec::as_slice);
        let at = (quantile * lasts.len().saturating_sub(1) as f64).round() as usize;
        (lasts.len(), lasts.get(at).copied().unwrap_or_default())
    }
}

impl fmt::Display for Unrouted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<24} {:>7} {:>8} {:>8} {:>8}",
            "last attempt at a killed", "clients", "p50 ms", "p99 ms", "most ms"
        )?;
        for (tie, name) in [
            (Tie::Attempt, "who waited for it"),
            (Tie::Connection, "who was connected"),
            (Tie::Stranger, "nobody to it"),
        ] {
            let ms = |quantile| self.last(tie, quantile).1.as_millis();
            let (clients, most) = self.last(tie, 1.0);
            write!(f, "\n{name:<24} {clients:>7} {:>8} {:>8} {:>8}", ms(0.5), ms(0.99), most.as_millis())?;
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
        let clients = (0..clients).map(|client| (tie(client), Duration::ZERO)).collect();
        self.deaths.insert(node, Death { at: now, clients });
    }

    /// A client begins an attempt, perhaps at a node that is dead.
    pub(super) fn handle_attempt(&mut self, client: u16, node: u16, now: Instant) {
        if let Some(death) = self.deaths.get_mut(&node)
            && let Some((_, last)) = death.clients.get_mut(usize::from(client))
        {
            *last = now.saturating_duration_since(death.at);
        }
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
        figures.lasts.values_mut().for_each(|lasts| lasts.sort_unstable());
        figures
    }
}

impl Unrouted {
    fn add(&mut self, death: &Death) {
        for (tie, last) in &death.clients {
            self.lasts.entry(*tie).or_default().push(*last);
        }
    }
}
