//! One model of a device: where it stands and what it is worth.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::ErrorCode;

use super::super::event::ModelSpec;

/// Time constant of a model's request rate, by which victims are chosen.
const DEMAND_TAU: Duration = Duration::from_secs(300);
/// A load that takes longer is given up.
pub(super) const LOAD_TIME_MAX: Duration = Duration::from_mins(10);

/// Where a model stands.
#[derive(Clone, Debug)]
pub(super) enum State {
    Absent,
    /// Its estimate is held. `stalled` once nobody waits for it any more.
    Loading {
        since: Instant,
        stalled: bool,
    },
    Ready {
        since: Instant,
    },
    /// Chosen to go. `ordered` once no batch uses it and the shell was told; its bytes count until it answers.
    Evicting {
        ordered: bool,
    },
    Failed {
        until: Instant,
        code: ErrorCode,
        reason: Arc<str>,
    },
}

/// A model as the residency knows it.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) pinned: bool,
    /// The estimate, later the measurement.
    pub(super) bytes: u64,
    pub(super) state: State,
    /// Unfinished requests.
    pub(super) users: u32,
    /// Batches on the device.
    pub(super) running: u32,
    /// Whether a batch has run since the last load.
    pub(super) served: bool,
    pub(super) preload: bool,
    /// Whether its last load found no piece of memory that was large enough.
    pub(super) is_short: bool,
    pub(super) failures: u32,
    pub(super) load_time: Option<Duration>,
    pub(super) last_used: Option<Instant>,
    pub(super) demand: f64,
    /// Whether other devices hold it as well, by the last that was heard.
    pub(super) is_spare: bool,
}

impl Model {
    pub(super) fn new(spec: ModelSpec) -> Self {
        Self {
            pinned: spec.pinned,
            bytes: spec.bytes_estimate.0,
            state: State::Absent,
            users: 0,
            running: 0,
            served: false,
            preload: false,
            is_short: false,
            failures: 0,
            load_time: None,
            last_used: None,
            demand: 0.0,
            is_spare: false,
        }
    }

    /// Bytes that the budget is charged with.
    pub(super) fn held(&self) -> u64 {
        match self.state {
            State::Loading { .. } | State::Ready { .. } | State::Evicting { .. } => self.bytes,
            State::Absent | State::Failed { .. } => 0,
        }
    }

    /// Requests in the last [`DEMAND_TAU`], decayed.
    pub(super) fn demand(&self, now: Instant) -> f64 {
        let idle = self.last_used.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.demand * (-idle.as_secs_f64() / DEMAND_TAU.as_secs_f64()).exp()
    }

    /// When its load counts as stalled.
    pub(super) fn stalls_at(&self) -> Option<Instant> {
        match self.state {
            State::Loading { since, stalled: false } => Some(since + LOAD_TIME_MAX),
            State::Absent
            | State::Loading { .. }
            | State::Ready { .. }
            | State::Evicting { .. }
            | State::Failed { .. } => None,
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.users > 0 || self.preload
    }

    /// Whether it was loaded for somebody who has had nothing of it yet. To evict it then would be to load it for
    /// nothing, and two models could do so to each other for ever.
    pub(super) fn is_owed_a_batch(&self) -> bool {
        self.users > 0 && !self.served
    }
}
