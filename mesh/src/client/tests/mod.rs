//! One suite over both links: the same calls, in process and over QUIC on loopback; and what only QUIC can suffer.

mod mesh;
mod quic;
mod suite;
mod weather;
