//! Which devices have which model: name -> places, kept incrementally.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::mem::discriminant;
use std::sync::Arc;

use shoal_protocol::DeviceIndex;
use shoal_protocol::message::{ModelFact, ModelState, Numerics};

use super::NodeSlot;
use super::node::{Device, Node};
use crate::core::chance::{mix, unit};

/// A model's place in the index; reused once no node has the model.
pub(crate) type ModelIndex = u32;

/// A model on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Holding {
    pub(crate) slot: NodeSlot,
    pub(crate) device: DeviceIndex,
    pub(crate) state: ModelState,
    pub(crate) numerics: Numerics,
    /// Resident KiB, measured or estimated, rounded up: a mesh knows many places, and each costs its bytes.
    kib: u32,
    /// A load from disk, measured or estimated.
    pub(crate) load_us: u32,
    /// Its score in weighted rendezvous hashing, all but the model's name: see [`Holding::new`].
    rendezvous: f64,
}

impl Holding {
    /// The place that a fact of `node` names.
    ///
    /// Rendezvous hashing (Thaler, Ravishankar 1998) with weights (Schindelhauer, Schomaker 2005): a device draws
    /// `-weight / ln(u)` for each model, `u` in (0, 1) from the hash of both, and owns the models for which it draws the
    /// most: in proportion to its weight, and with as few changes of owner as there can be when devices come and go. The
    /// weight is what holds of the device for its whole life, so that all who look draw the same: room times speed.
    pub(super) fn new(slot: NodeSlot, node: &Node, fact: &ModelFact) -> Self {
        let weight = node.device(fact.device).map_or(1.0, Device::weight);
        let hash = mix(name_hash(&fact.name) ^ mix(node.hash() ^ u64::from(fact.device.0)));
        Self {
            slot,
            device: fact.device,
            state: fact.state,
            numerics: fact.numerics,
            kib: u32::try_from(fact.bytes.0.div_ceil(1024)).unwrap_or(u32::MAX),
            load_us: u32::try_from(fact.load_us.0).unwrap_or(u32::MAX),
            rendezvous: -weight / unit(hash).ln(),
        }
    }

    /// Resident bytes, to the KiB above.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.kib) * 1024
    }

    /// Whether it serves, or will once a load that runs already is done.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.state, ModelState::Ready | ModelState::Loading)
    }

    /// The same place with the state that its device told.
    pub(crate) fn now(self, state: ModelState) -> Self {
        Self { state, ..self }
    }

    /// Whether it is the same device.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        (self.slot, self.device) == (other.slot, other.device)
    }

    /// Highest score first; a place whose last load failed comes after all others. The order must not depend on the
    /// observer: equal scores do not happen with 53 bits of chance, the slot only makes the order total.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        let failed = |holding: &Self| holding.state == ModelState::Failed;
        failed(self)
            .cmp(&failed(other))
            .then(other.rendezvous.total_cmp(&self.rendezvous))
            .then(self.slot.cmp(&other.slot))
            .then(self.device.cmp(&other.device))
    }
}

/// A hash of all that [`Holding::new`] and the index make of a fact. A node that made two of its own collide would only
/// have its own change overlooked.
pub(super) fn digest(node: &Node, fact: &ModelFact) -> u64 {
    let ModelFact { name, aliases, device, state, numerics, bytes, load_us } = fact;
    let weight = node.device(*device).map(|device| device.weight().to_bits());
    let told =
        (name, aliases, device.0, discriminant(state), discriminant(numerics), bytes.0, load_us.0, weight);
    foldhash::quality::FixedState::default().hash_one(told)
}

/// FNV-1a, 64 bits.
fn name_hash(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// One model as the router sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelView<'a> {
    /// Canonical name.
    pub(crate) name: &'a str,
    /// Where it is ready or being loaded.
    pub(crate) holders: &'a [Holding],
    /// Where it is on disk only, by falling score of rendezvous hashing; those whose last load failed come last.
    pub(crate) storers: &'a [Holding],
}

#[derive(Debug)]
struct Model {
    name: Arc<str>,
    /// Those that hold it, then those that have it on disk only; both parts in [`Holding::order`].
    places: Vec<Holding>,
    holders: u32,
}

impl Model {
    fn new(name: Arc<str>) -> Self {
        Self { name, places: Vec::new(), holders: 0 }
    }

    fn parts(&self) -> (&[Holding], &[Holding]) {
        self.places.split_at(self.holders as usize)
    }

    fn position(&self, slot: NodeSlot, device: DeviceIndex) -> Option<usize> {
        self.places.iter().position(|holding| holding.slot == slot && holding.device == device)
    }

    fn insert(&mut self, holding: Holding) {
        let (holders, storers) = self.parts();
        let place = |part: &[Holding]| part.partition_point(|other| other.order(&holding).is_lt());
        let at = if holding.is_held() { place(holders) } else { holders.len() + place(storers) };
        self.holders += u32::from(holding.is_held());
        if self.places.len() == self.places.capacity() {
            self.places.reserve_exact(self.places.len() / 2 + 1); // most lists are short and many: doubling would waste half
        }
        self.places.insert(at, holding);
    }

