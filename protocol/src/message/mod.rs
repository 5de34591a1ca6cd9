//! What frames say. Wire types use integers, enums, `Option`, `String`, `Vec` and `Box` only: the parts of rkyv
//! whose validation has no history of holes.

mod encode;
mod explain;
mod facts;
mod follow;
mod join;
mod session;
mod status;

use crate::header::Kind;
use crate::wire::DecodeError;

pub use encode::{
    Beacon, DenseBlock, DenseDtype, EncodeOptions, EncodeRequest, EncodeResult, Input, ItemOutcome, Numerics,
    Phase, Priority, Truncate,
};
pub use explain::{AttemptRecord, ExplainRequest, Explanation};
pub use facts::{
    DeviceFact, FactsDelta, FactsDigest, FactsPull, FactsVersion, LoadProbe, LoadReply, LoadRequest,
    ModelFact, ModelFactKey, NodeFacts,
};
pub use follow::{MemberLife, MeshUpdate, NodeLoad};
pub use join::{JoinGrant, JoinRefusal, JoinRequest, JoinToken, RefusalReason, RenewRequest};
pub use session::{Alternative, End, Failure, Hello, Role, ServedBy, Timings};
pub use status::{
    DeviceStatus, DrainRequest, GaugeSet, LoadRecord, MemberState, MemberStatus, ModelState, ModelStatus,
    StageHistogram, Status, StatusRequest,
};

/// One of the limits that the archive's validation does not know.
fn rule(kind: Kind, kept: bool, what: &'static str) -> Result<(), DecodeError> {
    if kept { Ok(()) } else { Err(DecodeError::Limit { kind, what }) }
}
