//! The records of everybody, and the dead that shall not return.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use shoal_protocol::NodeId;
use shoal_protocol::message::{FactsDelta, FactsVersion, NodeFacts};

use super::super::member::Life;
use super::delta::{apply, bytes, is_normal, normalize};
use super::interface::FactsRefused;
use super::parameters::{RECORDS_BYTES_MAX, RECORDS_MAX, TOMBSTONE_TTL, TOMBSTONES_MAX};

/// What a record or a delta did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is held now.
    Changed,
    /// It is not newer than what is held.
    Stale,
    /// It changes a version that is not held.
    Gap,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    records: BTreeMap<NodeId, Arc<NodeFacts>>,
    bytes: usize,
    /// The highest dead generation of a node, and until when that is remembered.
    tombs: BTreeMap<NodeId, (u64, Instant)>,
}

/// Which state of which life a record is.
pub(super) fn version(record: &NodeFacts) -> FactsVersion {
    FactsVersion { node: record.node, generation: record.generation, version: record.version }
}

impl Held {
    pub(super) fn get(&self, node: NodeId) -> Option<&Arc<NodeFacts>> {
        self.records.get(&node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<NodeFacts>> {
        self.records.values()
    }

    /// What is held of a node's record (version 0: nothing).
    pub(super) fn have(&self, node: NodeId) -> FactsVersion {
        let nothing = FactsVersion { node, generation: 0, version: 0 };
        self.get(node).map_or(nothing, |record| version(record))
    }

    /// Whether `theirs` is newer than what is held, and not dead.
    pub(super) fn lacks(&self, theirs: &FactsVersion) -> bool {
        *theirs > self.have(theirs.node) && !self.is_dead(theirs.node, theirs.generation)
    }

    fn is_dead(&self, node: NodeId, generation: u64) -> bool {
        self.tombs.get(&node).is_some_and(|(dead, _)| generation <= *dead)
    }

    pub(super) fn accept(&mut self, record: impl Into<Arc<NodeFacts>>) -> Result<Effect, FactsRefused> {
        let mut record = record.into();
        let (node, generation) = (record.node, record.generation);
        if self.is_dead(node, generation) {
            return Err(FactsRefused::Dead(Life { node, generation }));
        }
        if version(&record) <= self.have(node) {
            return Ok(Effect::Stale);
        }
        if !is_normal(&record) {
            normalize(Arc::make_mut(&mut record));
        }
        record.check()?;
        self.put(record)?;
        Ok(Effect::Changed)
    }

    pub(super) fn apply(&mut self, delta: &FactsDelta) -> Result<Effect, FactsRefused> {
        let FactsDelta { node, generation, base_version, version, .. } = *delta;
        if self.is_dead(node, generation) {
            return Err(FactsRefused::Dead(Life { node, generation }));
        }
        if (FactsVersion { node, generation, version }) <= self.have(node) {
            return Ok(Effect::Stale);
        }
        let Some(base) =
            self.get(node).filter(|base| (base.generation, base.version) == (generation, base_version))
        else {
            return Ok(Effect::Gap);
        };
        let next = apply(base, delta);
        next.check()?;
        self.put(Arc::new(next))?;
        Ok(Effect::Changed)
    }

    /// Holds a record in place of the former one of its node. Where it does not fit, neither is held: an old state
    /// that can no longer follow its owner would be wrong for good.
    pub(super) fn put(&mut self, record: Arc<NodeFacts>) -> Result<(), FactsRefused> {
        let (node, size) = (record.node, bytes(&record));
        self.remove(node);
        if self.records.len() >= RECORDS_MAX {
            return Err(FactsRefused::Full("records of as many nodes as can be held"));
        }
        if self.bytes + size > RECORDS_BYTES_MAX {
            return Err(FactsRefused::Full("bytes of records"));
        }
        self.bytes += size;
        self.records.insert(node, record);
        Ok(())
    }

    /// Forgets a record, as if it had never come. Whether there was one.
    pub(super) fn remove(&mut self, node: NodeId) -> bool {
        let removed = self.records.remove(&node);
        self.bytes -= removed.as_ref().map_or(0, |record| bytes(record));
        removed.is_some()
    }

    /// A life is over. Whether its record was held.
    pub(super) fn bury(&mut self, life: Life, now: Instant) -> bool {
        let Life { node, generation } = life;
        if !self.tombs.contains_key(&node) && self.tombs.len() >= TOMBSTONES_MAX {
            let soonest = self.tombs.iter().min_by_key(|(_, (_, until))| *until).map(|(node, _)| *node);
            soonest.and_then(|node| self.tombs.remove(&node));
        }
        let tomb = self.tombs.entry(node).or_insert((generation, now));
        *tomb = (tomb.0.max(generation), now + TOMBSTONE_TTL);
        self.get(node).is_some_and(|record| record.generation <= generation) && self.remove(node)
    }

    /// Forgets tombs whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.tombs.retain(|_, (_, until)| *until > now);
    }
}
