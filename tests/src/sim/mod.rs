//! A mesh in virtual time: the machines that run in production ([`DeviceCore`](shoal::core::DeviceCore),
//! [`ClientCore`](shoal_mesh::core::ClientCore), [`Membership`](shoal_mesh::core::Membership)) over a network with delay,
//! loss, duplicates, reordering and cuts, on nodes that die, stop, drain, hang, fail to load and have clocks of their own.
//! One thread, one clock, one seed: a run can be repeated to the event. While it runs, what callers see is held against
//! the rules of the mesh ([`History`]).
//!
//! [`World`] owns time and the wires and decides nothing; [`Scenario`] says what happens to it; [`Report`] what came of it.
//! Not driven yet: the facts and load-gossip machines. Nodes tell clients their facts and loads directly, at the same pace.

mod answer;
mod chance;
mod client;
mod clock;
mod history;
mod machine;
mod network;
mod node;
mod policy;
mod report;
mod scenario;
mod timeline;
mod workload;
mod world;

pub use history::{History, Violation};
pub use machine::Machine;
pub use network::{Network, Peer, Weather};
pub use node::Ailments;
pub use policy::Policy;
pub use report::Report;
pub use scenario::{Fault, Scenario};
pub use world::World;
