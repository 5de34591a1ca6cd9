//! What one client or node knows of the mesh: who is there, which model stands where, how loaded each device is.
//!
//! Facts come from their owners (by way of the Facts machine), lives from membership, loads from gossip, probes and
//! answers, and doubts from what this process itself saw. Nothing is decided here: the router asks.

mod doubt;
mod listing;
mod models;
mod node;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shoal_protocol::message::{LoadRecord, ModelFact, NodeFacts};
use shoal_protocol::{DeviceIndex, NodeId};

use super::member::{Life, MemberState};
pub use listing::{ListedModel, ListedPlace};
pub(crate) use models::{Holding, ModelView};
use models::{Models, digest};
pub(crate) use node::{Device, Node, Standing};
use node::{Listed, ListedFact};

/// Nodes known at once, dead ones included: eight cells of 512. A new node then takes the place of the one that is
/// down longest, or is not taken up where none is down.
const NODES_MAX: usize = 4096;
/// Model places (a model on a device) known at once: 512 nodes with 512 models each. Beyond it a record's further
/// places are not taken up, those on disk first, and counted in [`View::places_dropped`].
const PLACES_MAX: usize = 1 << 18;

/// A node's place in [`View::nodes`]; reused after the node was forgotten.
pub(crate) type NodeSlot = u32;

/// The mesh as seen from here. Kept up to date record by record: a record costs about what it changes.
#[derive(Debug, Default)]
pub struct View {
    slots: BTreeMap<NodeId, NodeSlot>,
    nodes: Vec<Node>,
    models: Models,
    places: usize,
    places_dropped: u64,
    entry: Option<NodeId>,
    /// Whether the entry node forwards what cannot be sent directly.
    is_forwarding: bool,
    /// When any node last answered a probe.
    answered_at: Option<Instant>,
}

impl View {
    /// A view of one node whose facts are not known yet and which is asked about everything that no facts answer: the
    /// node to which a client is connected.
    #[must_use]
    pub fn of_entry(entry: NodeId) -> Self {
        Self { entry: Some(entry), is_forwarding: true, ..Self::default() }
    }

    /// The same of the node in whose process the view is: what it cannot reach nobody can for it.
    #[must_use]
    pub fn of_home(home: NodeId) -> Self {
        Self { entry: Some(home), ..Self::default() }
    }

    /// Another node is the entry from now on.
    pub(crate) fn handle_entry(&mut self, entry: NodeId) {
        self.entry = Some(entry);
    }

    /// The node that is asked where facts say nothing.
    #[must_use]
    pub fn entry(&self) -> Option<NodeId> {
        self.entry
    }

