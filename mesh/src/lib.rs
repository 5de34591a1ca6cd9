//! Who is there and who should do it: the pure machines of the mesh, the links that carry their frames, and the
//! client library.
//!
//! With `--no-default-features` only [`core`] builds: decisions without a runtime or a socket. Feature `link`
//! (default) adds QUIC and the in-memory link ([`Service`] is what a node implements) and the [`Client`].

pub mod core;

#[cfg(feature = "link")]
mod client;
#[cfg(feature = "link")]
mod identity;
#[cfg(feature = "link")]
mod link;
#[cfg(feature = "link")]
mod peer;
#[cfg(any(feature = "simulation", all(test, feature = "link")))]
pub mod simulation;
#[cfg(all(test, feature = "link"))]
mod testing;

#[cfg(feature = "link")]
pub use client::{
    AnswerStream, Call, Client, Completed, ConnectOptions, Encode, Extract, MemberClientOptions, Score,
    Scored, TaskOptions,
};
pub use core::{
    Answer, Chunks, Class, ClientError, ItemResult, Lease, Life, LoadSequence, MemberSeen, Multivector,
    OwnFacts, Ranked, Span, SparseVector, Standing, Vector, Vectors, WhenOverloaded,
};
#[cfg(feature = "link")]
pub use identity::{
    Authority, Identity, IdentityError, Issuer, LiveIdentity, Registrar, Token, TokenError, TokenTerms,
    WallClock,
};
#[cfg(feature = "link")]
pub use link::{
    BindError, BoxFuture, ConnectError, Door, JoinError, JoinOptions, JoinServer, JoinServerOptions,
    LinkError, LinkLimits, Net, NetThread, Peer, QuicServer, QuicServerOptions, Renewing, RenewingOptions,
    Reply, Service, SetupError, TokioNet, join, renew,
};
#[cfg(feature = "link")]
pub use peer::{HeardLoad, MeshState, News, PeerCounters, PeerOptions, PeerServer};
