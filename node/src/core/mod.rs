//! The decisions of one device, as pure machines: no clock, no chance, no socket, no reply handle.
//!
//! [`DeviceCore`] composes admission, batcher, residency and drain of one device. An actor drives it in production
//! and the simulator drives three hundred of it on a virtual clock: the same code. [`Placement`] stands before it: what the
//! node knows of its mesh, and whether an attempt is served here.

mod admission;
mod batcher;
mod config;
mod departure;
mod device;
mod drain;
mod error;
mod event;
mod ids;
mod placement;
mod rate;
mod residency;
#[cfg(test)]
mod testing;

pub use config::CoreConfig;
pub use departure::{Copy, Departure, Step, hand_overs};
pub use device::DeviceCore;
pub use error::RequestError;
pub use event::{
    BatchItem, BatchRun, ItemTokens, ModelSpec, Output, RequestSpec, StageTimes, TokenizedPiece,
};
pub use ids::{LaneIndex, ModelKey, RequestKey};
pub use placement::{Arrival, CopyDeed, OwnStanding, Placement, ServedTokens, Verdict};
