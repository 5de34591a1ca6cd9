//! What one follower is told: the difference between what a node knows and what it told this follower already.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::limits::{UPDATE_LOADS_MAX, UPDATE_MEMBERS_MAX};
use shoal_protocol::message::{
    FactsDigest, FactsVersion, LoadRecord, MemberLife, MeshUpdate, NodeFacts, NodeLoad,
};
use shoal_protocol::{DeviceIndex, Message, Micros, NodeId};

use super::super::member::{Life, MemberState};
use super::delta::between;
use super::held::version;

/// Loads of the mesh go to a follower at most this often ...
const LOADS_PERIOD_MIN: Duration = Duration::from_secs(1);
/// ... and so far apart that there are no more than this many records a second, 5 kB: they filter a shortlist, and what
/// binds a choice is a probe.
const LOADS_PER_SECOND: u32 = 64;

/// A follower is told something at least this often, if only that there is nothing new: so it can tell a silent node from a
/// quiet mesh.
const ALIVE_PERIOD: Duration = Duration::from_millis(500);
/// A follower that is told nothing for so long should look for another node: three periods are not lost to a busy machine.
pub const FEED_SILENCE_MAX: Duration = Duration::from_millis(1500);

/// What was told of a node's facts. Without the record (the follower brought it) the next change is told whole.
#[derive(Debug)]
struct Told {
    version: FactsVersion,
    record: Option<Arc<NodeFacts>>,
}

/// One follower's side of the mesh. The owner hands it what is known whenever that changed and sends what
/// [`poll_message`](Self::poll_message) gives, in order and reliably; how late it does either costs nothing but time,
/// because only the latest state of everything waits here.
#[derive(Debug, Default)]
pub struct Feed {
    members_told: BTreeMap<NodeId, (u64, MemberState)>,
    members: BTreeMap<NodeId, MemberLife>,
    facts_told: BTreeMap<NodeId, Told>,
    facts: BTreeMap<NodeId, Arc<NodeFacts>>,
    loads_told: BTreeMap<(NodeId, DeviceIndex), Instant>,
    loads: BTreeMap<(NodeId, DeviceIndex), (LoadRecord, Instant)>,
    loads_at: Option<Instant>,
    /// When something was told last.
    told_at: Option<Instant>,
    /// Whether the follower was told that it was told everything.
    is_settled: bool,
}

impl Feed {
    /// The feed of a follower that holds these records already.
    #[must_use]
    pub fn new(holds: &FactsDigest) -> Self {
        let told = |entry: &FactsVersion| (entry.node, Told { version: *entry, record: None });
        Self { facts_told: holds.entries.iter().map(told).collect(), ..Self::default() }
    }

    /// A life is seen so now.
    pub fn handle_member(&mut self, life: Life, state: MemberState) {
        let Life { node, generation } = life;
        if self.members_told.get(&node) == Some(&(generation, state)) {
            self.members.remove(&node);
        } else {
            self.members.insert(node, MemberLife { node, generation, state });
        }
    }

    /// A node's record is this one now.
    pub fn handle_facts(&mut self, record: &Arc<NodeFacts>) {
        let is_news = |told: &Told| told.version < version(record);
        if self.facts_told.get(&record.node).is_none_or(is_news) {
            self.facts.insert(record.node, Arc::clone(record));
        }
    }

    /// A device's last load record, and when it came.
    pub fn handle_load(&mut self, node: NodeId, load: &LoadRecord, heard: Instant) {
        let device = (node, load.device);
        if self.loads_told.get(&device).is_none_or(|told| *told < heard) {
            self.loads.insert(device, (*load, heard));
        }
    }

    /// Forgets what was told of nodes that are not known any more, so that this is as bounded as what is known.
    pub fn forget(&mut self, is_known: impl Fn(NodeId) -> bool) {
        self.members_told.retain(|node, _| is_known(*node));
        self.facts_told.retain(|node, _| is_known(*node));
        self.loads_told.retain(|(node, _), _| is_known(*node));
    }

    /// The next message for the follower: lives first, because facts of the dead are refused, then records and changes,
    /// then, when it is time, loads; and where there is nothing for too long, that there is nothing.
    pub fn poll_message(&mut self, now: Instant) -> Option<Message> {
        let alive = || Message::MeshUpdate(MeshUpdate::default());
        let is_silent = self.told_at.is_some_and(|told| now >= told + ALIVE_PERIOD);
        let message = self.poll_news(now).or_else(|| is_silent.then(alive))?;
        self.told_at = Some(now);
        Some(message)
    }

    fn poll_news(&mut self, now: Instant) -> Option<Message> {
        if !self.members.is_empty() {
            let members = self.take_members();
            return Some(Message::MeshUpdate(MeshUpdate { members, ..MeshUpdate::default() }));
        }
        if let Some((node, record)) = self.facts.pop_first() {
            let told = Told { version: version(&record), record: Some(Arc::clone(&record)) };
            let base = self.facts_told.insert(node, told).and_then(|told| told.record);
            let base = base.filter(|base| base.generation == record.generation);
            return Some(match base.and_then(|base| between(&base, &record)) {
                Some(delta) => Message::FactsDelta(Box::new(delta)),
                None => Message::Facts(Box::new(Arc::unwrap_or_clone(record))),
            });
        }
        let is_due = self.loads_due().is_some_and(|at| at <= now);
        let settled = !std::mem::replace(&mut self.is_settled, true);
        (is_due || settled).then(|| {
            let loads = if is_due { self.take_loads(now) } else { Vec::new() };
            Message::MeshUpdate(MeshUpdate { loads, settled, ..MeshUpdate::default() })
        })
    }

    /// When there is something to tell although nothing happens, and what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let loads = self.loads_due().map(|at| (at, "loads"));
        let alive = self.told_at.map(|told| (told + ALIVE_PERIOD, "that the node lives"));
        [loads, alive].into_iter().flatten().min()
    }

    /// When loads may be told that wait.
    fn loads_due(&self) -> Option<Instant> {
        let (_, heard) = self.loads.values().next()?;
        Some(self.loads_at.unwrap_or(*heard))
    }

    /// What was told and is remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.members_told.len() + self.facts_told.len() + self.loads_told.len()
    }

    fn take_members(&mut self) -> Vec<MemberLife> {
        let mut taken = Vec::new();
        while taken.len() < UPDATE_MEMBERS_MAX
            && let Some((node, life)) = self.members.pop_first()
        {
            self.members_told.insert(node, (life.generation, life.state));
            taken.push(life);
        }
        taken
    }

    fn take_loads(&mut self, now: Instant) -> Vec<NodeLoad> {
        let mut taken = Vec::new();
        while taken.len() < UPDATE_LOADS_MAX
            && let Some((device, (load, heard))) = self.loads.pop_first()
        {
            self.loads_told.insert(device, heard);
            let age_us = Micros::from(now.saturating_duration_since(heard));
            taken.push(NodeLoad { node: device.0, load, age_us });
        }
        if self.loads.is_empty() {
            let told = u32::try_from(self.loads_told.len()).unwrap_or(u32::MAX);
            self.loads_at =
                Some(now + LOADS_PERIOD_MIN.max(Duration::from_secs(1) * told / LOADS_PER_SECOND));
        }
        taken
    }
}
