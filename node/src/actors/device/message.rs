//! What a device actor is told and what it tells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use shoal_kernels::OutputSet;
use shoal_protocol::message::{Beacon, Input, Priority, Truncate};
use tokio::sync::{mpsc, oneshot};

use super::DeviceReport;
use crate::actors::front::Front;
use crate::actors::lane::LaneResult;
use crate::actors::loader::Loaded;
use crate::core::{ModelKey, RequestError, RequestKey, RequestSpec, StageTimes};
use crate::tasks::pool::TokenizedChunk;
use crate::tasks::reading::Reading;
use crate::tasks::rows::Rows;
use crate::tasks::tokenizer::ItemFailure;

/// What a device actor is told.
pub(crate) enum DeviceMsg {
    /// A request, at gate 1.
    Submit(Box<Submission>),
    /// Nobody waits for a request any more.
    Cancel(Arc<RequestHandle>),
    /// Some texts of a request are tokenized.
    Tokenized {
        /// Which.
        request: RequestKey,
        /// Its next texts.
        chunk: TokenizedChunk,
    },
    /// A lane gives a batch back.
    LaneDone(Box<LaneResult>),
    /// The loader has done something.
    Loaded(Loaded),
    /// The timer has reached what it was armed for.
    Timeout,
    /// Load a model before anybody asks here.
    Preload {
        /// The model.
        front: Arc<Front>,
        /// Whether others hold it already: then it takes nobody's sole copy.
        is_further: bool,
    },
    /// Whether others hold a model as well.
    Spare {
        /// Canonical name.
        model: String,
        /// Whether they do.
        is_spare: bool,
    },
    /// Evict a model of this name, unless it is used or pinned: others hold it.
    GiveBack(String),
    /// Leave by `deadline`.
    Drain {
        /// What is not done by then fails.
        deadline: Instant,
        /// Told once no request is left.
        done: oneshot::Sender<()>,
    },
    /// Another node holds the model: what waits for it here, while leaving, goes there.
    HeldElsewhere {
        /// Canonical name.
        model: String,
    },
    /// Tell about yourself.
    Report(oneshot::Sender<DeviceReport>),
}

/// What a request and its device share while it lasts.
#[derive(Debug, Default)]
pub(crate) struct RequestHandle {
    key: OnceLock<RequestKey>,
    cancelled: Arc<AtomicBool>,
    beacon_under_way: AtomicBool,
}

impl RequestHandle {
    /// The device's name for the request; none before it was admitted.
    pub(super) fn key(&self) -> Option<RequestKey> {
        self.key.get().copied()
    }

    /// Whether a device took the request.
    pub(crate) fn was_admitted(&self) -> bool {
        self.key().is_some()
    }

    pub(super) fn set_key(&self, key: RequestKey) {
        // A handle is submitted once; a second key could only come from a fault there and must not win.
        let _ = self.key.set(key);
    }

    /// Stops the tokenizer threads.
    pub(crate) fn stop(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub(super) fn stopped(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }

    /// Whether a beacon may be sent: none is under way.
    pub(super) fn begin_beacon(&self) -> bool {
        !self.beacon_under_way.swap(true, Ordering::AcqRel)
    }

    /// The beacon was taken from the channel.
    pub(crate) fn end_beacon(&self) {
        self.beacon_under_way.store(false, Ordering::Release);
    }
}

/// A request on its way to a device.
pub(crate) struct Submission {
    /// Shared with whoever waits.
    pub(crate) handle: Arc<RequestHandle>,
    /// The model.
    pub(crate) front: Arc<Front>,
    /// The texts.
    pub(crate) items: Arc<[Input]>,
    /// How they are read.
    pub(crate) reading: Reading,
    /// What the request wants of each pass.
    pub(crate) wanted: OutputSet,
    /// What to do with long texts.
    pub(crate) truncate: Truncate,
    /// Who waits.
    pub(crate) priority: Priority,
    /// When the caller gives up.
    pub(crate) deadline: Option<Instant>,
    /// Where its stages show in a trace.
    pub(crate) span: tracing::Span,
    /// The way back. Unbounded, and bounded by what is sent: one outcome for each text, one beacon, one end.
    pub(crate) events: mpsc::UnboundedSender<DeviceEvent>,
}

impl Submission {
    pub(super) fn spec(&self, model: ModelKey) -> RequestSpec {
        let bytes = self.reading.bytes_of(&self.items);
        RequestSpec { model, priority: self.priority, bytes, deadline: self.deadline }
    }

    pub(super) fn refuse(self, error: RequestError) {
        // The caller may have gone.
        let _ = self.events.send(DeviceEvent::Failed(error));
    }
}

/// How long a request's texts waited for tokenizer threads, and how long they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenizeTimes {
    /// Waiting, summed over the chunks, which follow one another.
    pub(crate) waited: Duration,
    /// Tokenizing.
    pub(crate) took: Duration,
}

/// What a device tells whoever waits for a request.
#[derive(Debug)]
pub(crate) enum DeviceEvent {
    /// Texts that failed by themselves.
    ItemsFailed(Vec<(u32, ItemFailure)>),
    /// What a batch left for some texts.
    Rows(Rows),
    /// Where the request stands.
    Beacon(Beacon),
    /// The end: every text was answered.
    Finished {
        /// On the device.
        stages: StageTimes,
        /// Before it.
        tokenize: TokenizeTimes,
    },
    /// The end: the rest is not coming.
    Failed(RequestError),
}
