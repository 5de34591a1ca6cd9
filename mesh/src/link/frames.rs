//! Frames over a byte stream, and over a channel that stands for one.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use shoal_protocol::header::Header;
use shoal_protocol::{DecodeError, Frame, HeaderError, Kind, WIRE_VERSION, decode, encode};
use tokio::sync::{mpsc, watch};

use super::codes::Code;
use super::dial::Linked;
use super::reply::LinkError;

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream ended between frames.
    #[error("the stream ended without a terminal frame")]
    Ended,
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Cut,
    /// The peer reset the stream.
    #[error("the stream was reset: {0}")]
    Reset(Code),
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Lost(String),
    /// A frame of a kind that does not belong there.
    #[error("{0:?} does not belong there")]
    Misplaced(Kind),
    /// What came is no frame.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl From<HeaderError> for FrameError {
    fn from(error: HeaderError) -> Self {
        Self::Decode(error.into())
    }
}

impl From<quinn::ReadError> for FrameError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::Reset(code.into()),
            error => Self::Lost(error.to_string()),
        }
    }
}

/// The reading half of a stream.
#[derive(Debug)]
pub(crate) enum FrameSource {
    Quic(quinn::RecvStream),
    /// Each message is one frame, header included. Dropping `_alive` tells the writer that nobody reads.
    Memory {
        frames: mpsc::Receiver<Vec<u8>>,
        _alive: watch::Sender<()>,
    },
}

impl FrameSource {
    /// Reads the 16 bytes of a header, or [`FrameError::Ended`].
    pub(crate) async fn header(stream: &mut quinn::RecvStream) -> Result<Header, FrameError> {
        let mut bytes = [0; Header::BYTES];
        let mut filled = 0;
        while filled < bytes.len() {
            match stream.read(&mut bytes[filled..]).await? {
                Some(count) => filled += count,
                None if filled == 0 => return Err(FrameError::Ended),
                None => return Err(FrameError::Cut),
            }
        }
        Ok(Header::decode(&bytes)?)
    }

    /// Reads the body that `header` announces. Memory grows with what arrives, not with what is announced.
    pub(crate) async fn body(stream: &mut quinn::RecvStream, header: &Header) -> Result<Frame, FrameError> {
        let length = header.length as usize;
        let mut body = Bytes::new();
        let mut joined = Vec::new();
        while body.len() + joined.len() < length {
            let want = length - body.len() - joined.len();
            let chunk = stream.read_chunk(want, true).await?.ok_or(FrameError::Cut)?;
            if chunk.bytes.len() == length {
                body = chunk.bytes; // the usual small frame: one chunk, no copy
            } else {
                joined.extend_from_slice(&chunk.bytes);
            }
        }
        let body = if joined.is_empty() { &body[..] } else { &joined };
        Ok(decode(header, body)?)
    }

    /// Reads the frame that is all of a datagram.
    pub(crate) fn datagram(bytes: &[u8]) -> Result<Frame, FrameError> {
        let (header, body) = bytes.split_first_chunk().ok_or(FrameError::Cut)?;
        Ok(decode(&Header::decode(header)?, body)?)
    }

    /// Reads one frame.
    pub(crate) async fn read(&mut self) -> Result<Frame, FrameError> {
        match self {
            Self::Quic(stream) => {
                let header = Self::header(stream).await?;
                Self::body(stream, &header).await
            }
            Self::Memory { frames, .. } => {
                let bytes = frames.recv().await.ok_or(FrameError::Ended)?;
                Self::datagram(&bytes)
            }
        }
    }
}

/// The writing half of a stream.
#[derive(Debug)]
pub(crate) enum FrameSink {
    Quic {
        stream: quinn::SendStream,
        /// The version agreed on in the hello.
        version: u16,
        /// A frame is partly written: nothing but a reset may follow.
        torn: bool,
    },
    Memory {
        frames: mpsc::Sender<Vec<u8>>,
        alive: watch::Receiver<()>,
    },
}

