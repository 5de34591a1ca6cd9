//! A mesh in virtual time: the machines that run in production ([`DeviceCore`](shoal::core::DeviceCore),
//! [`ClientCore`](shoal_mesh::core::ClientCore), and those of a member: membership, links, facts and load gossip, in
//! [`Members`](shoal_mesh::simulation::Members)) over a network with delay, loss, duplicates, reordering and cuts, on nodes
//! that die, stop, drain, hang, fail to load and have clocks of their own. A client knows what the node that it follows
//! tells it ([`Feed`](shoal_mesh::core::Feed), [`Following`](shoal_mesh::core::Following)).
//! One thread, one clock, one seed: a run can be repeated to the event. While it runs, what callers see is held against
//! the rules of the mesh ([`History`]).
//!
//! [`World`] owns time and the wires and decides nothing; [`Scenario`] says what happens to it; [`Report`] what came of it.

mod answer;
mod bug;
mod chance;
mod client;
mod gossip;
mod history;
mod leaving;
mod machine;
mod node;
mod placing;
mod policy;
mod report;
mod rules;
mod scenario;
mod unrouted;
mod why;
mod workload;
mod world;

pub use bug::Bug;
pub use gossip::GossipFigures;
pub use history::{History, Violation};
pub use machine::Machine;
pub use node::Ailments;
pub use policy::Policy;
pub use report::Report;
pub use rules::{Converging, Graves, disagreement, lag};
pub use scenario::{Fault, Scenario};
pub use shoal_mesh::simulation::{Network, Peer, Weather};
pub use unrouted::{Since, Tie, Unrouted};
pub use why::Why;
pub use world::World;
