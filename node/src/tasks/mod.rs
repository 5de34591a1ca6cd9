//! From what callers send to what devices compute, and back: one file per step, no actor and no runtime in it.

pub(crate) mod count;
pub(crate) mod encode;
pub(crate) mod pool;
pub(crate) mod tokenizer;
pub(crate) mod vectors;
