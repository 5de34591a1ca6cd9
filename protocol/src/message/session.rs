//! The frames around the work: hello, end, failure.

use rkyv::{Archive, Deserialize, Serialize};

use crate::code::ErrorCode;
use crate::header::Kind;
use crate::ids::{DeviceIndex, NodeId, RequestId};
use crate::limits::{ADDRESS_BYTES_MAX, ALTERNATIVES_MAX};
use crate::message::rule;
use crate::message::status::LoadRecord;
use crate::message::task::Numerics;
use crate::units::Micros;
use crate::wire::{DecodeError, VersionRange, wire_message};

/// What a certificate allows its holder to be.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// Serves work and is a member.
    Node = 0,
    /// Submits work.
    Client = 1,
    /// Submits work, and may drain nodes.
    Operator = 2,
}

/// First frame of a connection, sent by both ends.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest wire version spoken.
    pub version_min: u16,
    /// Newest wire version spoken.
    pub version_max: u16,
    /// The sender.
    pub node: NodeId,
    /// Rises with every start of the sender, so that a restarted node is told from its former self.
    pub generation: u64,
    /// Software and version, for people.
    pub software: String,
    /// Where members reach the sender (`ip:port`), where it is a member.
    pub peer_address: Option<String>,
}

wire_message!(Hello, Kind::Hello);

impl Hello {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let short = self.peer_address.as_ref().is_none_or(|address| address.len() <= ADDRESS_BYTES_MAX);
        rule(Kind::Hello, short, "address too long")
    }

    /// The versions that the sender speaks.
    #[must_use]
    pub fn versions(&self) -> VersionRange {
        VersionRange { min: self.version_min, max: self.version_max }
    }
}

/// Where the time of one attempt went. Stages do not overlap; their sum is at most `total_us`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Waiting for a tokenizer thread.
    pub tokenize_wait_us: Micros,
    /// Text to token ids.
    pub tokenize_us: Micros,
    /// Waiting for the model to be resident.
    pub load_us: Micros,
    /// Waiting for a lane, once resident.
    pub queue_us: Micros,
    /// On the device: the longest batch that held one of the items.
    pub compute_us: Micros,
    /// Vectors to frames.
    pub post_us: Micros,
    /// From the arrival of the request's last byte to the terminal frame.
    pub total_us: Micros,
}

/// Which device did the work, as measured and not as wished.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ServedBy {
    /// The node.
    pub node: NodeId,
    /// Its device.
    pub device: DeviceIndex,
    /// The device's name, for example `cpu avx512-bf16`.
    pub device_name: String,
    /// The precision in which the model ran.
    pub numerics: Numerics,
}

/// Terminal: every item of the attempt was answered.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The request, now naming the node that answered.
    pub request_id: RequestId,
    /// Items answered, failed ones included; must equal the request's items.
    pub items: u32,
    /// Tokens that the model saw in all.
    pub tokens: u64,
    /// Where it ran.
    pub served_by: ServedBy,
    /// Where the time went.
    pub timings: Timings,
}

wire_message!(End, Kind::End);

/// A place that would be sooner, as the one who refuses knows it: a hint, because nobody speaks for another node.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// The node; its device is the record's.
    pub node: NodeId,
    /// Its load when last heard of.
    pub load: LoadRecord,
}

/// Terminal: the attempt failed as a whole. Items already answered stay answered.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub code: ErrorCode,
    /// For people: what happened, what state is left, what to do.
    pub message: String,
    /// When another attempt here is worth while: measured, not guessed.
    pub retry_after_us: Option<Micros>,
    /// Where it would be sooner, best first: at least one where the code is [`ErrorCode::Redirect`].
    pub alternatives: Vec<Alternative>,
}

wire_message!(Failure, Kind::Error);

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(code: ErrorCode, message: String) -> Self {
        Self { code, message, retry_after_us: None, alternatives: Vec::new() }
    }

    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let named = self.alternatives.len();
        rule(Kind::Error, named <= ALTERNATIVES_MAX, "too many alternatives")?;
        rule(Kind::Error, named > 0 || self.code != ErrorCode::Redirect, "a redirect without a place")
    }
}
