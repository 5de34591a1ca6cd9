//! The connections of a member, and what is said on them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use quinn::Connection;
use shoal_protocol::{Frame, Message, NodeId, encode};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::driver::Event;
use super::line::{Ends, Line};
use super::links::{LinkId, Links};
use crate::core::{FactsMessage, FactsSend, LoadSend};
use crate::link::codes::Code;

/// Bytes of frames being received on all lines together.
const RECEIVING_BYTES_MAX: usize = 64 << 20;

/// The connections, and where what comes on them goes.
pub(super) struct Wires {
    pub(super) lines: BTreeMap<LinkId, Line>,
    next: LinkId,
    pub(super) inbox: mpsc::Sender<Event>,
    receiving: Arc<Semaphore>,
    pub(super) datagrams_dropped: u64,
    pub(super) loads_sent: u64,
}

/// Frames in each wire version that a receiver speaks, written on first use.
struct Written<'a> {
    frames: &'a [Frame],
    versions: BTreeMap<u16, Bytes>,
}

impl<'a> Written<'a> {
    fn new(frames: &'a [Frame]) -> Self {
        Self { frames, versions: BTreeMap::new() }
    }

    /// `None`: it cannot be said in this version, which is in the log.
    fn in_version(&mut self, version: u16) -> Option<Bytes> {
        match self.versions.entry(version) {
            Entry::Occupied(written) => Some(written.get().clone()),
            Entry::Vacant(entry) => {
                let mut bytes = Vec::new();
                let wrote = self.frames.iter().try_for_each(|frame| encode(frame, version, &mut bytes));
                if let Err(error) = wrote {
                    tracing::error!(%error, "what members are told has no wire form");
                    return None;
                }
                Some(entry.insert(bytes.into()).clone())
            }
        }
    }
}

impl Wires {
    pub(super) fn new(inbox: mpsc::Sender<Event>) -> Self {
        Self {
            lines: BTreeMap::new(),
            next: 0,
            inbox,
            receiving: Arc::new(Semaphore::new(RECEIVING_BYTES_MAX)),
            datagrams_dropped: 0,
            loads_sent: 0,
        }
    }

    /// The name of the next connection.
    pub(super) fn next(&mut self) -> LinkId {
        self.next += 1;
        self.next
    }

    pub(super) fn start(
        &mut self,
        link: LinkId,
        node: NodeId,
        connection: Connection,
        version: u16,
        tasks: &mut JoinSet<()>,
    ) {
        let ends = Ends { link, node, events: self.inbox.clone(), receiving: self.receiving.clone() };
        self.lines.insert(link, Line::start(connection, version, ends, tasks));
    }

    pub(super) fn close(&mut self, link: LinkId, code: Code, why: &str) {
        if let Some(line) = self.lines.get(&link) {
            line.close(code, why);
        }
    }

    pub(super) fn send_facts(&mut self, send: FactsSend, links: &Links) {
        let message = match send.message {
            FactsMessage::Record(record) => Message::Facts(Box::new(Arc::unwrap_or_clone(record))),
            FactsMessage::Delta(delta) => Message::FactsDelta(Box::new(Arc::unwrap_or_clone(delta))),
            FactsMessage::Digest(digest) => Message::FactsDigest(Arc::unwrap_or_clone(digest)),
            FactsMessage::Pull(pull) => Message::FactsPull(pull),
        };
        self.send_to(&send.to, &message.into(), links);
    }

    /// Sends a frame to those of the members that are connected, after what was said to them before.
    pub(super) fn send_to(&mut self, to: &[NodeId], frame: &Frame, links: &Links) {
        let mut written = Written::new(std::slice::from_ref(frame));
        for line in to.iter().filter_map(|node| self.lines.get(&links.of(*node)?)) {
            let Some(bytes) = written.in_version(line.version) else { return };
            if !line.send_frame(bytes) {
                line.close(Code::Slow, "too far behind");
            }
        }
    }

    /// One datagram to each.
    pub(super) fn send_loads(&mut self, send: &LoadSend, links: &Links) {
        let frames: Vec<Frame> = send.records.iter().map(|record| Message::Load(*record).into()).collect();
        let mut written = Written::new(&frames);
        for line in send.to.iter().filter_map(|node| self.lines.get(&links.of(*node)?)) {
            let Some(bytes) = written.in_version(line.version) else { return };
            if line.send_datagram(bytes) {
                self.loads_sent += frames.len() as u64;
            } else {
                self.datagrams_dropped += 1;
            }
        }
    }

    pub(super) fn send_datagram(&mut self, link: LinkId, bytes: Vec<u8>) {
        let sent = self.lines.get(&link).is_some_and(|line| line.send_datagram(bytes.into()));
        self.datagrams_dropped += u64::from(!sent);
    }
}
