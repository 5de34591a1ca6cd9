//! Frames: a header and the body that it announces. The only door for untrusted bytes.

use crate::header::{Header, Kind};
use crate::message::{
    Beacon, DrainRequest, End, ExplainRequest, Explanation, FactsDelta, FactsDigest, FactsPull, Failure,
    Hello, JoinGrant, JoinRefusal, JoinRequest, JoinToken, LoadProbe, LoadRecord, LoadReply, LoadRequest,
    MeshUpdate, NodeFacts, RenewRequest, Status, StatusRequest, TaskRequest, TaskResult,
};
use crate::wire::{DecodeError, EncodeError, VersionRange, Wire};

/// Everything that can be said.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// First frame of a connection.
    Hello(Hello),
    /// Texts and what to do with them.
    TaskRequest(TaskRequest),
    /// Answers.
    TaskResult(TaskResult),
    /// Proof of progress.
    Beacon(Beacon),
    /// Terminal: complete.
    End(End),
    /// Terminal: failed.
    Failure(Failure),
    /// Load of a device.
    Load(LoadRecord),
    /// Asks for the status.
    StatusRequest(StatusRequest),
    /// The status; terminal.
    Status(Box<Status>),
    /// A node's facts.
    Facts(Box<NodeFacts>),
    /// A change of them.
    FactsDelta(Box<FactsDelta>),
    /// Versions of everybody's facts.
    FactsDigest(FactsDigest),
    /// Asks for a node's facts.
    FactsPull(FactsPull),
    /// Asks for a device's load.
    LoadProbe(LoadProbe),
    /// A device's load, asked for.
    LoadReply(LoadReply),
    /// Asks a member to load a model.
    LoadRequest(LoadRequest),
    /// A right to join.
    JoinToken(Box<JoinToken>),
    /// Asks for a first certificate.
    JoinRequest(Box<JoinRequest>),
    /// Asks for the next certificate.
    RenewRequest(RenewRequest),
    /// A certificate; terminal.
    JoinGrant(Box<JoinGrant>),
    /// No certificate; terminal.
    JoinRefusal(JoinRefusal),
    /// Who is there and how loaded.
    MeshUpdate(MeshUpdate),
    /// Asks why a request ran where it did.
    ExplainRequest(ExplainRequest),
    /// What a node remembers of a request; terminal.
    Explanation(Box<Explanation>),
    /// Asks a node to leave.
    DrainRequest(DrainRequest),
}

impl Message {
    /// The kind in the header.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::TaskRequest(_) => Kind::TaskRequest,
            Self::TaskResult(_) => Kind::TaskResult,
            Self::Beacon(_) => Kind::Beacon,
            Self::End(_) => Kind::End,
            Self::Failure(_) => Kind::Error,
            Self::Load(_) => Kind::Load,
            Self::StatusRequest(_) => Kind::StatusRequest,
            Self::Status(_) => Kind::Status,
            Self::Facts(_) => Kind::Facts,
            Self::FactsDelta(_) => Kind::FactsDelta,
            Self::FactsDigest(_) => Kind::FactsDigest,
            Self::FactsPull(_) => Kind::FactsPull,
            Self::LoadProbe(_) => Kind::LoadProbe,
            Self::LoadReply(_) => Kind::LoadReply,
            Self::LoadRequest(_) => Kind::LoadRequest,
            Self::JoinToken(_) => Kind::JoinToken,
            Self::JoinRequest(_) => Kind::JoinRequest,
            Self::RenewRequest(_) => Kind::RenewRequest,
            Self::JoinGrant(_) => Kind::JoinGrant,
            Self::JoinRefusal(_) => Kind::JoinRefusal,
            Self::MeshUpdate(_) => Kind::MeshUpdate,
            Self::ExplainRequest(_) => Kind::ExplainRequest,
            Self::DrainRequest(_) => Kind::DrainRequest,
            Self::Explanation(_) => Kind::Explanation,
        }
    }
}

/// A message with the part of its header that is not derived from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Forwardings so far.
    pub hops: u8,
    /// What is said.
    pub message: Message,
}

impl From<Message> for Frame {
    fn from(message: Message) -> Self {
        Self { hops: 0, message }
    }
}

