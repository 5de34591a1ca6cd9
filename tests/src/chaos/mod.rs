//! Chaos on real processes: nodes that are killed, stopped, hung, drained, cut off and moved while clients ask, and a
//! history of what the clients saw that is held against the rules of the mesh.
//!
//! Each node is a `shoal serve` on a host of its own ([`Hosts`]); every packet between nodes and clients goes through a
//! relay that loses, delays and cuts ([`Relay`], decided by [`Wire`]). [`Plan::run`] takes a [`Scenario`] from its first
//! process to its [`Verdict`]. On the command line: `shoal-chaos`.

mod checker;
mod cluster;
mod freezer;
mod goodput;
mod history;
mod hosts;
mod load;
mod process;
mod relay;
mod report;
mod run;
mod scenario;
mod slow_model;
mod stage;
mod wire;

pub use checker::{Checker, Latencies, Verdict};
pub use freezer::can_freeze;
pub use goodput::Recovery;
pub use history::{Asked, Ended, Event, HistoryWriter, Record, read};
pub use hosts::Hosts;
pub use relay::Relay;
pub use report::{Report, Targets};
pub use run::{Machine, Outcome, Plan};
pub use scenario::{LOSSY, Scenario};
pub use wire::{CLEAR, Packet, Wire, WireCounters};
