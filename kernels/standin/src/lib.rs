//! Stands in for `libcuda.so.1` in tests: the calls of the driver that this project makes, on top of the emulation of its
//! kernels, so that everything between a model and a device runs on any machine.
//!
//! It is stricter than a driver where that finds bugs. Work waits in its stream until somebody waits for it, or, with a seed,
//! now and then runs at once: who forgets to wait, or to order one stream after another, reads what was there. Memory starts
//! as not-a-number. Copies are to and from pinned memory only, launches ask for large shared memory first, and modules are
//! those of the manifest, byte for byte. Faults are planned for a device by `shoal_standin_fault`; tests that take a device
//! of their own do not meet.
//!
//! What it does not have: time. A copy takes as long as it takes, and nothing overlaps.
#![expect(unsafe_code, reason = "is a C library, and reads and writes at the addresses that it is given")]

mod context;
mod control;
mod device;
mod image;
mod memory;
mod stream;
mod symbols;
mod symbols_work;

pub use control::{Planned, hurry, library, log, plan};

/// Devices that it has.
pub const DEVICES: usize = 64;
/// Memory of each.
pub const DEVICE_BYTES: usize = 128 << 20;
/// The code of a planned fault that is no error: whatever waits from then on waits for ever.
pub(crate) const HANG: u32 = u32::MAX;
