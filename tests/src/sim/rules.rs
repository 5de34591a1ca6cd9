//! Rules about what processes know of each other.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use shoal_mesh::core::Life;
use shoal_protocol::NodeId;
use shoal_protocol::message::{FactsVersion, NodeFacts};

/// The lives that each process was told to be over.
#[derive(Debug, Default)]
pub struct Graves {
    /// The highest dead generation, by observer and node.
    dead: BTreeMap<(u16, NodeId), u64>,
}

impl Graves {
    /// An observer was told that a life is over.
    pub fn bury(&mut self, observer: u16, life: Life) {
        let dead = self.dead.entry((observer, life.node)).or_default();
        *dead = life.generation.max(*dead);
    }

    /// An observer started anew and knows of no death.
    pub fn forget(&mut self, observer: u16) {
        self.dead.retain(|(other, _), _| *other != observer);
    }

    /// What is wrong where an observer holds a life for alive: the dead do not return without a higher generation.
    #[must_use]
    pub fn rises(&self, observer: u16, life: Life) -> Option<String> {
        let dead = self.dead.get(&(observer, life.node)).filter(|dead| life.generation <= **dead)?;
        let Life { node, generation } = life;
        Some(format!("{observer} sees node {node} again at generation {generation}, dead at {dead}"))
    }
}

/// What is wrong where somebody holds other records than there are.
#[must_use]
pub fn disagreement(who: &str, truth: &[FactsVersion], held: &[FactsVersion]) -> Option<String> {
    let missing = truth.iter().find(|record| !held.contains(record));
    let foreign = held.iter().find(|record| !truth.contains(record));
    match (missing, foreign) {
        (None, None) => None,
        (Some(missing), _) => Some(format!("{who} does not hold {missing:?}")),
        (None, Some(foreign)) => Some(format!("{who} still holds {foreign:?}")),
    }
}

/// What a node says of itself is known to everybody who can be reached after this time, whatever else happened.
pub(super) const CONVERGED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether it is.
const LOOK_PERIOD: Duration = Duration::from_secs(5);

/// Which state of which life a record is.
pub(super) fn version(record: &NodeFacts) -> FactsVersion {
    FactsVersion { node: record.node, generation: record.generation, version: record.version }
}

/// What each node last said of itself, and when.
#[derive(Debug, Default)]
pub struct Converging {
    said: BTreeMap<NodeId, VecDeque<(Instant, FactsVersion)>>,
    looked_at: Option<Instant>,
}

impl Converging {
    /// A node published this.
    pub fn handle_said(&mut self, said: FactsVersion, now: Instant) {
        let all = self.said.entry(said.node).or_default();
        // A former life may be buried before the new one is heard of.
        all.retain(|(_, former)| former.generation == said.generation);
        all.push_back((now, said));
    }

    /// A node is gone: what it said is of no matter.
    pub fn handle_gone(&mut self, node: NodeId) {
        self.said.remove(&node);
    }

    /// Whether it is time for another look.
    pub(super) fn is_time(&mut self, now: Instant) -> bool {
        let is_time = self.looked_at.is_none_or(|at| now >= at + LOOK_PERIOD);
        self.looked_at = if is_time { Some(now) } else { self.looked_at };
        is_time
    }

    /// The newest of what each node said long enough ago.
    pub fn due(&mut self, now: Instant) -> Vec<FactsVersion> {
        let is_due = |said: &(Instant, FactsVersion)| said.0 + CONVERGED_WITHIN <= now;
        for said in self.said.values_mut() {
            while said.get(1).is_some_and(is_due) {
                said.pop_front();
            }
        }
        self.said
            .values()
            .filter_map(|said| said.front().filter(|said| is_due(said)).map(|(_, said)| *said))
            .collect()
    }
}

/// What is wrong where somebody does not hold what is due, or something newer; `held` is in the order of nodes.
#[must_use]
pub fn lag(who: &str, due: &[FactsVersion], held: &[FactsVersion]) -> Option<String> {
    let of = |node| held.binary_search_by_key(&node, |held| held.node).ok().map(|at| held[at]);
    let late = due.iter().find(|due| of(due.node).is_none_or(|held| held < **due))?;
    Some(format!("{who} holds {:?} and not {late:?}, which was said long ago", of(late.node)))
}