    /// The nodes that are not known to be gone, by id.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        let is_there = |node: &&NodeId| self.living(**node).is_some();
        self.slots.keys().filter(is_there).copied().collect()
    }

    /// Nodes known, dead ones included.
    #[must_use]
    pub fn nodes_len(&self) -> usize {
        self.nodes.len()
    }

    /// Model places known.
    #[must_use]
    pub fn places_len(&self) -> usize {
        self.places
    }

    /// Places that found no room.
    #[must_use]
    pub fn places_dropped(&self) -> u64 {
        self.places_dropped
    }

    /// Where clients reach a node (`host:port`, in order of preference).
    #[must_use]
    pub fn client_addresses(&self, node: NodeId) -> &[String] {
        self.find(node).map_or(&[], |node| &node.client_addresses)
    }

    /// A node's own record, whole; whether it was news. A record of an earlier life, of a dead one, or not newer than
    /// what is known changes nothing.
    pub fn handle_facts(&mut self, facts: &NodeFacts, now: Instant) -> bool {
        let life = Life { node: facts.node, generation: facts.generation };
        let Some(slot) = self.slot_of(life, now) else {
            return false;
        };
        let node = &mut self.nodes[slot as usize];
        if node.state == MemberState::Down || facts.version <= node.version {
            return false;
        }
        node.version = facts.version;
        node.draining = facts.draining;
        node.set_devices(&facts.devices);
        node.client_addresses.clone_from(&facts.client_addresses);
        self.set_models(slot, facts);
        true
    }

    /// What membership says about a life of a node; whether it changed anything. Down is the last word on a life, and
    /// a word on an earlier life is none.
    pub fn handle_member(&mut self, life: Life, state: MemberState, now: Instant) -> bool {
        let known = |view: &Self| view.find(life.node).map(|node| (node.generation, node.state));
        let before = known(self);
        let Some(slot) = self.slot_of(life, now) else {
            return false;
        };
        let node = &mut self.nodes[slot as usize];
        if node.state != MemberState::Down && node.state != state {
            node.state = state;
            node.since = now;
            if state == MemberState::Down {
                self.clear(slot);
            }
        }
        before != known(self)
    }

    /// The node is not heard of any more: nothing of what it said holds, until it says it again.
    pub fn handle_forgotten(&mut self, node: NodeId) {
        if let Some(&slot) = self.slots.get(&node) {
            self.clear(slot);
        }
    }

    /// A device's load, as gossiped; whether it was newer than what is known.
    pub fn handle_load(&mut self, node: NodeId, record: &LoadRecord, now: Instant) -> bool {
        self.set_load(node, record, false, now)
    }

    /// A device's load, as it answered just now.
    pub(crate) fn handle_answer(&mut self, node: NodeId, record: &LoadRecord, now: Instant) -> bool {
        self.set_load(node, record, true, now)
    }

    fn set_load(&mut self, node: NodeId, record: &LoadRecord, is_answer: bool, now: Instant) -> bool {
        let Some(node) = self.find_mut(node) else {
            return false;
        };
        let is_news = node.set_load(record, is_answer, now);
        node.draining |= is_news && record.draining;
        is_news
    }

    /// The node itself said that it is leaving.
    pub fn handle_draining(&mut self, node: NodeId) {
        if let Some(node) = self.find_mut(node) {
            node.draining = true;
        }
    }

    /// This process waited for the node in vain: for a while others are preferred.
    pub fn handle_doubt(&mut self, node: NodeId, now: Instant) {
        if let Some(node) = self.find_mut(node) {
            node.doubt.handle_failed(now);
        }
    }

    /// No connection to the node could be made: what follows goes through the entry node, for as long as this life of it
    /// lasts. Whether that is a new way; if not, there is none.
    pub(crate) fn handle_no_path(&mut self, node: NodeId) -> bool {
        let has_detour = self.has_detour(node);
        self.find_mut(node).is_some_and(|node| has_detour && !std::mem::replace(&mut node.is_indirect, true))
    }

    /// Whether the entry node would forward to it.
    #[must_use]
    pub fn has_detour(&self, node: NodeId) -> bool {
        self.is_forwarding && self.entry.is_some_and(|entry| entry != node)
    }

    /// A connection to the node was made.
    pub(crate) fn handle_path(&mut self, node: NodeId, now: Instant) {
        if let Some(node) = self.find_mut(node) {
            node.is_indirect = false;
            node.doubt.handle_sign(now);
        }
    }

    /// Through whom the node is reached, where it is not reached directly.
    pub(crate) fn via(&self, node: NodeId) -> Option<NodeId> {
        self.entry.filter(|entry| *entry != node && self.find(node).is_some_and(|node| node.is_indirect))
    }

    /// An attempt begins that is for the node.
    pub(crate) fn handle_attempt(&mut self, node: NodeId, now: Instant) {
        if let Some(node) = self.find_mut(node) {
            node.attempted_at = Some(now);
            node.doubt.handle_attempt(now);
        }
    }

    /// A probe is sent to the node.
    pub(crate) fn handle_probe(&mut self, node: NodeId, now: Instant) {
        let answered_at = self.answered_at;
        // To one that is reached through another no probe leads.
        if let Some(node) = self.find_mut(node).filter(|node| !node.is_indirect) {
            node.doubt.handle_probe(answered_at, now);
        }
    }

    /// The node answered a probe, after this time where that is known.
    pub(crate) fn handle_answered(&mut self, node: NodeId, round_trip: Option<Duration>, now: Instant) {
        self.answered_at = Some(now);
        if let Some(node) = self.find_mut(node) {
            node.doubt.handle_sign(now);
            round_trip.into_iter().for_each(|measured| node.set_round_trip(measured));
        }
    }

    /// When the last attempt began that was for this life of the node.
    #[must_use]
    pub fn attempted_at(&self, node: NodeId) -> Option<Instant> {
        self.find(node)?.attempted_at
    }

    /// A frame of an attempt came from the node.
    pub(crate) fn handle_frame(&mut self, node: NodeId) {
        if let Some(node) = self.find_mut(node) {
            node.doubt.handle_frame();
        }
    }

    /// Work was sent to a device: it is added to what the last record says until a newer one comes.
    pub(crate) fn handle_sent(&mut self, holding: &Holding, tokens: u64) {
        let node = self.nodes.get_mut(holding.slot as usize);
        if let Some(device) = node.and_then(|node| node.device_mut(holding.device)) {
            device.handle_sent(tokens);
        }
    }

    /// The node, whatever its state.
    pub(crate) fn find(&self, node: NodeId) -> Option<&Node> {
        let slot = self.slots.get(&node)?;
        self.nodes.get(*slot as usize)
    }

    fn find_mut(&mut self, node: NodeId) -> Option<&mut Node> {
        let slot = self.slots.get(&node)?;
        self.nodes.get_mut(*slot as usize)
    }

    /// The generation of the node's life, while it lasts.
    pub(crate) fn living(&self, node: NodeId) -> Option<u64> {
        let node = self.find(node)?;
        (node.state != MemberState::Down).then_some(node.generation)
    }

    /// The node in a slot that a [`Holding`] names.
    pub(crate) fn node(&self, slot: NodeSlot) -> &Node {
        &self.nodes[slot as usize]
    }

    /// Whether any node that is not gone has said what it has.
    pub(crate) fn has_facts(&self) -> bool {
        self.nodes.iter().any(Node::has_facts)
    }

    /// The device that a holding names; `None` where its owner lists a model on a device that it does not list.
    pub(crate) fn device(&self, holding: &Holding) -> Option<&Device> {
        self.node(holding.slot).device(holding.device)
    }

    /// A model by its name, or by another name that some node gives it.
    pub(crate) fn model(&self, name: &str) -> Option<ModelView<'_>> {
        self.models.find(name)
    }

    /// The slot of this life of the node; an earlier life gives way to it. `None` for an earlier life than the one
    /// known, or where there is no room.
    fn slot_of(&mut self, life: Life, now: Instant) -> Option<NodeSlot> {
        if let Some(&slot) = self.slots.get(&life.node) {
            let known = self.nodes[slot as usize].generation;
            if life.generation > known {
                self.clear(slot);
                self.nodes[slot as usize] = Node::new(life, now);
            }
            return (life.generation >= known).then_some(slot);
        }
        let slot = if self.nodes.len() < NODES_MAX {
            self.nodes.push(Node::new(life, now));
            self.nodes.len() - 1
        } else {
            let down = (0..self.nodes.len()).filter(|slot| self.nodes[*slot].state == MemberState::Down);
            let slot = down.min_by_key(|slot| self.nodes[*slot].since)?;
            self.slots.remove(&self.nodes[slot].id);
            self.nodes[slot] = Node::new(life, now);
            slot
        };
        let slot = slot as NodeSlot;
        self.slots.insert(life.node, slot);
        Some(slot)
    }

    /// Replaces the models of a node by those of its record: what costs is what changed.
    fn set_models(&mut self, slot: NodeSlot, facts: &NodeFacts) {
        let node = &mut self.nodes[slot as usize];
        let Listed { places: mut before, mut aliases } = std::mem::take(&mut node.listed);
        self.places -= before.len();
        let room = PLACES_MAX - self.places;
        let facts = one_a_place(&facts.models, room);
        self.places_dropped += facts.len().saturating_sub(room) as u64;
        let (mut places, mut news) = (Vec::with_capacity(facts.len().min(room)), Vec::new());
        let mut stays = vec![false; before.len()];
        for fact in facts.into_iter().take(room) {
            let digest = digest(node, fact);
            match before.binary_search_by_key(&digest, |place| place.digest) {
                Ok(at) => {
                    stays[at] = true;
                    places.push(before[at]);
                }
                Err(_) => news.push((digest, fact)),
            }
        }
        // What is left of `before` says something else now, or is gone.
        let mut stays = stays.into_iter();
        before.retain(|_| !stays.next().unwrap_or(false));
        before.sort_unstable_by_key(ListedFact::at);
        let is_among = |places: &[ListedFact], at| places.binary_search_by_key(&at, ListedFact::at).is_ok();
        let mut changed = Vec::with_capacity(news.len());
        let mut aliases_new = Vec::new();
        for (digest, fact) in news {
            let (model, device) = (self.models.intern(&fact.name), fact.device);
            let is_known = is_among(&before, (model, device));
            self.models.put(model, Holding::new(slot, node, fact), is_known);
            changed.push(ListedFact { digest, model, device });
            let named = fact.aliases.iter().map(|alias| (self.models.add_alias(alias, model), model, device));
            aliases_new.extend(named);
        }
        for (alias, model, _) in aliases.extract_if(.., |(_, model, at)| is_among(&before, (*model, *at))) {
            self.models.drop_alias(&alias, model);
        }
        changed.sort_unstable_by_key(ListedFact::at);
        for gone in before.iter().filter(|place| !is_among(&changed, place.at())) {
            self.models.remove(gone.model, slot, gone.device);
        }
        places.append(&mut changed);
        places.sort_unstable_by_key(|place| place.digest);
        aliases.append(&mut aliases_new);
        aliases.shrink_to_fit();
        self.places += places.len();
        self.nodes[slot as usize].listed = Listed { places, aliases };
    }

    /// Forgets what a life had: its models, devices and loads.
    fn clear(&mut self, slot: NodeSlot) {
        let Listed { places, aliases } = self.nodes[slot as usize].clear();
        self.places -= places.len();
        for (alias, model, _) in aliases {
            self.models.drop_alias(&alias, model);
        }
        for place in places {
            self.models.remove(place.model, slot, place.device);
        }
    }
}

/// The facts, one for each place; where there is no room for all, those in use come before those on disk.
fn one_a_place(facts: &[ModelFact], room: usize) -> Vec<&ModelFact> {
    fn key(fact: &ModelFact) -> (&str, DeviceIndex) {
        (&fact.name, fact.device)
    }
    let mut facts: Vec<_> = facts.iter().collect();
    // Records that the Facts machine holds are in this order.
    if !facts.is_sorted_by(|a, b| key(a) < key(b)) {
        facts.sort_by(|a, b| key(a).cmp(&key(b)));
        facts.dedup_by(|a, b| key(a) == key(b));
    }
    if facts.len() > room {
        facts.sort_by_key(|fact| (std::cmp::Reverse(fact.state), fact.device));
    }
    facts
}

#[cfg(test)]
mod tests;
