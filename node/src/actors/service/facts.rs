//! What a node tells the mesh about itself, from memory: facts, and answers to probes.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shoal_mesh::OwnFacts;
use shoal_protocol::message::{
    DeviceFact, LoadProbe, LoadRecord, LoadReply, ModelFact, ModelState, ModelStatus,
};
use shoal_protocol::{Bytes, Micros};

use super::{DEVICE, NodeService};
use crate::actors::device::Shelf;
use crate::clock;

impl NodeService {
    /// The device's load now, numbered; `None` while it is being restarted.
    pub(crate) fn load(&self) -> Option<LoadRecord> {
        let now = clock::now();
        let load = self.published.load(now).filter(|_| self.slot.is_up())?;
        Some(LoadRecord {
            sequence: self.sequence.at(now),
            draining: load.draining || self.is_leaving(),
            ..load
        })
    }

    /// The answer to a probe; `None`: there is no such device, or none now.
    pub(crate) fn reply_to(&self, probe: &LoadProbe) -> Option<LoadReply> {
        let load = self.load().filter(|load| load.device == probe.device)?;
        let now = clock::now();
        let shelf = self.published.shelf();
        let name = self.canonical(&probe.model).unwrap_or_else(|| probe.model.clone());
        let standing = shelf.models.get(name.as_str());
        Some(LoadReply {
            nonce: probe.nonce,
            load,
            model: self.state_of(&name, &shelf),
            ready_in_us: standing.map_or(Duration::ZERO, |standing| standing.ready_in(now)).into(),
        })
    }

    /// Where a model stands on the device; `None`: it is not here.
    pub(super) fn state_of(&self, canonical: &str, shelf: &Shelf) -> Option<ModelState> {
        let standing = shelf.models.get(canonical);
        let stored = || self.is_installed(canonical).then_some(ModelState::Stored);
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

    /// What this node tells the mesh about itself: what it has on disk, and where each model stands. `tokens_per_s` is
    /// the speed that it claims.
    pub(crate) fn own_facts(&self, addresses: [SocketAddr; 2], tokens_per_s: u32) -> OwnFacts {
        let shelf = self.published.shelf();
        let load = self.load();
        let [peer, client] = addresses.map(|address| vec![address.to_string()]);
        let device = DeviceFact {
            device: DEVICE,
            name: self.facts.device_name.clone(),
            budget_bytes: self.facts.resident_bytes_max,
            tokens_per_s,
        };
        let models = self.model_statuses(&shelf).into_iter().filter(|model| self.is_installed(&model.name));
        OwnFacts {
            peer_addresses: peer,
            client_addresses: client,
            draining: self.is_leaving() || load.is_some_and(|load| load.draining),
            devices: load.is_some().then_some(device).into_iter().collect(),
            models: models.map(|model| self.model_fact(model, &shelf)).collect(),
        }
    }

    fn model_fact(&self, model: ModelStatus, shelf: &Shelf) -> ModelFact {
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
            device: DEVICE,
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
