//! Shoal: the node as a library, and the binary around it.

mod actors;
mod choices;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
mod decisions;
pub mod edge;
pub mod metrics;
pub mod node;
pub mod notices;
pub mod store;
mod tasks;
mod values;
