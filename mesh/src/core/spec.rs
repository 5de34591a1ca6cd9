//! What goes into a call and what comes out of it.

use std::time::Instant;

use shoal_protocol::message::{Priority, ServedBy, Task, TaskRequest, Timings};
use shoal_protocol::{DeviceIndex, Micros, NodeId, RequestId, TraceContext};

use super::attempts::AttemptKey;

/// What to do when a node has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenOverloaded {
    /// Wait as long as the node says, within the deadline (without one: for a minute without progress). The calls of one
    /// client come again fifteen times for a hundred first attempts, and ten times a second: beyond that they wait longer.
    #[default]
    Wait,
    /// Fail at once with the node's hint: for a caller that passes the hint on.
    Fail,
}

/// A call without its texts.
#[derive(Clone, Debug)]
pub struct CallSpec {
    /// Unique at the caller.
    pub request_id: RequestId,
    /// Model name or alias.
    pub model: String,
    /// What to do with the texts.
    pub task: Task,
    /// Who waits.
    pub priority: Priority,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// What to do when a node has no room.
    pub when_overloaded: WhenOverloaded,
    /// Chance, for the jitter of retries.
    pub seed: u64,
    /// The trace that every attempt is part of.
    pub trace: Option<TraceContext>,
}

/// Where an attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The node that does the work.
    pub node: NodeId,
    /// Its device; `None` leaves it to the node.
    pub device: Option<DeviceIndex>,
    /// The node that forwards the request there, where no direct connection could be made.
    pub via: Option<NodeId>,
}

impl Target {
    /// The node to which the stream is opened.
    #[must_use]
    pub fn next_hop(&self) -> NodeId {
        self.via.unwrap_or(self.node)
    }
}

/// An attempt to be sent.
#[derive(Debug)]
pub struct Submit {
    /// Names the attempt in every event about it.
    pub key: AttemptKey,
    /// Where to.
    pub to: Target,
    /// What to send.
    pub request: TaskRequest,
}

/// A call that answered every item.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The request, naming the node that answered last.
    pub request_id: RequestId,
    /// Where the last part ran; `None` where nothing had to be sent.
    pub served_by: Option<ServedBy>,
    /// The largest of each stage over the parts, which overlap.
    pub timings: Timings,
    /// Tokens that the model saw, over all items.
    pub tokens: u64,
    /// Items answered, failed ones included.
    pub items: u64,
    /// Parts that the call was cut into.
    pub parts: u32,
    /// Attempts beyond the first of each part, hedges not counted.
    pub retries: u32,
    /// Second attempts beside one that was not heard of in time.
    pub hedges: u32,
}

impl Summary {
    /// Of a call that has done nothing yet.
    pub(super) fn new(request_id: RequestId) -> Self {
        Self {
            request_id,
            served_by: None,
            timings: Timings::default(),
            tokens: 0,
            items: 0,
            parts: 0,
            retries: 0,
            hedges: 0,
        }
    }

    /// Keeps the larger of each stage.
    pub(super) fn widen(&mut self, other: &Timings) {
        let timings = &mut self.timings;
        let max = |a: &mut Micros, b: Micros| *a = (*a).max(b);
        max(&mut timings.tokenize_wait_us, other.tokenize_wait_us);
        max(&mut timings.tokenize_us, other.tokenize_us);
        max(&mut timings.load_us, other.load_us);
        max(&mut timings.queue_us, other.queue_us);
        max(&mut timings.compute_us, other.compute_us);
        max(&mut timings.post_us, other.post_us);
        max(&mut timings.total_us, other.total_us);
    }
}
