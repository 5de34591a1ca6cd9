//! Chaos on real processes, and the pure parts of its harness. Long runs: `shoal-chaos`.

mod checker;
mod hosts;
mod smoke;
mod wire;
