//! A connection between two members, as its two ends see it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use shoal_protocol::Message;
use shoal_protocol::message::LoadRecord;

use crate::core::FactsMessage;

/// What travels between members.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// A datagram of membership.
    Swim(Vec<u8>),
    /// A datagram of loads.
    Loads(Arc<[LoadRecord]>),
    /// On the stream of facts.
    Facts(FactsMessage),
    /// On the same stream: anything else.
    Other(Box<Message>),
}

/// One direction of the stream.
#[derive(Debug)]
struct Way {
    /// Messages stay in order: none arrives before this.
    arrives_after: Instant,
    /// What cannot be delivered as long as the link is cut.
    stalled: VecDeque<Said>,
}

/// Both ends, the one that dialed first.
#[derive(Debug)]
pub(super) struct Connection {
    ends: [u16; 2],
    /// Which process of the member each end belongs to.
    epochs: [u64; 2],
    open: [bool; 2],
    /// Not open any more.
    closed: [bool; 2],
    ways: [Way; 2],
}

impl Connection {
    /// A connection of two processes (member, epoch), the one that dialed first. Its handshake is over at that end; what is
    /// said there arrives after `greeted_at`.
    pub(super) fn new(ends: [(u16, u64); 2], greeted_at: Instant) -> Self {
        let way = || Way { arrives_after: greeted_at, stalled: VecDeque::new() };
        let (epochs, ends) = (ends.map(|(_, epoch)| epoch), ends.map(|(member, _)| member));
        Self { ends, epochs, open: [false; 2], closed: [false; 2], ways: [way(), way()] }
    }

    fn end(&self, member: u16) -> usize {
        usize::from(self.ends[0] != member)
    }

    /// Who is at the other end.
    pub(super) fn other(&self, member: u16) -> u16 {
        self.ends[1 - self.end(member)]
    }

    pub(super) fn has(&self, member: u16) -> bool {
        self.ends.contains(&member)
    }

    /// Whether one end is closed, at a process that can tell so: it knows the key of its stateless resets (RFC 9000, section
    /// 10.3), and the one after it does not.
    pub(super) fn is_reset_by(&self, member: u16, epoch: u64) -> bool {
        let end = self.end(member);
        self.closed[end] && self.epochs[end] == epoch
    }

    pub(super) fn is_open_at(&self, member: u16) -> bool {
        self.open[self.end(member)]
    }

    /// Opens or closes one end; whether that changed it. What waits at a closed end is lost.
    pub(super) fn set_open(&mut self, member: u16, open: bool) -> bool {
        let end = self.end(member);
        if !open {
            self.ways[end].stalled.clear();
        }
        self.closed[end] = !open;
        std::mem::replace(&mut self.open[end], open) != open
    }

    /// When a message that could arrive `at` some time does, behind those before it.
    pub(super) fn in_order(&mut self, from: u16, at: Instant) -> Instant {
        let end = self.end(from);
        let way = &mut self.ways[end];
        way.arrives_after = way.arrives_after.max(at) + std::time::Duration::from_nanos(1);
        way.arrives_after
    }

    /// Keeps what cannot be delivered now.
    pub(super) fn stall(&mut self, from: u16, said: Said) {
        let end = self.end(from);
        self.ways[end].stalled.push_back(said);
    }

    pub(super) fn is_stalled(&self, from: u16) -> bool {
        !self.ways[self.end(from)].stalled.is_empty()
    }

    /// What was kept, with who said it.
    pub(super) fn take_stalled(&mut self) -> impl Iterator<Item = (u16, VecDeque<Said>)> {
        let ends = self.ends;
        let kept = self.ways.iter_mut().map(|way| std::mem::take(&mut way.stalled));
        ends.into_iter().zip(kept.collect::<Vec<_>>())
    }
}
