//! The pure half: what a client decides, with time and chance as arguments. No runtime, no socket, no clock.
//!
//! [`ClientCore`] composes what is known of the mesh ([`View`]), the choice of a device ([`Router`]) and the calls of the
//! application, each with its attempts in flight and the order of its answers. A driver feeds events in (`handle_*`) and
//! takes outputs out (`poll_*`); the order in which it asks is written at [`ClientCore`].

mod answer;
mod attempts;
mod call;
mod chance;
mod client;
mod dispatch;
mod error;
mod facts;
mod item;
mod load_gossip;
mod load_sequence;
mod member;
mod membership;
mod part;
mod renewal;
mod router;
mod shared;
mod spec;
mod split;
mod view;

pub use answer::{Answer, Chunks, Class, Multivector, Span, SparseVector, Vector, Vectors};
pub use attempts::{AttemptFailure, AttemptKey, CancelReason};
#[cfg(feature = "link")]
pub(crate) use chance::Chance;
pub use client::{CallId, ClientCore};
pub use error::ClientError;
pub use facts::{
    FEED_SILENCE_MAX, Facts, FactsCounters, FactsMessage, FactsRefused, FactsSend, Feed, FeedBroken,
    Following, OwnFacts,
};
pub use item::{ItemResult, Ranked, rank, ranking};
pub use load_gossip::{LoadGossip, LoadSend};
pub use load_sequence::LoadSequence;
#[cfg(feature = "link")]
pub(crate) use load_sequence::order as load_order;
pub use member::{Life, MemberState};
pub use membership::{
    DATAGRAM_BYTES_MAX, DatagramRefused, GENERATION_MAX, MEMBERSHIP_FORMAT, MalformedDatagram, MemberSeen,
    Membership, MembershipCounters, MembershipEvent, MembershipOptions, MembershipTransmit,
    REMOVE_DOWN_AFTER,
};
pub use renewal::{Lease, Renewal, Standing};
pub use router::{
    Candidate, Choice, Copies, CopyWindow, CopyWish, Decision, DecisionError, Elsewhere, Estimate, Further,
    FurtherWorth, Holders, Miss, NoRoute, Probe, Query, Reason, Route, Router, Source, Waiting, elsewhere,
    further_holder, holders, place_miss, sooner_holder, standing_elsewhere,
};
pub use shared::Shared;
pub use spec::{CallSpec, Submit, Summary, Target, WhenOverloaded};
pub use split::Split;
pub use view::{ListedModel, ListedPlace, View};

#[cfg(test)]
pub(crate) mod fleet;
#[cfg(test)]
mod tests;
