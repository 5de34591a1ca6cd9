//! The devices of a node, as those see them that outlive their restarts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shoal_protocol::message::LoadRecord;
use shoal_protocol::{Bytes, DeviceIndex};
use tokio::sync::oneshot;

use super::NodeService;
use crate::actors::device::{DeviceMsg, DeviceReport, Published};
use crate::actors::supervisor::DeviceSlot;
use crate::clock;
use crate::config::DeviceName;

/// One device.
pub(crate) struct NodeDevice {
    /// Its place in the node's list.
    pub(crate) index: DeviceIndex,
    /// As the configuration calls it.
    pub(crate) kind: DeviceName,
    /// For example `cpu avx512-bf16`.
    pub(crate) name: String,
    /// Why this device and not a better one.
    pub(crate) reason: String,
    /// Threads of the device, and lanes.
    pub(crate) threads: u16,
    /// Its residency budget.
    pub(crate) resident_bytes_max: Bytes,
    /// Where its actor is reached.
    pub(crate) slot: DeviceSlot,
    /// How it stands.
    pub(crate) published: Arc<Published>,
}

impl NodeDevice {
    /// What it tells about itself; `None` while it is being restarted.
    pub(super) async fn report(&self) -> Option<DeviceReport> {
        let (reply, report) = oneshot::channel();
        self.slot.send(DeviceMsg::Report(reply)).ok()?;
        report.await.ok()
    }
}

impl NodeService {
    /// A device of the node.
    pub(crate) fn device(&self, index: DeviceIndex) -> Option<&NodeDevice> {
        self.devices.get(usize::from(index.0))
    }

    /// The device that a model is on, or would be as far as that is decided.
    pub(crate) fn home(&self, name: &str) -> &NodeDevice {
        let made = self.fronts.get(name).and_then(|front| self.device(front.device));
        let chosen = || {
            let chosen = self.facts.placed.get(name)?;
            self.devices.iter().find(|device| device.kind == *chosen)
        };
        let is_gpu = |device: &&NodeDevice| device.kind != DeviceName::Cpu;
        made.or_else(chosen).or_else(|| self.devices.iter().find(is_gpu)).unwrap_or(&self.devices[0])
    }

    /// A device's load now, numbered; `None` while it is being restarted.
    pub(crate) fn load_of(&self, device: &NodeDevice) -> Option<LoadRecord> {
        let now = clock::now();
        let load = device.published.load(now).filter(|_| device.slot.is_up())?;
        Some(LoadRecord {
            sequence: self.sequence.at(now),
            draining: load.draining || self.is_draining.load(Ordering::Acquire),
            ..load
        })
    }

    /// The loads of the devices that are running.
    pub(crate) fn loads(&self) -> impl Iterator<Item = LoadRecord> {
        self.devices.iter().filter_map(|device| self.load_of(device))
    }
}
