//! What the tests of the link and of the client stand on: a small node, and a world of it and its client.

mod mesh;
mod net;
mod service;
mod world;

pub(crate) use mesh::Mesh;
pub(crate) use net::VirtualNet;
pub(crate) use service::{Mood, TestService, vector};
pub(crate) use world::{ISSUER, LOOPBACK, World, connect, identity, in_process, over_quic, serve};
