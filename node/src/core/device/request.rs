//! One request inside a device.

use std::time::{Duration, Instant};

use shoal_protocol::message::Priority;

use super::super::admission::Permit;
use super::super::event::StageTimes;
use super::super::ids::ModelKey;

/// What a device remembers of an unfinished request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) permit: Permit,
    pub(super) model: ModelKey,
    pub(super) priority: Priority,
    pub(super) deadline: Option<Instant>,
    /// When its first item passed gate 2.
    pub(super) queued_at: Option<Instant>,
    /// Whether there are texts that are not tokenized yet.
    pub(super) is_tokenizing: bool,
    /// Items past gate 2 and not delivered yet.
    pub(super) items_left: usize,
    /// Items in running batches.
    pub(super) items_running: usize,
    /// Whether a batch of it was given up once already.
    pub(super) requeued: bool,
    pub(super) stages: StageTimes,
    pub(super) started: bool,
}

impl Request {
    /// Its first batch starts: loading and queueing end here.
    pub(super) fn handle_started(&mut self, ready_since: Option<Instant>, now: Instant) {
        let Some(since) = self.queued_at.filter(|_| !self.started) else {
            return;
        };
        self.started = true;
        let resident = ready_since.map_or(since, |ready| ready.clamp(since, now));
        self.stages.load = resident.saturating_duration_since(since).into();
        self.stages.queue = now.saturating_duration_since(resident).into();
    }

    /// Whether nothing of it is left to come.
    pub(super) fn is_answered(&self) -> bool {
        self.items_left == 0 && !self.is_tokenizing
    }

    /// A batch with one of its items ended.
    pub(super) fn handle_computed(&mut self, took: Duration) {
        self.stages.compute = self.stages.compute.max(took.into());
    }
}
