//! Which connections a client has and when it dials. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shoal_protocol::NodeId;

use crate::core::Chance;

/// Nodes to which there is a connection, a dial, or a pause after one that failed. Beyond it the one that was not used
/// for longest gives way, and where all are in use an attempt goes through the entry node.
pub(super) const LINKS_MAX: usize = 256;
/// A connection that nothing was sent on for so long, and on which nothing is under way, is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A connection is replaced after half of this at the earliest: until then it goes on with the certificates of its
/// handshake, and a node's may have been replaced. Not all at once.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// First pause after a dial that failed; doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause: who comes back is used again soon, and a dial a second costs nothing.
const PAUSE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Stand {
    /// The last dial failed; none before this.
    Failed {
        until: Instant,
    },
    Dialing,
    Up {
        until: Instant,
    },
}

#[derive(Debug)]
struct Tie {
    stand: Stand,
    /// Dials that failed, one after the other.
    failures: u32,
    used: Instant,
}

/// What is to be done for somebody who wants to reach a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Use the connection, or wait for the dial that runs.
    Have,
    /// Dial, instead of what there was.
    Dial,
    /// Nothing now: the last dial failed a moment ago.
    Pause,
    /// There is no room.
    Full,
}

#[derive(Debug)]
pub(super) struct LinkTable {
    ties: BTreeMap<NodeId, Tie>,
    chance: Chance,
}

impl LinkTable {
    pub(super) fn new(chance: u64) -> Self {
        Self { ties: BTreeMap::new(), chance: Chance::new(chance) }
    }

    /// Somebody wants to reach the node. `is_busy` tells of connections on which something is under way; with a
    /// [`Wish::Dial`] may come a node whose connection gives way.
    pub(super) fn handle_wish(
        &mut self,
        node: NodeId,
        is_busy: impl Fn(NodeId) -> bool,
        now: Instant,
    ) -> (Wish, Option<NodeId>) {
        let Some(tie) = self.ties.get_mut(&node) else {
            let evicted = if self.ties.len() < LINKS_MAX { None } else { self.victim(is_busy) };
            if self.ties.len() >= LINKS_MAX && evicted.is_none() {
                return (Wish::Full, None);
            }
            evicted.and_then(|evicted| self.ties.remove(&evicted));
            self.ties.insert(node, Tie { stand: Stand::Dialing, failures: 0, used: now });
            return (Wish::Dial, evicted);
        };
        tie.used = now;
        let wish = match tie.stand {
            Stand::Dialing => Wish::Have,
            Stand::Up { until } if now < until => Wish::Have,
            Stand::Failed { until } if now < until => Wish::Pause,
            Stand::Up { .. } | Stand::Failed { .. } => {
                tie.stand = Stand::Dialing;
                Wish::Dial
            }
        };
        (wish, None)
    }

    /// Of those that can be spared the one that was not used for longest; failures first.
    fn victim(&self, is_busy: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let spare = self.ties.iter().filter(|(node, tie)| match tie.stand {
            Stand::Failed { .. } => true,
            Stand::Dialing => false,
            Stand::Up { .. } => !is_busy(**node),
        });
        let rank = |tie: &Tie| (matches!(tie.stand, Stand::Up { .. }), tie.used);
        spare.min_by_key(|(_, tie)| rank(tie)).map(|(node, _)| *node)
    }

    /// A connection to the node stands.
    pub(super) fn handle_up(&mut self, node: NodeId, now: Instant) {
        let half_s = AGE_MAX.as_secs() / 2;
        let age = Duration::from_secs(half_s + self.chance.below(half_s));
        self.ties.insert(node, Tie { stand: Stand::Up { until: now + age }, failures: 0, used: now });
    }