/// Appends the frame to `out` in wire version `version` (the one agreed on in the hello).
///
/// # Errors
/// See [`EncodeError`]; `out` is as it was.
pub fn encode(frame: &Frame, version: u16, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let body = match &frame.message {
        Message::Hello(message) => message.to_body(version),
        Message::TaskRequest(message) => message.to_body(version),
        Message::TaskResult(message) => message.to_body(version),
        Message::Beacon(message) => message.to_body(version),
        Message::End(message) => message.to_body(version),
        Message::Failure(message) => message.to_body(version),
        Message::Load(message) => message.to_body(version),
        Message::StatusRequest(message) => message.to_body(version),
        Message::Status(message) => message.to_body(version),
        Message::Facts(message) => message.to_body(version),
        Message::FactsDelta(message) => message.to_body(version),
        Message::FactsDigest(message) => message.to_body(version),
        Message::FactsPull(message) => message.to_body(version),
        Message::LoadProbe(message) => message.to_body(version),
        Message::LoadReply(message) => message.to_body(version),
        Message::LoadRequest(message) => message.to_body(version),
        Message::JoinToken(message) => message.to_body(version),
        Message::JoinRequest(message) => message.to_body(version),
        Message::RenewRequest(message) => message.to_body(version),
        Message::JoinGrant(message) => message.to_body(version),
        Message::JoinRefusal(message) => message.to_body(version),
        Message::MeshUpdate(message) => message.to_body(version),
        Message::ExplainRequest(message) => message.to_body(version),
        Message::DrainRequest(message) => message.to_body(version),
        Message::Explanation(message) => message.to_body(version),
    }?;
    let (kind, max) = (frame.message.kind(), frame.message.kind().body_bytes_max());
    let too_large = EncodeError::TooLarge { kind, length: body.len(), max };
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= max).ok_or(too_large)?;
    out.reserve(Header::BYTES + body.len());
    out.extend_from_slice(&Header { kind, schema: version, length, hops: frame.hops }.encode());
    out.extend_from_slice(&body);
    Ok(())
}

/// Reads the untrusted body that `header` announces. Lengths are checked before the archive is validated, and
/// the limits of the values after it.
///
/// # Errors
/// See [`DecodeError`]; nothing of the bytes was used.
pub fn decode(header: &Header, body: &[u8]) -> Result<Frame, DecodeError> {
    let Header { kind, schema, length, hops } = *header;
    if body.len() != length as usize {
        return Err(DecodeError::Length { kind, got: body.len(), want: length });
    }
    let VersionRange { min, max } = VersionRange::OURS;
    if schema < min || schema > max {
        return Err(DecodeError::Schema { kind, schema, min, max });
    }
    let message = match kind {
        Kind::Hello => Message::Hello(checked(schema, body, Hello::check)?),
        Kind::TaskRequest => Message::TaskRequest(checked(schema, body, TaskRequest::check)?),
        Kind::TaskResult => Message::TaskResult(checked(schema, body, TaskResult::check)?),
        Kind::Beacon => Message::Beacon(Beacon::from_body(schema, body)?),
        Kind::End => Message::End(End::from_body(schema, body)?),
        Kind::Error => {
            let failure = Failure::from_body(schema, body)?;
            failure.check()?;
            Message::Failure(failure)
        }
        Kind::Load => Message::Load(LoadRecord::from_body(schema, body)?),
        Kind::StatusRequest => Message::StatusRequest(StatusRequest::from_body(schema, body)?),
        Kind::Status => Message::Status(Box::new(Status::from_body(schema, body)?)),
        Kind::Facts => Message::Facts(Box::new(checked(schema, body, NodeFacts::check)?)),
        Kind::FactsDelta => Message::FactsDelta(Box::new(checked(schema, body, FactsDelta::check)?)),
        Kind::FactsDigest => Message::FactsDigest(checked(schema, body, FactsDigest::check)?),
        Kind::FactsPull => Message::FactsPull(FactsPull::from_body(schema, body)?),
        Kind::LoadProbe => Message::LoadProbe(checked(schema, body, LoadProbe::check)?),
        Kind::LoadReply => Message::LoadReply(LoadReply::from_body(schema, body)?),
        Kind::LoadRequest => Message::LoadRequest(checked(schema, body, LoadRequest::check)?),
        Kind::JoinToken => Message::JoinToken(Box::new(checked(schema, body, JoinToken::check)?)),
        Kind::JoinRequest => Message::JoinRequest(Box::new(checked(schema, body, JoinRequest::check)?)),
        Kind::RenewRequest => Message::RenewRequest(checked(schema, body, RenewRequest::check)?),
        Kind::JoinGrant => Message::JoinGrant(Box::new(checked(schema, body, JoinGrant::check)?)),
        Kind::JoinRefusal => Message::JoinRefusal(JoinRefusal::from_body(schema, body)?),
        Kind::MeshUpdate => Message::MeshUpdate(checked(schema, body, MeshUpdate::check)?),
        Kind::ExplainRequest => Message::ExplainRequest(ExplainRequest::from_body(schema, body)?),
        Kind::DrainRequest => Message::DrainRequest(DrainRequest::from_body(schema, body)?),
        Kind::Explanation => Message::Explanation(Box::new(checked(schema, body, Explanation::check)?)),
    };
    Ok(Frame { hops, message })
}

/// Reads a body and holds its values to the limits that the archive's validation does not know.
fn checked<M: Wire>(
    schema: u16,
    body: &[u8],
    check: impl FnOnce(&M) -> Result<(), DecodeError>,
) -> Result<M, DecodeError> {
    let message = M::from_body(schema, body)?;
    check(&message)?;
    Ok(message)
}

#[cfg(test)]
mod tests;
