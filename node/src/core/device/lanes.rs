//! Events of lanes: batches start, end, fail and hang.

use std::time::Instant;

use shoal_protocol::BatchId;

use super::super::error::RequestError;
use super::super::event::{BatchItem, ItemTokens, Output};
use super::super::ids::LaneIndex;
use super::DeviceCore;

/// Lanes that may hang without a finished batch in between before the whole device is given up.
const HANGS_IN_A_ROW_MAX: u32 = 3;
/// Lanes that may hang in the life of a device: an abandoned thread cannot be ended, so each one is lost.
const HANGS_MAX: u32 = 16;

impl DeviceCore {
    /// The sequences of a running batch, in row order. Empty if the batch is not running (any more).
    #[must_use]
    pub fn batch_items(&self, batch: BatchId) -> &[BatchItem] {
        self.batcher.items(batch)
    }

    /// A lane finished a batch. Returns the items to deliver now: those whose request still waits; none if the
    /// batch was given up before. Deliver them before polling outputs: `Finished` may be the next one.
    pub fn handle_batch_done(&mut self, batch: BatchId, now: Instant) -> &[BatchItem] {
        self.delivered.clear();
        if let Some(ended) = self.batcher.handle_done(batch, now) {
            self.hangs_in_a_row = 0;
            self.residency.handle_batch_ended(ended.run.model);
            for item in &ended.items {
                let Some(request) = self.requests.get_mut(item.request) else {
                    continue;
                };
                self.delivered.push(*item);
                request.handle_computed(ended.took);
                request.items_running -= 1;
                request.items_left -= 1;
                if request.is_answered() {
                    self.finish(item.request, now);
                }
            }
            self.batcher.recycle(ended.items);
        }
        self.advance(now);
        &self.delivered
    }

    /// A lane gave a batch back with an error, with which its requests fail; the lane is idle again.
    pub fn handle_batch_failed(&mut self, batch: BatchId, error: &RequestError, now: Instant) {
        if let Some(ended) = self.batcher.handle_failed(batch, now) {
            self.residency.handle_batch_ended(ended.run.model);
            for item in &ended.items {
                self.fail(item.request, error.clone(), now);
            }
            self.batcher.recycle(ended.items);
        }
        self.advance(now);
    }

    /// A new lane stands in the place of a hung one (or the old one came back after all).
    pub fn handle_lane_replaced(&mut self, lane: LaneIndex, now: Instant) {
        if let Some(run) = self.batcher.handle_lane_replaced(lane) {
            self.restarts += 1;
            self.residency.handle_batch_ended(run.model);
        }
        self.advance(now);
    }

    pub(super) fn start_batches(&mut self, now: Instant) {
        loop {
            self.give_up_late(now);
            let Some(run) = self.batcher.poll_batch(|model| self.residency.is_ready(model), now) else {
                return;
            };
            self.residency.handle_batch_started(run.model);
            let ready_since = self.residency.ready_since(run.model);
            for item in self.batcher.items(run.batch) {
                let Some(request) = self.requests.get_mut(item.request) else {
                    continue;
                };
                request.handle_started(ready_since, now);
                request.items_running += 1;
                self.admission.handle_started(&mut request.permit, u64::from(item.tokens), now);
            }
            self.outputs.push_back(Output::Run(run));
        }
    }

    /// Gives up every batch that overran its time. The model stays in use until the lane is replaced: whatever
    /// hangs there still reads its weights.
    pub(super) fn give_up_hung(&mut self, now: Instant) {
        while let Some(hung) = self.batcher.poll_hung(now) {
            let (lane, batch) = (hung.run.lane, hung.run.batch);
            self.outputs.push_back(Output::LaneHung { lane, batch });
            self.hangs += 1;
            self.hangs_in_a_row += 1;
            // Backwards, because each item goes to the front of its request.
            for item in hung.items.iter().rev() {
                self.give_up(*item, now);
            }
            for item in &hung.items {
                if let Some(request) = self.requests.get_mut(item.request) {
                    request.requeued = true;
                }
            }
            self.batcher.recycle(hung.items);
        }
        let beyond_repair = self.hangs_in_a_row >= HANGS_IN_A_ROW_MAX || self.hangs >= HANGS_MAX;
        if beyond_repair && !self.failed {
            self.failed = true;
            self.fail_all(&RequestError::DeviceFailed, now);
            self.outputs.push_back(Output::DeviceFailed);
        }
    }

    /// One item of a hung batch: back to the queue, or the end of its request if that happened before.
    fn give_up(&mut self, item: BatchItem, now: Instant) {
        let Some(request) = self.requests.get_mut(item.request) else {
            return;
        };
        if request.requeued {
            self.fail(item.request, RequestError::DeviceFailed, now);
            return;
        }
        request.items_running -= 1;
        self.admission.handle_requeued(&mut request.permit, u64::from(item.tokens), now);
        let waiting = ItemTokens { index: item.index, tokens: item.tokens };
        self.batcher.handle_requeued(item.request, waiting);
    }
}