    fn remove(&mut self, at: usize) {
        self.holders -= u32::from(self.places.remove(at).is_held());
    }
}

/// The index. Names are stored once.
#[derive(Debug, Default)]
pub(super) struct Models {
    names: BTreeMap<Arc<str>, ModelIndex>,
    /// What a name means as an alias, with the number of places that say so.
    aliases: BTreeMap<Arc<str>, (ModelIndex, u32)>,
    /// The same of those aliases about which nodes disagree.
    disputed: BTreeMap<Arc<str>, Vec<(ModelIndex, u32)>>,
    models: Vec<Model>,
    free: Vec<ModelIndex>,
}

impl Models {
    /// A canonical name means itself; an alias means what most places say (the first by index where they are even).
    pub(super) fn find(&self, name: &str) -> Option<ModelView<'_>> {
        let aliased = || {
            let sole = self.aliases.get(name).map(|(model, _)| model);
            let by_places = |meaning: &&(ModelIndex, u32)| (u32::MAX - meaning.1, meaning.0);
            let most = || self.disputed.get(name)?.iter().min_by_key(by_places).map(|(model, _)| model);
            sole.or_else(most)
        };
        let model = self.names.get(name).or_else(aliased)?;
        let model = &self.models[*model as usize];
        let (holders, storers) = model.parts();
        Some(ModelView { name: &model.name, holders, storers })
    }

    /// All canonical names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|name| &**name)
    }

    /// All names that some place uses as an alias, in order of each kind.
    pub(super) fn aliases(&self) -> impl Iterator<Item = &str> {
        self.aliases.keys().chain(self.disputed.keys()).map(|name| &**name)
    }

    /// The index of a name, new or known. The caller puts at least one holding.
    pub(super) fn intern(&mut self, name: &str) -> ModelIndex {
        if let Some(model) = self.names.get(name) {
            return *model;
        }
        let name: Arc<str> = name.into();
        let model = Model::new(name.clone());
        let index = match self.free.pop() {
            Some(index) => {
                self.models[index as usize] = model;
                index
            }
            None => {
                self.models.push(model);
                (self.models.len() - 1) as ModelIndex
            }
        };
        self.names.insert(name, index);
        index
    }

    /// Sets what is known of a model on a device, which may have it already.
    pub(super) fn put(&mut self, index: ModelIndex, holding: Holding, is_known: bool) {
        let model = &mut self.models[index as usize];
        let known = if is_known { model.position(holding.slot, holding.device) } else { None };
        known.into_iter().for_each(|at| model.remove(at));
        model.insert(holding);
    }

    /// The device no longer has the model. A model that nobody has is forgotten.
    pub(super) fn remove(&mut self, index: ModelIndex, slot: NodeSlot, device: DeviceIndex) {
        let model = &mut self.models[index as usize];
        if let Some(at) = model.position(slot, device) {
            model.remove(at);
        }
        if model.places.is_empty() && self.names.remove(&model.name).is_some() {
            *model = Model::new("".into());
            self.free.push(index);
        }
    }

    /// Counts one more place that calls the model so.
    pub(super) fn add_alias(&mut self, alias: &str, model: ModelIndex) -> Arc<str> {
        if let Some((name, _)) = self.disputed.get_key_value(alias) {
            let name = name.clone();
            let meanings = self.disputed.entry(name.clone()).or_default();
            match meanings.iter_mut().find(|(meaning, _)| *meaning == model) {
                Some((_, places)) => *places += 1,
                None => meanings.push((model, 1)),
            }
            return name;
        }
        let Some((name, &(meaning, places))) = self.aliases.get_key_value(alias) else {
            let name: Arc<str> = alias.into();
            self.aliases.insert(name.clone(), (model, 1));
            return name;
        };
        let name = name.clone();
        if meaning == model {
            self.aliases.insert(name.clone(), (model, places + 1));
        } else {
            self.aliases.remove(alias);
            self.disputed.insert(name.clone(), vec![(meaning, places), (model, 1)]);
        }
        name
    }

    /// Counts one place less.
    pub(super) fn drop_alias(&mut self, alias: &Arc<str>, model: ModelIndex) {
        if let Some((meaning, places)) = self.aliases.get_mut(alias) {
            *places -= u32::from(*meaning == model);
            if *places == 0 {
                self.aliases.remove(alias);
            }
            return;
        }
        let Some(meanings) = self.disputed.get_mut(alias) else {
            return;
        };
        if let Some((_, places)) = meanings.iter_mut().find(|(meaning, _)| *meaning == model) {
            *places -= 1;
        }
        meanings.retain(|(_, places)| *places > 0);
        if let [sole] = meanings[..] {
            self.disputed.remove(alias);
            self.aliases.insert(alias.clone(), sole);
        }
    }
}
