//! One suite over both links: the same calls, in process and over QUIC on loopback.

mod service;
mod suite;
