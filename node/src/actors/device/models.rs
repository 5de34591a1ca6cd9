//! The models that a device knows, by the core's keys, and the weights of those that are resident.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::actors::backend::Weights;
use crate::actors::front::Front;
use crate::core::{DeviceCore, ModelKey, ModelSpec};
use shoal_kernels::{DtypePolicy, ModelDescription};

struct Model {
    front: Arc<Front>,
    weights: Option<Arc<Weights>>,
    failure: Option<Arc<str>>,
}

/// The registered models. A name keeps its key for the device's life.
#[derive(Default)]
pub(super) struct Models {
    keys: BTreeMap<Arc<str>, ModelKey>,
    models: Vec<(ModelKey, Model)>,
}

impl Models {
    /// The key of a model, registered now if it is new. A front that was made anew takes the place of the old one.
    pub(super) fn register(&mut self, core: &mut DeviceCore, front: &Arc<Front>) -> ModelKey {
        if let Some(&key) = self.keys.get(&front.name) {
            let model = &mut self.models[key.index()].1;
            if !Arc::ptr_eq(&model.front, front) {
                model.front = Arc::clone(front);
            }
            return key;
        }
        let key =
            core.register_model(ModelSpec { bytes_estimate: front.bytes_estimate, pinned: front.pinned });
        self.keys.insert(Arc::clone(&front.name), key);
        self.models.push((key, Model { front: Arc::clone(front), weights: None, failure: None }));
        key
    }

    /// The key of a model that is registered.
    pub(super) fn find(&self, name: &str) -> Option<ModelKey> {
        self.keys.get(name).copied()
    }

    /// What to load.
    pub(super) fn source(&self, key: ModelKey) -> (Arc<ModelDescription>, DtypePolicy) {
        let front = &self.models[key.index()].1.front;
        (Arc::clone(&front.description), front.policy)
    }

    pub(super) fn put(&mut self, key: ModelKey, weights: Arc<Weights>) {
        let model = &mut self.models[key.index()].1;
        model.weights = Some(weights);
        model.failure = None;
    }

    pub(super) fn take(&mut self, key: ModelKey) -> Option<Arc<Weights>> {
        self.models[key.index()].1.weights.take()
    }

    pub(super) fn weights(&self, key: ModelKey) -> Option<Arc<Weights>> {
        self.models[key.index()].1.weights.clone()
    }

    /// Remembers why the last load failed.
    pub(super) fn note_failure(&mut self, key: ModelKey, reason: Arc<str>) {
        self.models[key.index()].1.failure = Some(reason);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.models.len()
    }

    /// Every model with its name and why its last load failed, in order of registration.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ModelKey, &Arc<str>, Option<&Arc<str>>)> {
        self.models.iter().map(|(key, model)| (*key, &model.front.name, model.failure.as_ref()))
    }
}
