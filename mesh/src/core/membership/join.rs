//! When to look for company: at the start, after a renewal, and whenever nobody is left.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::parameters::{JOIN_PERIOD, JOIN_PERIOD_MAX, JOIN_ROUNDS, REJOIN_AFTER, SEED_PERIOD};

/// The schedule of announcements, and the seeds.
#[derive(Debug)]
pub(super) struct Join {
    seeds: Vec<SocketAddr>,
    /// The seed that is offered next.
    turn: usize,
    rounds_left: u32,
    period: Duration,
    round_at: Instant,
    seed_at: Instant,
    was_alone: bool,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Announce to connected peers; alone: also dial all seeds and ask the dead.
    Round { alone: bool },
    /// Dial the next seed that is no member.
    Seed,
}

impl Join {
    pub(super) fn new(seeds: Vec<SocketAddr>, now: Instant) -> Self {
        Self {
            seeds,
            turn: 0,
            rounds_left: JOIN_ROUNDS,
            period: JOIN_PERIOD,
            round_at: now,
            seed_at: now + SEED_PERIOD,
            was_alone: true,
        }
    }

    pub(super) fn seeds(&self) -> &[SocketAddr] {
        &self.seeds
    }

    /// The first seed, in turn, that `wanted` holds for.
    pub(super) fn next_seed(&mut self, wanted: impl Fn(&SocketAddr) -> bool) -> Option<SocketAddr> {
        let count = self.seeds.len();
        let at = (0..count).map(|step| (self.turn + step) % count).find(|at| wanted(&self.seeds[*at]))?;
        self.turn = (at + 1) % count;
        Some(self.seeds[at])
    }

    /// This node has a new generation, which the others must learn.
    pub(super) fn handle_renewed(&mut self, now: Instant) {
        (self.rounds_left, self.period) = (JOIN_ROUNDS, JOIN_PERIOD);
        self.round_at = now + REJOIN_AFTER;
    }

    /// Whether anybody is left, as of now.
    pub(super) fn handle_company(&mut self, alone: bool, now: Instant) {
        if alone && !self.was_alone {
            self.period = JOIN_PERIOD;
            self.round_at = self.round_at.min(now + JOIN_PERIOD).max(now);
        }
        self.was_alone = alone;
    }

    pub(super) fn next(&self) -> Instant {
        if self.was_alone || self.rounds_left > 0 { self.round_at.min(self.seed_at) } else { self.seed_at }
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<Due> {
        let alone = self.was_alone;
        if (alone || self.rounds_left > 0) && self.round_at <= now {
            self.rounds_left = self.rounds_left.saturating_sub(1);
            self.round_at = now + self.period;
            if self.rounds_left == 0 {
                self.period = (self.period * 2).min(JOIN_PERIOD_MAX);
            }
            return Some(Due::Round { alone });
        }
        if self.seed_at <= now {
            self.seed_at = now + SEED_PERIOD;
            return Some(Due::Seed);
        }
        None
    }
}
