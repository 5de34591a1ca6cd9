//! What frames say. Wire types use integers, enums, `Option`, `String`, `Vec` and `Box` only: the parts of rkyv
//! whose validation has no history of holes.

mod encode;
mod explain;
mod extract;
mod facts;
mod follow;
mod join;
mod score;
mod session;
mod status;
mod task;

use crate::header::Kind;
use crate::wire::DecodeError;

pub use encode::{
    ChunkBlock, ChunkPlace, ChunkPooling, Chunking, DenseBlock, DenseDtype, EncodeOptions, InputType,
    MultivectorBlock, SparseBlock, VectorSet,
};
pub use explain::{AttemptRecord, ExplainRequest, Explanation};
pub use extract::{ClassBlock, ExtractOptions, Span, SpanBlock};
pub use facts::{
    DeviceFact, FactsDelta, FactsDigest, FactsPull, FactsVersion, LoadProbe, LoadReply, LoadRequest,
    ModelFact, ModelFactKey, NodeFacts,
};
pub use follow::{MemberLife, MeshUpdate, NodeLoad};
pub use join::{JoinGrant, JoinRefusal, JoinRequest, JoinToken, RefusalReason, RenewRequest};
pub use score::ScoreOptions;
pub use session::{Alternative, End, Failure, Hello, Role, ServedBy, Timings};
pub use status::{
    DeviceStatus, DrainRequest, GaugeSet, LoadRecord, MemberState, MemberStatus, ModelState, ModelStatus,
    StageHistogram, Status, StatusRequest,
};
pub use task::{
    Answers, Beacon, Input, ItemOutcome, ItemWork, Numerics, Phase, Priority, Task, TaskRequest, TaskResult,
    Truncate,
};

/// One of the limits that the archive's validation does not know.
fn rule(kind: Kind, kept: bool, what: &'static str) -> Result<(), DecodeError> {
    if kept { Ok(()) } else { Err(DecodeError::Limit { kind, what }) }
}
