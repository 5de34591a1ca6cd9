//! What goes into a device and what comes out.

use std::time::Instant;

use shoal_protocol::message::Priority;
use shoal_protocol::{BatchId, Bytes, Micros};

use super::error::RequestError;
use super::ids::{LaneIndex, ModelKey, RequestKey};

/// A model as the shell describes it before it was ever loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// Resident bytes expected, an upper bound: the budget is held by it until the load is measured.
    pub bytes_estimate: Bytes,
    /// Never evicted and never unloaded once resident; its bytes are set aside from the start.
    pub pinned: bool,
}

/// A request at gate 1, before it is tokenized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestSpec {
    /// The model that it asks for.
    pub model: ModelKey,
    /// Who waits.
    pub priority: Priority,
    /// Bytes of its texts.
    pub bytes: u64,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
}

/// The next texts of a request at gate 2. The first piece may run before the last one is tokenized.
#[derive(Clone, Copy, Debug)]
pub struct TokenizedPiece<'a> {
    /// The texts that are ready; those that failed by themselves (too long) are left out.
    pub items: &'a [ItemTokens],
    /// Bytes of the texts still to come, of those in [`RequestSpec::bytes`]; `None` after the last one.
    pub bytes_left: Option<u64>,
}

/// One text of a request at gate 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemTokens {
    /// The caller's name for it, usually the position in the request; comes back in [`BatchItem`].
    pub index: u32,
    /// Tokens that the model will see, special tokens included.
    pub tokens: u32,
}

/// One sequence of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchItem {
    /// Whose it is.
    pub request: RequestKey,
    /// The [`ItemTokens::index`].
    pub index: u32,
    /// Its tokens.
    pub tokens: u32,
    /// Its row in the batch and so in the output.
    pub row: u32,
}

/// A batch to run now. Its sequences are [`DeviceCore::batch_items`](super::DeviceCore::batch_items).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRun {
    /// Names the batch until it is done; counts up.
    pub batch: BatchId,
    /// The (resident) model.
    pub model: ModelKey,
    /// The lane, idle until now.
    pub lane: LaneIndex,
    /// Threads to use, at most [`LaneIndex::threads_max`].
    pub threads: u16,
    /// Sequences in it.
    pub sequences: u32,
    /// Tokens in it.
    pub tokens: u32,
}

/// Where the time of a finished request went, as far as the device saw it. These stages do not overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// From its first text at gate 2 until its model was resident.
    pub load: Micros,
    /// From then until its first batch started.
    pub queue: Micros,
    /// The longest batch that held one of its items.
    pub compute: Micros,
}

/// What a device wants done or known, in the order in which it decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Run a batch on a lane; answer with `handle_batch_done` or `handle_batch_failed`.
    Run(BatchRun),
    /// Load a model; answer with `handle_loaded` or `handle_load_failed`.
    Load {
        /// Which.
        model: ModelKey,
    },
    /// Drop a model (no batch uses it); answer with `handle_evicted` once its memory is free.
    Evict {
        /// Which.
        model: ModelKey,
    },
    /// Terminal: every item of the request was delivered.
    Finished {
        /// Which.
        request: RequestKey,
        /// Where its time went.
        stages: StageTimes,
    },
    /// Terminal: the request ended without (all of) its results.
    Failed {
        /// Which.
        request: RequestKey,
        /// Why.
        error: RequestError,
    },
    /// A batch overran its estimate beyond doubt. Abandon the lane, start another in its place and say
    /// `handle_lane_replaced`; until then the lane's threads stay unused. Its work was requeued or failed.
    LaneHung {
        /// The lane.
        lane: LaneIndex,
        /// What it was running; whatever still comes of it is ignored.
        batch: BatchId,
    },
    /// Lanes keep hanging: every request was failed and none will be admitted. Replace the device and its core.
    DeviceFailed,
    /// Draining began: tell the peers.
    Draining,
    /// Draining ended: no request is left.
    Drained,
}
