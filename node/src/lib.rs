//! Shoal: the node as a library, and the binary around it.

pub mod config;
pub mod core;
pub mod store;
