//! Shoal: placeholder face, replaced by the first slice.

pub mod core;
