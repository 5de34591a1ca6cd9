//! The client library: one call of any length, exactly one outcome for every text.
//!
//! A call runs in the caller's own task: a [`Client`] spawns nothing for it, so that dropping the future (or the
//! stream) is all it takes to cancel, and a stream that is not polled takes no more texts. Beside the calls a client has
//! one task that follows a node of the mesh, and one for each of its connections.

mod api;
mod call;
mod connect;
mod driver;
mod entries;
mod follow;
mod questions;
mod shared;

pub use api::{Client, Completed, Scored};
pub use call::{Call, Encode, Extract, Score, TaskOptions};
pub use connect::{ConnectOptions, MemberClientOptions};
pub use driver::AnswerStream;

#[cfg(test)]
mod tests;
