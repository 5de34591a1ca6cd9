//! A plan on a CUDA device: its weights in one piece of the device's memory, and batches that follow one another through three
//! streams.

mod head;
mod lane;
mod load;
mod model;
mod parts;
mod pass;
mod relative;
mod results;
mod slot;
#[cfg(test)]
mod tests;
mod upload;

pub use lane::{BATCHES_MAX, CudaLane};
pub use model::{CudaFit, CudaModel};
