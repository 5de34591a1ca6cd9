//! Everything slow about every node: one record a node, written by its owner only.

mod delta;
mod feed;
mod following;
mod held;
mod interface;
mod machine;
mod own;
mod parameters;

pub use feed::{FEED_SILENCE_MAX, Feed};
pub use following::{FeedBroken, Following};
pub use interface::{FactsCounters, FactsMessage, FactsRefused, FactsSend, OwnFacts};
pub use machine::Facts;

#[cfg(test)]
mod feed_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
