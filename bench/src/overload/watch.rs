//! What the nodes hold over time: their queues against the bounds, and the memory of this process.

use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;
use shoal_protocol::message::DeviceStatus;

use super::ground::Ground;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(50);

/// The highest that was seen of one node's bounded queues, and their bounds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct HighWater {
    pub(super) queue_tokens: u64,
    pub(super) queue_tokens_max: u64,
    pub(super) admitted_bytes: u64,
    pub(super) admitted_bytes_max: u64,
    pub(super) requests: u32,
    pub(super) shed: u64,
}

impl HighWater {
    pub(super) fn is_within_bounds(&self) -> bool {
        self.queue_tokens <= self.queue_tokens_max && self.admitted_bytes <= self.admitted_bytes_max
    }

    fn rise_to(&mut self, device: &DeviceStatus) {
        let (load, gauges) = (&device.load, &device.gauges);
        self.queue_tokens = self.queue_tokens.max(load.queue_tokens);
        self.queue_tokens_max = gauges.queue_tokens_max.0;
        self.admitted_bytes = self.admitted_bytes.max(gauges.admitted_bytes.0);
        self.admitted_bytes_max = gauges.admitted_bytes_max.0;
        self.requests = self.requests.max(load.requests);
        self.shed = gauges.shed;
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By node.
    pub(super) high_water: Vec<HighWater>,
    /// Resident bytes of this process, and when.
    pub(super) resident_bytes: Vec<(Duration, u64)>,
}

/// Looks until it is dropped.
pub(super) async fn watch(ground: &Ground, began: Instant, seen: &mut Seen) {
    seen.high_water.resize(ground.nodes.len(), HighWater::default());
    loop {
        for (node, high_water) in ground.nodes.iter().zip(&mut seen.high_water) {
            node.status(false).await.devices.iter().for_each(|device| high_water.rise_to(device));
        }
        seen.resident_bytes.extend(resident_bytes().map(|bytes| (began.elapsed(), bytes)));
        tokio::time::sleep(PERIOD).await;
    }
}

/// `VmRSS` of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
