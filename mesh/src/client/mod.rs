//! The client library: one call of any length, exactly one outcome for every text.
//!
//! Everything runs in the caller's own task: a [`Client`] spawns nothing for a call, so that dropping the future (or
//! the stream) is all it takes to cancel, and a stream that is not polled takes no more texts.

mod api;
mod connect;
mod driver;
mod encode;
mod questions;

pub use api::{Client, Encoded};
pub use connect::ConnectOptions;
pub use driver::EncodeStream;
pub use encode::Encode;

#[cfg(test)]
mod tests;
