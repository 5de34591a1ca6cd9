//! The node's supervision tree: thin ractor adapters around the pure machines, and the OS threads that they own.
//!
//! ```text
//! NodeSupervisor            restarts a device that failed, with growing delays
//!   DeviceActor             one per device; drives its DeviceCore, keeps the reply handles
//!     lanes (OS threads)    one batch at a time each; a hung one is abandoned and replaced
//!     loader (OS thread)    packs weights, frees them
//! front (OS thread)         describes models and parses their tokenizers, once each
//! tokenizers (OS threads)   texts to ids, off the async threads
//! ```
//!
//! Mailboxes are unbounded in ractor, so what may enter them is bounded at the edges: admission bounds requests, a
//! lane has one batch, a request has one beacon under way. No actor is registered by name: ractor's registry is
//! global to the process, and one process may run several nodes.

pub(crate) mod backend;
pub(crate) mod device;
pub(crate) mod front;
pub(crate) mod lane;
pub(crate) mod loader;
pub(crate) mod service;
pub(crate) mod supervisor;
