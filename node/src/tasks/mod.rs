//! From what callers send to what devices compute, and back: one file per step, no actor and no runtime in it.

pub(crate) mod ask;
mod chunks;
pub(crate) mod count;
mod encode;
mod extract;
pub(crate) mod frames;
mod joining;
pub(crate) mod pool;
pub(crate) mod reading;
pub(crate) mod rows;
mod score;
mod spans;
pub(crate) mod tokenizer;
pub(crate) mod vectors;
