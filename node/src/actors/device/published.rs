//! What anybody may read of a device without asking its actor: probes, gossip and facts do.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use shoal_protocol::message::{LoadRecord, ModelState};
use shoal_protocol::{Bytes, Micros};
use tokio::sync::watch;

use super::models::Models;
use crate::core::{DeviceCore, ModelKey};

/// A model as its device sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelStanding {
    /// Where it stands.
    pub(crate) state: ModelState,
    /// Measured bytes, zero unless ready.
    pub(crate) bytes: Bytes,
    /// Time of a load: measured once it was loaded, else by the speed of other loads.
    pub(crate) load_time: Duration,
    /// When it is expected to be ready, while it loads.
    pub(crate) ready_at: Option<Instant>,
    /// Why its last load failed.
    pub(crate) failure: Option<Arc<str>>,
}

impl ModelStanding {
    fn of(core: &DeviceCore, key: ModelKey, failure: Option<&Arc<str>>, now: Instant) -> Self {
        let state = core.model_state(key);
        let is_loading = state == ModelState::Loading;
        Self {
            state,
            bytes: core.model_bytes(key),
            load_time: core.load_time(key),
            ready_at: is_loading.then(|| now + core.load_eta(key, now)),
            failure: failure.cloned(),
        }
    }

    /// Time until it is ready, while it loads; else zero.
    pub(crate) fn ready_in(&self, now: Instant) -> Duration {
        self.ready_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

/// The models of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shelf {
    /// Those that it was asked for, by canonical name.
    pub(crate) models: BTreeMap<Arc<str>, ModelStanding>,
    /// Speed of its loads, by which the load of any other is estimated; 0 until the device has said anything.
    pub(crate) load_bytes_per_s: u64,
}

/// A device's load and when it was so.
#[derive(Clone, Copy, Debug)]
struct Measured {
    record: LoadRecord,
    at: Instant,
}

/// Rung whenever a device of the node publishes something new.
#[derive(Clone, Debug)]
pub(crate) struct Bells {
    loads: watch::Sender<()>,
    shelves: watch::Sender<()>,
}

impl Default for Bells {
    fn default() -> Self {
        Self { loads: watch::Sender::new(()), shelves: watch::Sender::new(()) }
    }
}

impl Bells {
    /// Tells of every change of a load.
    pub(crate) fn loads(&self) -> watch::Receiver<()> {
        self.loads.subscribe()
    }

    /// Tells of every change of a model.
    pub(crate) fn shelves(&self) -> watch::Receiver<()> {
        self.shelves.subscribe()
    }
}

/// What a device publishes after everything that it does. Outlives its restarts.
#[derive(Debug)]
pub(crate) struct Published {
    load: RwLock<Option<Measured>>,
    shelf: RwLock<Arc<Shelf>>,
    bells: Bells,
}

impl Published {
    /// Nothing yet.
    pub(crate) fn new(bells: Bells) -> Self {
        Self { load: RwLock::default(), shelf: RwLock::default(), bells }
    }

    fn set_load(&self, load: Option<Measured>) {
        *self.load.write().unwrap_or_else(PoisonError::into_inner) = load;
        self.bells.loads.send_replace(());
    }

    fn set_shelf(&self, shelf: Shelf) {
        *self.shelf.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shelf);
        self.bells.shelves.send_replace(());
    }

    /// The device stands so now.
    pub(super) fn update(&self, core: &DeviceCore, models: &Models, now: Instant) {
        self.set_load(Some(Measured { record: core.load_record(now), at: now }));
        let is_news = {
            let shelf = self.shelf();
            let known = |(key, name, failure): (ModelKey, &Arc<str>, Option<&Arc<str>>)| {
                shelf.models.get(name).is_some_and(|standing| {
                    standing.state == core.model_state(key) && standing.failure.as_ref() == failure
                })
            };
            // A device says how fast it loads before anybody asks it for a model: others weigh its loads by that.
            let is_first = shelf.load_bytes_per_s == 0;
            is_first || shelf.models.len() != models.len() || !models.iter().all(known)
        };
        if is_news {
            let standings = models
                .iter()
                .map(|(key, name, failure)| (Arc::clone(name), ModelStanding::of(core, key, failure, now)));
            let load_bytes_per_s = core.load_bytes_per_s();
            self.set_shelf(Shelf { models: standings.collect(), load_bytes_per_s });
        }
    }

    /// The device has failed: nothing is loaded, and its load is unknown until its successor has started.
    pub(crate) fn clear(&self) {
        self.set_load(None);
        self.set_shelf(Shelf::default());
    }

    /// The device's load now; `None` while there is none. What it has worked through since it said so is taken off.
    pub(crate) fn load(&self, now: Instant) -> Option<LoadRecord> {
        let Measured { record, at } = (*self.load.read().unwrap_or_else(PoisonError::into_inner))?;
        let since = Micros::from(now.saturating_duration_since(at)).0;
        Some(LoadRecord { wait_us: record.wait_us.saturating_sub(since), ..record })
    }

    /// The models now.
    pub(crate) fn shelf(&self) -> Arc<Shelf> {
        Arc::clone(&self.shelf.read().unwrap_or_else(PoisonError::into_inner))
    }
}
