//! Checkpoint files as untrusted input: headers checked whole, tensors read row by row as f32.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. Nothing of a file is believed before it is checked:
//! the header's length, every offset, every shape, and that the tensors tile the data without gap or overlap.

mod checkpoint;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod header;
mod mapped;
mod shards;
mod storage;

pub(crate) use checkpoint::Checkpoint;
pub use error::{HeaderError, TensorError, WeightsError};
pub(crate) use mapped::{MappedCheckpoint, Tensor};
