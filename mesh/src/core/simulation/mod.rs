//! A mesh in virtual time: the real machines over a network with delay, loss, duplicates, reordering, partitions and
//! nodes that die or sleep. The seed is the whole history.

mod cost;
mod facts;
mod membership;
mod network;
mod node;
mod world;

use std::time::Duration;

use super::fleet::origin;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
