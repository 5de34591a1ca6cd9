//! The first exchange of a connection: who speaks, and which wire version.

use std::net::SocketAddr;

use quinn::{Connection, RecvStream, SendStream};
use shoal_protocol::message::Hello;
use shoal_protocol::wire::VersionRange;
use shoal_protocol::{DecodeError, Frame, Kind, Message, NodeId};

use super::codes::Code;
use super::frames::{FrameError, FrameSink, FrameSource};

/// Why the hellos did not lead to an agreement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
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
    pub(crate) fn code(&self) -> Code {
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
pub(crate) struct Own {
    pub(crate) node: NodeId,
    pub(crate) generation: u64,
    pub(crate) software: String,
    /// Where members reach it, if it is one.
    pub(crate) peer_address: Option<SocketAddr>,
}

impl Own {
    /// `node` without a generation and an address.
    pub(crate) fn new(node: NodeId) -> Self {
        let software = concat!("shoal ", env!("CARGO_PKG_VERSION")).to_owned();
        Self { node, generation: 0, software, peer_address: None }
    }

    fn hello(&self) -> Message {
        Message::Hello(Hello {
            version_min: VersionRange::OURS.min,
            version_max: VersionRange::OURS.max,
            node: self.node,
            generation: self.generation,
            software: self.software.clone(),
            peer_address: self.peer_address.map(|address| address.to_string()),
        })
    }
}

/// What the hellos led to.
#[derive(Clone, Debug)]
pub(crate) struct Agreed {
    /// The wire version of this connection.
    pub(crate) version: u16,
    /// The peer's.
    pub(crate) generation: u64,
    /// Where members reach the peer, as it says.
    pub(crate) peer_address: Option<SocketAddr>,
}

/// The dialing end: says hello, hears one, and knows the version.
pub(crate) async fn say(connection: &Connection, own: &Own, certified: NodeId) -> Result<Agreed, HelloError> {
    let (send, mut recv) = connection.open_bi().await?;
    write(send, own).await?;
    agree(read(&mut recv).await?, certified)
}

/// The accepting end, on the connection's first stream.
pub(super) async fn answer(
    connection: &Connection,
    own: &Own,
    certified: NodeId,
) -> Result<Agreed, HelloError> {
    let (send, mut recv) = connection.accept_bi().await?;
    let agreed = agree(read(&mut recv).await?, certified)?;
    write(send, own).await?;
    Ok(agreed)
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

fn agree(hello: Hello, certified: NodeId) -> Result<Agreed, HelloError> {
    if hello.node != certified {
        return Err(HelloError::Impostor { said: hello.node, certified });
    }
    let (theirs, ours) = (hello.versions(), VersionRange::OURS);
    let version = ours.agree(theirs).ok_or(HelloError::Version { theirs, ours })?;
    // An address that is none is as good as unsaid: the peer is then known by where it calls from.
    let peer_address = hello.peer_address.and_then(|address| address.parse().ok());
    Ok(Agreed { version, generation: hello.generation, peer_address })
}
