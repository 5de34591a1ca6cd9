//! Everything slow about every node: one record a node, written by its owner only.

mod delta;
mod held;
mod interface;
mod machine;
mod own;
mod parameters;

pub use interface::{FactsCounters, FactsMessage, FactsPeer, FactsRefused, FactsSend, OwnFacts};
pub use machine::Facts;

#[cfg(test)]
mod tests;
