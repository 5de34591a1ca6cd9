//! The first exchange of a connection: who speaks, and which wire version.

use quinn::{Connection, RecvStream, SendStream};
use shoal_protocol::message::Hello;
use shoal_protocol::wire::VersionRange;
use shoal_protocol::{DecodeError, Frame, Kind, Message, NodeId};

use super::codes::Code;
use super::frames::{FrameError, FrameSink, FrameSource};

/// Why the hellos did not lead to an agreement.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelloError {
    /// Something else came.
    #[error("no hello: {0}")]
    Frame(#[from] FrameError),
    /// The hello could not be sent.
    #[error("connection lost: {0}")]
    Lost(#[from] quinn::ConnectionError),
    /// No wire version in common.
    #[error("speaks wire versions {theirs:?}, here {ours:?}")]
    Version { theirs: VersionRange, ours: VersionRange },
    /// The hello names another key than the certificate.
    #[error("the hello names node {said}, the certificate {certified}")]
    Impostor { said: NodeId, certified: NodeId },
}

impl HelloError {
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Frame(FrameError::Decode(DecodeError::Schema { .. })) | Self::Version { .. } => {
                Code::Version
            }
            Self::Frame(_) | Self::Lost(_) => Code::Protocol,
            Self::Impostor { .. } => Code::Forbidden,
        }
    }
}

/// What this end says about itself.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) node: NodeId,
    pub(super) generation: u64,
    pub(super) software: String,
}

impl Own {
    fn hello(&self) -> Message {
        Message::Hello(Hello {
            version_min: VersionRange::OURS.min,
            version_max: VersionRange::OURS.max,
            node: self.node,
            generation: self.generation,
            software: self.software.clone(),
        })
    }
}

/// The dialing end: says hello, hears one, and knows the version.
pub(super) async fn say(connection: &Connection, own: &Own, certified: NodeId) -> Result<u16, HelloError> {
    let (send, mut recv) = connection.open_bi().await?;
    write(send, own).await?;
    agree(read(&mut recv).await?, certified)
}

/// The accepting end, on the connection's first stream.
pub(super) async fn answer(connection: &Connection, own: &Own, certified: NodeId) -> Result<u16, HelloError> {
    let (send, mut recv) = connection.accept_bi().await?;
    let version = agree(read(&mut recv).await?, certified)?;
    write(send, own).await?;
    Ok(version)
}

/// In the oldest version spoken, so that an older peer can read why there is none in common.
async fn write(send: SendStream, own: &Own) -> Result<(), HelloError> {
    let mut sink = FrameSink::quic(send, VersionRange::OURS.min);
    if sink.write(own.hello().into()).await.is_err() {
        return Err(FrameError::Lost("the peer refused the hello".to_owned()).into());
    }
    sink.finish();
    Ok(())
}

async fn read(recv: &mut RecvStream) -> Result<Hello, HelloError> {
    let header = FrameSource::header(recv).await?;
    if header.kind != Kind::Hello {
        let what = format!("{:?} before any hello", header.kind);
        return Err(FrameError::Lost(what).into());
    }
    let Frame { message, .. } = FrameSource::body(recv, &header).await?;
    match message {
        Message::Hello(hello) => Ok(hello),
        other => Err(FrameError::Lost(format!("{:?} in a hello frame", other.kind())).into()),
    }
}

fn agree(hello: Hello, certified: NodeId) -> Result<u16, HelloError> {
    if hello.node != certified {
        return Err(HelloError::Impostor { said: hello.node, certified });
    }
    let (theirs, ours) = (hello.versions(), VersionRange::OURS);
    ours.agree(theirs).ok_or(HelloError::Version { theirs, ours })
}
