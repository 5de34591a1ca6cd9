//! What a node tells the mesh about itself, from memory: facts, and answers to probes.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shoal_mesh::OwnFacts;
use shoal_protocol::message::{DeviceFact, LoadProbe, LoadReply, ModelFact, ModelState, ModelStatus};
use shoal_protocol::{Bytes, Micros};

use super::{NodeDevice, NodeService};
use crate::actors::device::Shelf;
use crate::clock;

impl NodeService {
    /// The answer to a probe; `None`: there is no such device, or none now.
    pub(crate) fn reply_to(&self, probe: &LoadProbe) -> Option<LoadReply> {
        let device = self.device(probe.device)?;
        let load = self.load_of(device)?;
        let now = clock::now();
        let shelf = device.published.shelf();
        let name = self.canonical(&probe.model).unwrap_or_else(|| probe.model.clone());
        let standing = shelf.models.get(name.as_str());
        Some(LoadReply {
            nonce: probe.nonce,
            load,
            model: self.state_of(&name, device, &shelf),
            ready_in_us: standing.map_or(Duration::ZERO, |standing| standing.ready_in(now)).into(),
        })
    }

    /// Where a model stands on a device; `None`: it is not there.
    pub(super) fn state_of(&self, canonical: &str, device: &NodeDevice, shelf: &Shelf) -> Option<ModelState> {
        let standing = shelf.models.get(canonical);
        let is_home = || self.home(canonical).index == device.index;
        let stored = || (self.is_installed(canonical) && is_home()).then_some(ModelState::Stored);
        let state = standing.map(|standing| standing.state).or_else(stored)?;
        let is_refused =
            state == ModelState::Stored && self.fronts.refused().borrow().contains_key(canonical);
        Some(if is_refused { ModelState::Failed } else { state })
    }

    fn is_leaving(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// The name by which a model's owners call it, if this node knows it.
    pub(super) fn canonical(&self, name: &str) -> Option<String> {
        if let Some(front) = self.fronts.get(name) {
            return Some(front.name.to_string());
        }
        let mut known = self.facts.known.iter();
        let found = known.find(|known| known.name == name || known.aliases.iter().any(|alias| alias == name));
        found.map(|known| known.name.clone())
    }

    /// Whether a model of the catalogue lies here. What is in no list was asked for and found.
    fn is_installed(&self, name: &str) -> bool {
        let known = self.facts.known.iter().find(|known| known.name == name);
        known.map_or_else(|| self.fronts.get(name).is_some(), |known| known.dir.is_some())
    }

    /// What this node tells the mesh about itself: its running devices, what it has on disk for them, and where each model
    /// stands. `speeds` are those that its devices claim, in tokens/s and in their order.
    pub(crate) fn own_facts(&self, addresses: [SocketAddr; 2], speeds: &[u32]) -> OwnFacts {
        let [peer, client] = addresses.map(|address| vec![address.to_string()]);
        let running: Vec<_> = self.devices.iter().filter(|device| self.load_of(device).is_some()).collect();
        let device = |device: &&NodeDevice| DeviceFact {
            device: device.index,
            name: device.name.clone(),
            budget_bytes: device.resident_bytes_max,
            tokens_per_s: speeds.get(usize::from(device.index.0)).copied().unwrap_or_default(),
        };
        let is_told = |model: &ModelStatus| self.is_installed(&model.name);
        let models = self.model_statuses().into_iter().filter(is_told);
        // A model that a device without life would have to load is not to be had here. A lone device is listed with what it
        // had, as it comes back soon.
        let at_home = models.filter_map(|model| {
            let home = self.home(&model.name);
            let is_running = running.iter().any(|device| device.index == home.index);
            (is_running || self.devices.len() == 1).then(|| self.model_fact(model, home))
        });
        OwnFacts {
            peer_addresses: peer,
            client_addresses: client,
            draining: self.is_leaving() || self.loads().any(|load| load.draining),
            devices: running.iter().map(device).collect(),
            models: at_home.collect(),
        }
    }

    fn model_fact(&self, model: ModelStatus, home: &NodeDevice) -> ModelFact {
        let shelf = home.published.shelf();
        let known = self.facts.known.iter().find(|known| known.name == model.name);
        let on_disk = Bytes(known.map_or(0, |known| known.bytes));
        let bytes = if model.bytes == Bytes::ZERO { on_disk } else { model.bytes };
        let estimated = || {
            let us = u128::from(bytes.0) * 1_000_000 / u128::from(shelf.load_bytes_per_s.max(1));
            Duration::from_micros(u64::try_from(us).unwrap_or(u64::MAX))
        };
        let standing = shelf.models.get(model.name.as_str());
        ModelFact {
            load_us: Micros::from(standing.map_or_else(estimated, |standing| standing.load_time)),
            name: model.name,
            aliases: model.aliases,
            device: home.index,
            state: model.state,
            numerics: model.numerics,
            bytes,
        }
    }
}

/// The speed that a device claims: it weighs in who owns a model, so that it must not follow every batch. It is taken up
/// anew where the measured one is half as much again, or two thirds.
pub(crate) fn claimed_speed(claimed: u32, measured: u32) -> u32 {
    let (claimed_at, measured_at) = (u64::from(claimed), u64::from(measured));
    let is_near = measured_at * 2 < claimed_at * 3 && claimed_at * 2 < measured_at * 3;
    if is_near || measured == 0 { claimed } else { measured }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_speed_follows_only_what_is_another() {
        assert_eq!(claimed_speed(0, 0), 0);
        assert_eq!(claimed_speed(0, 900), 900);
        assert_eq!(claimed_speed(900, 0), 900, "unknown is no speed");
        assert_eq!(claimed_speed(900, 1_349), 900);
        assert_eq!(claimed_speed(900, 1_350), 1_350);
        assert_eq!(claimed_speed(900, 601), 900);
        assert_eq!(claimed_speed(900, 600), 600);
        assert_eq!(claimed_speed(u32::MAX, 1), 1);
    }
}
