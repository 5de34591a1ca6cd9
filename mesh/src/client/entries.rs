//! Whom to follow when the node that was followed is gone. Pure.

use std::time::Duration;

use shoal_protocol::NodeId;

use crate::core::Chance;

/// Nodes asked in one round beside the addresses that the application gave.
const KNOWN_MAX: usize = 8;
/// First pause between two rounds; doubles. The first round comes at once.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Where to look for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At a node that is known.
    Node(NodeId),
    /// At the addresses that the application gave, whoever is there.
    Given,
}

#[derive(Debug)]
pub(super) struct Entries {
    rounds: u32,
    chance: Chance,
}

impl Entries {
    pub(super) fn new(chance: u64) -> Self {
        Self { rounds: 0, chance: Chance::new(chance) }
    }

    /// A feed came to the point where all was told: the next search starts at once.
    pub(super) fn handle_settled(&mut self) {
        self.rounds = 0;
    }

    /// The next round: the pause before it, and whom to ask in which order. Nodes that are connected come first because
    /// they answer at once, then the given addresses, then other nodes; `lost` comes last, if it is known. Many clients
    /// lose their entry at the same moment: each goes its own way.
    pub(super) fn round(
        &mut self,
        lost: NodeId,
        connected: Vec<NodeId>,
        known: Vec<NodeId>,
    ) -> (Duration, Vec<Place>) {
        let pause = match self.rounds {
            0 => Duration::ZERO,
            rounds => {
                let most = PAUSE_FIRST.saturating_mul(1 << (rounds - 1).min(16)).min(PAUSE_MAX);
                most - Duration::from_micros(self.chance.below(most.as_micros() as u64 / 2))
            }
        };
        self.rounds = self.rounds.saturating_add(1);
        let is_other = |node: &NodeId| *node != lost;
        let near = self.some(connected.iter().copied().filter(is_other).collect());
        let is_far = |node: &NodeId| is_other(node) && !connected.contains(node);
        let far = self.some(known.iter().copied().filter(is_far).collect());
        let last = known.contains(&lost).then_some(lost);
        let nodes = |nodes: Vec<NodeId>| nodes.into_iter().map(Place::Node);
        let places = nodes(near).chain([Place::Given]).chain(nodes(far)).chain(last.map(Place::Node));
        (pause, places.collect())
    }

    /// Some of them in an order of our own.
    fn some(&mut self, mut nodes: Vec<NodeId>) -> Vec<NodeId> {
        let taken = nodes.len().min(KNOWN_MAX);
        for at in 0..taken {
            let other = at + self.chance.below((nodes.len() - at) as u64) as usize;
            nodes.swap(at, other);
        }
        nodes.truncate(taken);
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    #[test]
    fn who_answers_at_once_is_asked_first_and_who_is_lost_last() {
        let mut entries = Entries::new(1);
        let known = vec![node(1), node(2), node(3)];
        let (pause, places) = entries.round(node(1), vec![node(1), node(3)], known);
        assert_eq!(pause, Duration::ZERO);
        let expected = [Place::Node(node(3)), Place::Given, Place::Node(node(2)), Place::Node(node(1))];
        assert_eq!(places, expected);
        assert_eq!(entries.round(node(1), vec![], vec![]).1, [Place::Given], "a client that knows nobody");
    }

    #[test]
    fn rounds_are_bounded_and_their_pauses_grow_until_somebody_is_found() {
        let mut entries = Entries::new(1);
        let known: Vec<_> = (0..200).map(node).collect();
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            let (pause, places) = entries.round(node(255), vec![], known.clone());
            assert_eq!(places.len(), KNOWN_MAX + 1);
            longest = longest.max(pause);
        }
        assert!((PAUSE_MAX / 2..=PAUSE_MAX).contains(&longest), "{longest:?}");
        entries.handle_settled();
        assert_eq!(entries.round(node(255), vec![], known).0, Duration::ZERO);
    }

    #[test]
    fn clients_that_lose_the_same_entry_go_different_ways() {
        let known: Vec<_> = (0..200).map(node).collect();
        let first = |seed| Entries::new(seed).round(node(255), known.clone(), known.clone()).1[0];
        let firsts: std::collections::BTreeSet<_> =
            (0..20).map(|seed| format!("{:?}", first(seed))).collect();
        assert!(firsts.len() > 15, "{firsts:?}");
    }
}
