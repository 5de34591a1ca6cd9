//! What frames say. Wire types use integers, enums, `Option`, `String`, `Vec` and `Box` only: the parts of rkyv
//! whose validation has no history of holes.

mod encode;
mod facts;
mod session;
mod status;

pub use encode::{
    Beacon, DenseBlock, DenseDtype, EncodeOptions, EncodeRequest, EncodeResult, Input, ItemOutcome, Numerics,
    Phase, Priority, Truncate,
};
pub use facts::{
    DeviceFact, FactsDelta, FactsDigest, FactsPull, FactsVersion, LoadProbe, LoadReply, ModelFact,
    ModelFactKey, NodeFacts,
};
pub use session::{End, Failure, Hello, Role, ServedBy, Timings};
pub use status::{
    DeviceStatus, GaugeSet, LoadRecord, ModelState, ModelStatus, StageHistogram, Status, StatusRequest,
};
