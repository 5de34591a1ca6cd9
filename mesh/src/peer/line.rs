//! One connection between members: what is sent on it and what comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, WriteError};
use shoal_protocol::message::LoadRecord;
use shoal_protocol::{Header, Kind, Message, NodeId};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::driver::Event;
use super::links::LinkId;
use crate::core::MEMBERSHIP_FORMAT;
use crate::link::codes::Code;
use crate::link::frames::{FrameError, FrameSource};
use crate::link::transport::DATAGRAMS_BYTES_MAX;

/// Frames that wait to be written: what one peer is told in several seconds. A peer that is further behind is cut off
/// and told everything anew when it is back.
const FRAMES_MAX: usize = 64;
/// For the rest of a frame, once its header is there: 4 MiB at 0.8 MiB/s.
const FRAME_WAIT: Duration = Duration::from_secs(5);

/// What members say on their stream.
const SAID_IN_ORDER: [Kind; 5] =
    [Kind::Facts, Kind::FactsDelta, Kind::FactsDigest, Kind::FactsPull, Kind::LoadRequest];

/// The sending half, and the way to end it.
#[derive(Debug)]
pub(super) struct Line {
    connection: Connection,
    pub(super) version: u16,
    frames: mpsc::Sender<Bytes>,
}

/// Whose line it is, and where what comes on it goes.
#[derive(Clone)]
pub(super) struct Ends {
    pub(super) link: LinkId,
    pub(super) node: NodeId,
    pub(super) events: mpsc::Sender<Event>,
    /// Bytes of frames that are being received on all lines together.
    pub(super) receiving: Arc<Semaphore>,
}

/// Why a connection must end: its peer broke a rule. `None`: it is over already.
type Breach = Option<String>;

impl Line {
    /// Starts the connection's task, which ends with it and says so.
    pub(super) fn start(connection: Connection, version: u16, ends: Ends, tasks: &mut JoinSet<()>) -> Self {
        let (frames, outbox) = mpsc::channel(FRAMES_MAX);
        let line = Self { connection: connection.clone(), version, frames };
        tasks.spawn(run(connection, ends, outbox));
        line
    }

    /// Sends a datagram; says whether there was room and a way for it.
    pub(super) fn send_datagram(&self, bytes: Bytes) -> bool {
        self.connection.send_datagram(bytes).is_ok()
    }

    /// Sends a frame after those before it; says whether there was room for it.
    pub(super) fn send_frame(&self, frame: Bytes) -> bool {
        self.frames.try_send(frame).is_ok()
    }

    /// Whether every datagram has left.
    pub(super) fn is_flushed(&self) -> bool {
        self.connection.close_reason().is_some()
            || self.connection.datagram_send_buffer_space() >= DATAGRAMS_BYTES_MAX
    }

    pub(super) fn close(&self, code: Code, why: &str) {
        self.connection.close(code.into(), why.as_bytes());
    }
}

async fn run(connection: Connection, ends: Ends, outbox: mpsc::Receiver<Bytes>) {
    let breach = tokio::select! {
        breach = read_datagrams(&connection, &ends) => breach,
        breach = read_frames(&connection, &ends) => breach,
        breach = write_frames(&connection, outbox) => breach,
        breach = refuse_exchanges(&connection) => breach,
    };
    let Ends { link, node, events, .. } = ends;
    if let Some(why) = breach {
        tracing::warn!(%node, why, "a member broke the protocol; its connection is closed");
        connection.close(Code::Protocol.into(), why.as_bytes());
    } else if let Some(reason) = connection.close_reason() {
        tracing::debug!(%node, %reason, "connection to a member is over");
    }
    // Where the driver is gone, so is everybody who could care.
    let _ = events.send(Event::Closed { link, node }).await;
}

/// A reader that is behind leaves datagrams in QUIC's own buffer, where the oldest give way.
async fn read_datagrams(connection: &Connection, ends: &Ends) -> Breach {
    loop {
        let bytes = connection.read_datagram().await.ok()?;
        let Ends { link, node, .. } = *ends;
        let event = if bytes.first() == Some(&MEMBERSHIP_FORMAT) {
            Event::Datagram { link, node, bytes }
        } else {
            match read_loads(&bytes) {
                Ok(records) => Event::Loads { node, records },
                Err(error) => return Some(format!("a datagram of {} bytes: {error}", bytes.len())),
            }
        };
        ends.events.send(event).await.ok()?;
    }
}

/// Load frames, one after the other. No more fit into a datagram than a node's facts can list devices.
fn read_loads(mut bytes: &[u8]) -> Result<Vec<LoadRecord>, FrameError> {
    let mut records = Vec::new();
    loop {
        let header = bytes.first_chunk().ok_or(FrameError::Cut)?;
        let length = Header::BYTES + Header::decode(header)?.length as usize;
        let (frame, rest) = bytes.split_at_checked(length).ok_or(FrameError::Cut)?;
        match FrameSource::datagram(frame)?.message {
            Message::Load(record) => records.push(record),
            other => return Err(FrameError::Misplaced(other.kind())),
        }
        bytes = rest;
        if bytes.is_empty() {
            return Ok(records);
        }
    }
}

/// One frame after the other, so that a peer never has more than one in memory here.
async fn read_frames(connection: &Connection, ends: &Ends) -> Breach {
    let mut stream = connection.accept_uni().await.ok()?;
    loop {
        match read_frame(&mut stream, ends).await {
            Ok(message) => {
                let Ends { link, node, .. } = *ends;
                ends.events.send(Event::Message { link, node, message }).await.ok()?;
            }
            Err(FrameError::Lost(_)) => return None,
            Err(error) => return Some(error.to_string()),
        }
    }
}

async fn read_frame(stream: &mut RecvStream, ends: &Ends) -> Result<Message, FrameError> {
    let header = FrameSource::header(stream).await?;
    if !SAID_IN_ORDER.contains(&header.kind) {
        return Err(FrameError::Misplaced(header.kind));
    }
    // Waits for room. The semaphore is never closed, and no body is larger than all of it.
    let _room = ends.receiving.acquire_many(header.length).await;
    let body = timeout(FRAME_WAIT, FrameSource::body(stream, &header)).await;
    Ok(body.map_err(|_| FrameError::Cut)??.message)
}

/// All on one stream, because a change only makes sense after the one before it.
async fn write_frames(connection: &Connection, mut outbox: mpsc::Receiver<Bytes>) -> Breach {
    let mut stream = connection.open_uni().await.ok()?;
    loop {
        let frame = outbox.recv().await?;
        match stream.write_chunk(frame).await {
            Ok(()) => {}
            Err(WriteError::Stopped(_)) => return Some("does not want to be told anything".to_owned()),
            Err(_) => return None,
        }
    }
}

/// The hello was the only exchange; whoever starts another speaks another language.
async fn refuse_exchanges(connection: &Connection) -> Breach {
    connection.accept_bi().await.ok()?;
    Some("a second hello".to_owned())
}
