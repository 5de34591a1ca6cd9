//! Shoal: the node as a library, and the binary around it.

pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod edge;
pub mod store;
