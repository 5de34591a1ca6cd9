//! A mesh in virtual time: the real machines over a network with delay, loss, duplicates, reordering, partitions and
//! nodes that die or sleep. The seed is the whole history.

mod membership;
mod network;
mod node;
mod world;

use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin of virtual time")]
fn origin() -> Instant {
    Instant::now()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
