//! The words of the mesh: ids, units, limits, the frame header, messages and error codes.
//!
//! No runtime, no I/O, no clock. Untrusted bytes enter through [`decode`] (and the header through
//! [`Header::decode`]) and nowhere else; every other crate handles typed, validated values.

pub mod code;
pub mod frame;
pub mod header;
pub mod ids;
pub mod limits;
pub mod message;
pub mod trace;
pub mod units;
pub mod wire;

pub use code::{ErrorCode, Retry};
pub use frame::{Frame, Message, decode, encode};
pub use header::{Header, HeaderError, Kind};
pub use ids::{BatchId, DeviceIndex, NodeId, Place, RequestId};
pub use trace::TraceContext;
pub use units::{Bytes, Micros, Tokens};
pub use wire::{DecodeError, EncodeError, VersionRange, WIRE_VERSION, WIRE_VERSION_MIN, Wire};
