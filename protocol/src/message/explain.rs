//! Why a request ran where it did: asked of the node that served it.

use rkyv::{Archive, Deserialize, Serialize};

use crate::code::ErrorCode;
use crate::header::Kind;
use crate::ids::{DeviceIndex, NodeId, RequestId};
use crate::limits::{DECISION_BYTES_MAX, EXPLAINED_ATTEMPTS_MAX, MODEL_NAME_BYTES_MAX};
use crate::message::rule;
use crate::message::session::Timings;
use crate::units::Micros;
use crate::wire::{DecodeError, wire_message};

/// Asks for what a node remembers of a request.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExplainRequest {
    /// The request. Its unique part decides; which node it names does not.
    pub request_id: RequestId,
    /// The node that is asked, where the question may be forwarded to it; `None`: whoever gets it.
    pub to: Option<NodeId>,
}

wire_message!(ExplainRequest, Kind::ExplainRequest);

/// One attempt that ended at the node which tells of it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Which part of the call.
    pub part: u32,
    /// Which attempt at that part, from 0.
    pub attempt: u32,
    /// The model, as the caller named it.
    pub model: String,
    /// Texts in the attempt.
    pub items: u32,
    /// The device that was asked.
    pub device: DeviceIndex,
    /// When it ended, before this was told.
    pub ended_ago_us: Micros,
    /// Why it failed; `None` where it was answered.
    pub failure: Option<ErrorCode>,
    /// Where its time went; of a failed attempt only the total is known.
    pub timings: Timings,
    /// The router's decision record, as it came with the request; empty where none came.
    pub decision: Vec<u8>,
}

/// What a node remembers of a request. Without attempts it never had it, or has forgotten it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The node that tells.
    pub node: NodeId,
    /// The attempts, the oldest first; of a call of many parts the latest of them.
    pub attempts: Vec<AttemptRecord>,
}

wire_message!(Explanation, Kind::Explanation);

impl Explanation {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let rule = |kept, what| rule(Kind::Explanation, kept, what);
        rule(self.attempts.len() <= EXPLAINED_ATTEMPTS_MAX, "too many attempts")?;
        rule(self.attempts.iter().all(|at| at.model.len() <= MODEL_NAME_BYTES_MAX), "model name too long")?;
        rule(self.attempts.iter().all(|at| at.decision.len() <= DECISION_BYTES_MAX), "decision too long")
    }
}
