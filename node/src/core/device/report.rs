//! What a device tells about itself: beacons, load, gauges.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shoal_protocol::message::{Beacon, GaugeSet, LoadRecord, Phase};
use shoal_protocol::{Bytes, Micros, Tokens};

use super::super::ids::{ModelKey, RequestKey};
use super::DeviceCore;

/// The [`LoadRecord::shed_level`] of a device that refuses of both priorities.
const SHED_BOTH: u8 = 2;

impl DeviceCore {
    /// Where every unfinished request stands: call it every 100-250 ms and send each beacon to its caller. Running
    /// requests come first, then the queue in its order, then those that wait for the tokenizer. Silent while a lane
    /// hangs: a beacon proves progress.
    pub fn for_each_beacon(&self, now: Instant, mut visit: impl FnMut(RequestKey, Beacon)) {
        if self.batcher.is_hung() {
            return;
        }
        let batches_done = self.batcher.batches_done();
        let beacon = |phase, queue_tokens, eta: Duration| Beacon {
            phase,
            queue_tokens,
            batches_done,
            eta_us: eta.into(),
        };
        for (request, left) in self.running_requests(now) {
            visit(request, beacon(Phase::Running, 0, left));
        }
        let mut ahead = 0;
        let mut wait = self.batcher.lane_wait(now);
        for queued in self.batcher.queued() {
            let is_running =
                self.requests.get(queued.request).is_none_or(|request| request.items_running > 0);
            if !is_running && self.residency.is_ready(queued.model) {
                visit(queued.request, beacon(Phase::Queued, ahead, wait));
            } else if !is_running {
                visit(queued.request, beacon(Phase::Loading, ahead, self.residency.eta(queued.model, now)));
            }
            ahead += queued.tokens;
            wait += self.batcher.work_time(queued.model, queued.tokens);
        }
        for (key, _) in self.requests.iter().filter(|(_, request)| request.items_left == 0) {
            visit(key, beacon(Phase::Queued, ahead, wait));
        }
    }

    /// Unfinished requests with items on the device, each with the estimated time until the first of them is done.
    fn running_requests(&self, now: Instant) -> BTreeMap<RequestKey, Duration> {
        let mut running = BTreeMap::new();
        for (item, left) in self.batcher.running_items(now) {
            if self.requests.contains_key(item.request) {
                running
                    .entry(item.request)
                    .and_modify(|held: &mut Duration| *held = left.min(*held))
                    .or_insert(left);
            }
        }
        running
    }

    /// The load record: `wait_us` is what an interactive request would find. The sender numbers it (`sequence` is 0).
    #[must_use]
    pub fn load_record(&self, now: Instant) -> LoadRecord {
        let wait = self.batcher.backlog(now);
        let standing = if self.batcher.is_standing(now) { SHED_BOTH } else { 0 };
        LoadRecord {
            queue_tokens: self.admission.queue_tokens(),
            batches_done: self.batcher.batches_done(),
            wait_us: Micros::from(wait).0,
            free_bytes: self.residency.budget().saturating_sub(self.residency.held()),
            tokens_per_s: self.batcher.mixed_rate().map_or(0, |rate| rate as u32),
            requests: self.admission.requests(),
            running: u16::try_from(self.batcher.batches_running()).unwrap_or(u16::MAX),
            device: self.config.device,
            shed_level: self.admission.shed_level().max(standing),
            draining: self.drain.is_draining(),
            sequence: 0,
        }
    }

    /// Gauges and counters, read from the machines themselves.
    #[must_use]
    pub fn gauges(&self, now: Instant) -> GaugeSet {
        let oldest = self.batcher.oldest().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        GaugeSet {
            admitted_bytes: Bytes(self.admission.admitted_bytes()),
            admitted_bytes_max: Bytes(self.config.admitted_bytes_max),
            queue_tokens_max: Tokens(self.config.queue_tokens_max),
            queue_oldest_us: oldest.into(),
            resident_bytes: Bytes(self.residency.held()),
            resident_bytes_max: Bytes(self.residency.budget()),
            loads: self.residency.loads(),
            evictions: self.residency.evictions(),
            shed: self.admission.shed(),
            cancelled: self.cancelled,
            expired: self.expired,
            restarts: self.restarts,
            memory_evictions: self.residency.memory_evictions(),
            // What lanes and loaders do about memory, whoever drives them counts.
            ..GaugeSet::default()
        }
    }

    /// Time that an interactive request of `tokens` for `model` would take if it arrived now.
    #[must_use]
    pub fn predicted(&self, model: ModelKey, tokens: u64, now: Instant) -> Duration {
        let queue = self.batcher.backlog(now);
        queue.max(self.residency.eta(model, now)) + self.batcher.own_time(model, tokens, queue.is_zero())
    }
}
