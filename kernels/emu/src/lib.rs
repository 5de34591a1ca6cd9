//! Runs Shoal's CUDA kernels on the host, for tests: the same `.cu` files, compiled as C++ against an emulation of
//! blocks, warps, shared memory, barriers, shuffles, `ldmatrix`, `mma` and asynchronous copies.
//!
//! It is stricter than a GPU where that finds bugs: shared memory starts as not-a-number, copies arrive only when somebody
//! waits for them, warps run to their next barrier one after another in a seeded order, and lanes or threads that wait at
//! different places are an error. What it cannot see: races inside one stretch of code, and what the device's compiler does.
#![expect(unsafe_code, reason = "calls the emulation, which is C++, with addresses of buffers")]

mod launch;
mod plants;

pub use launch::{EmuError, EmuLaunch, args_bytes, launch};
pub use plants::{INTACT, PLANTS, Plant};
