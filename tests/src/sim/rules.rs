//! Rules about what processes know of each other.

use std::collections::BTreeMap;

use shoal_mesh::core::Life;
use shoal_protocol::NodeId;
use shoal_protocol::message::FactsVersion;

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