impl FrameSink {
    pub(crate) fn quic(stream: quinn::SendStream, version: u16) -> Self {
        Self::Quic { stream, version, torn: false }
    }

    /// Writes one frame; waits while the peer does not read.
    pub(crate) async fn write(&mut self, frame: Frame) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        match self {
            Self::Quic { stream, version, torn } => {
                encode(&frame, *version, &mut bytes)?;
                if std::mem::replace(torn, true) {
                    return Err(LinkError::Gone);
                }
                let written = stream.write_chunk(bytes.into()).await;
                *torn = written.is_err();
                written.map_err(|_| LinkError::Gone)
            }
            Self::Memory { frames, .. } => {
                encode(&frame, WIRE_VERSION, &mut bytes)?;
                frames.send(bytes).await.map_err(|_| LinkError::Gone)
            }
        }
    }

    /// Says that no frame follows.
    pub(crate) fn finish(&mut self) {
        if let Self::Quic { stream, .. } = self {
            // An error says that the stream is closed already.
            let _ = stream.finish();
        }
    }

    /// Says `last` if that is possible at once, and resets the stream if not.
    pub(crate) fn abandon(&mut self, last: Frame) {
        let said = matches!(self.write(last).now_or_never(), Some(Ok(())));
        if said { self.finish() } else { self.reset(Code::Internal) }
    }

    /// Ends without a word. In memory that is to stop, which the drop does.
    pub(crate) fn reset(&mut self, code: Code) {
        if let Self::Quic { stream, .. } = self {
            // An error says that the stream is closed already.
            let _ = stream.reset(code.into());
        }
    }
}

/// One attempt as its caller holds it. Dropped before its terminal frame was read, it cancels the attempt.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// `None` in memory, where the request went as a whole.
    sink: Option<FrameSink>,
    source: FrameSource,
    /// What carries it, held so that it is not closed as idle; `None` in memory.
    linked: Option<Arc<Linked>>,
    ended: bool,
}

impl Exchange {
    /// The answer to a request that was handed over in memory.
    pub(crate) fn memory(source: FrameSource) -> Self {
        Self { sink: None, source, linked: None, ended: false }
    }

    /// Sends a request on a fresh stream. A drop cancels it from its first byte on.
    pub(crate) async fn request(
        linked: Arc<Linked>,
        (send, recv): (quinn::SendStream, quinn::RecvStream),
        version: u16,
        frame: Frame,
    ) -> Result<Self, LinkError> {
        let mut exchange =
            Self { sink: None, source: FrameSource::Quic(recv), linked: Some(linked), ended: false };
        let sink = exchange.sink.insert(FrameSink::quic(send, version));
        match sink.write(frame).await {
            // A node that refuses a request before it read all of it stops the stream: its answer says why.
            Ok(()) | Err(LinkError::Gone) => sink.finish(),
            Err(error) => return Err(error),
        }
        Ok(exchange)
    }

    /// The connection that carries it.
    pub(crate) fn connection(&self) -> Option<usize> {
        self.linked.as_ref().map(|linked| linked.id())
    }

    /// Reads the next frame of the answer.
    pub(crate) async fn read(&mut self) -> Result<Frame, FrameError> {
        let frame = self.source.read().await?;
        if frame.message.kind().is_terminal() {
            self.ended = true;
            if let FrameSource::Quic(stream) = &mut self.source {
                // Takes the end of the stream, which came with the frame: else the drop would ask the peer to stop.
                let _ = stream.read_chunk(1, true).now_or_never();
            }
        }
        Ok(frame)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Errors say that the stream is closed already.
        if let FrameSource::Quic(stream) = &mut self.source {
            let _ = stream.stop(Code::Cancelled.into());
        }
        if let Some(FrameSink::Quic { stream, .. }) = &mut self.sink {
            let _ = stream.reset(Code::Cancelled.into());
        }
    }
}