    /// The dial failed.
    pub(super) fn handle_failed(&mut self, node: NodeId, now: Instant) {
        let Some(tie) = self.ties.get_mut(&node) else {
            return;
        };
        let pause = PAUSE_FIRST.saturating_mul(1 << tie.failures.min(16)).min(PAUSE_MAX);
        let jitter = Duration::from_micros(self.chance.below(pause.as_micros() as u64 / 2));
        tie.failures = tie.failures.saturating_add(1);
        tie.stand = Stand::Failed { until: now + pause - jitter };
    }

    /// The connection is over, or not to be used any more.
    pub(super) fn handle_lost(&mut self, node: NodeId) {
        self.ties.remove(&node);
    }

    /// Whether a connection on which nothing is under way has been idle for too long.
    pub(super) fn is_idle(&self, node: NodeId, now: Instant) -> bool {
        self.ties.get(&node).is_none_or(|tie| now.saturating_duration_since(tie.used) >= IDLE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&number.to_be_bytes());
        NodeId(id)
    }

    #[expect(clippy::disallowed_methods, reason = "any instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn wish(table: &mut LinkTable, number: usize, now: Instant) -> Wish {
        table.handle_wish(node(number), |_| false, now).0
    }

    #[test]
    fn a_node_is_dialed_once_and_again_after_pauses_that_grow() {
        let (mut table, mut now) = (LinkTable::new(1), start());
        let mut pauses = Vec::new();
        assert_eq!(wish(&mut table, 1, now), Wish::Dial);
        for _ in 0..8 {
            assert_eq!(wish(&mut table, 1, now), Wish::Have, "one dial at a time");
            table.handle_failed(node(1), now);
            let failed = now;
            while wish(&mut table, 1, now) == Wish::Pause {
                now += Duration::from_millis(1);
            }
            pauses.push(now - failed);
        }
        assert!(pauses[0] <= PAUSE_FIRST && pauses[7] > PAUSE_MAX / 2, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX + Duration::from_millis(1)), "{pauses:?}");
    }

    #[test]
    fn connections_end_before_their_certificates_could_be_old_and_not_all_at_once() {
        let (mut table, now) = (LinkTable::new(1), start());
        let mut young = 0;
        for number in 0..100 {
            assert_eq!(wish(&mut table, number, now), Wish::Dial);
            table.handle_up(node(number), now);
            assert_eq!(wish(&mut table, number, now + AGE_MAX / 2), Wish::Have);
            young += usize::from(wish(&mut table, number, now + AGE_MAX * 3 / 4) == Wish::Have);
            assert_ne!(table.handle_wish(node(number), |_| false, now + AGE_MAX).0, Wish::Pause);
        }
        assert!((25..75).contains(&young), "{young}");
    }

    #[test]
    fn the_least_used_gives_way_and_nobody_who_works() {
        let (mut table, now) = (LinkTable::new(1), start());
        for number in 0..LINKS_MAX {
            let at = now + Duration::from_secs(number as u64);
            assert_eq!(wish(&mut table, number, at), Wish::Dial);
            table.handle_up(node(number), at);
        }
        let later = now + Duration::from_secs(1000);
        let busy = |id: NodeId| id == node(0);
        assert_eq!(table.handle_wish(node(9000), busy, later), (Wish::Dial, Some(node(1))));
        assert_eq!(table.handle_wish(node(9001), |_| true, later), (Wish::Full, None));
        table.handle_failed(node(9000), later);
        assert_eq!(table.handle_wish(node(9001), busy, later), (Wish::Dial, Some(node(9000))));
    }

    #[test]
    fn an_idle_connection_is_told_from_a_used_one() {
        let (mut table, now) = (LinkTable::new(1), start());
        table.handle_up(node(1), now);
        assert!(!table.is_idle(node(1), now + IDLE_MAX / 2));
        assert!(table.is_idle(node(1), now + IDLE_MAX));
        assert_eq!(wish(&mut table, 1, now + IDLE_MAX / 2), Wish::Have);
        assert!(!table.is_idle(node(1), now + IDLE_MAX));
        table.handle_lost(node(1));
        assert!(table.is_idle(node(1), now));
    }
}
