//! One process: its machines, its clock, and whether it runs.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::message::{LoadRecord, NodeFacts};

use super::clock::Clock;
use super::connection::Said;
use crate::core::Life;
use crate::peer::links::LinkId;
use crate::peer::machines::Machines;

/// Whether a process runs.
#[derive(Debug)]
pub(super) enum Power {
    Running,
    /// `SIGSTOP`: what reached it since then waits.
    Stopped {
        since: Instant,
        waiting: Vec<Event>,
    },
    Dead {
        since: Instant,
    },
}

pub(super) struct Member {
    pub(super) machines: Machines,
    pub(super) clock: Clock,
    pub(super) power: Power,
    /// Everything that reaches it waits so long for its CPU.
    pub(super) lag: Duration,
    /// Rises with every start.
    pub(super) epoch: u64,
    /// When its next timer event comes, if one is planned.
    pub(super) wake_at: Option<Instant>,
    /// The record that it sent last, and the bytes of its frame.
    pub(super) record_bytes: Option<(Arc<NodeFacts>, usize)>,
}

impl Member {
    pub(super) fn is_running(&self) -> bool {
        matches!(self.power, Power::Running)
    }

    /// Since when nothing of it is heard.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        match self.power {
            Power::Running => None,
            Power::Stopped { since, .. } | Power::Dead { since } => Some(since),
        }
    }

    /// When it wants to run next, by its own clock. Loads that it heard are read when they are wanted.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let Machines { membership, facts, loads, links, .. } = &self.machines;
        let timeouts = [
            membership.poll_timeout(),
            facts.poll_timeout(),
            loads.gossip.poll_timeout(),
            links.poll_timeout(),
        ];
        timeouts.into_iter().flatten().map(|(at, _)| at).min()
    }
}

/// An attempt to connect.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Dial {
    pub(super) from: u16,
    pub(super) to: u16,
    /// Of the member that dials.
    pub(super) epoch: u64,
    pub(super) began: Instant,
}

/// What happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A timer.
    Wake(u16),
    /// Something arrives on a connection.
    Said { to: u16, from: u16, link: LinkId, said: Said },
    /// Loads reach everybody to whom they were sent.
    Loads { from: u16, to: Vec<u16>, records: Arc<[LoadRecord]> },
    /// The answer to a dial comes back to who dialed, where both ends can.
    Handshake(Dial),
    /// Nobody answered a dial.
    Missed(Dial),
    /// The other end of a connection is known.
    Greeted { at: u16, life: Life, link: LinkId, dialed: bool },
    /// The other end closed the connection.
    Closed { at: u16, link: LinkId },
    /// Nothing may have been heard of the other end for too long.
    Idle { at: u16, link: LinkId },
    /// A member that leaves has said so.
    Left(u16),
    /// Any of them, after the receiver's slow CPU came to it.
    Late(Box<Event>),
}

impl Event {
    /// At whom it happens, where that is one.
    pub(super) fn receiver(&self) -> Option<u16> {
        match self {
            Self::Wake(at)
            | Self::Said { to: at, .. }
            | Self::Greeted { at, .. }
            | Self::Closed { at, .. }
            | Self::Idle { at, .. } => Some(*at),
            Self::Missed(dial) => Some(dial.from),
            Self::Late(event) => event.receiver(),
            Self::Loads { .. } | Self::Handshake(_) | Self::Left(_) => None,
        }
    }
}

impl Hash for Event {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        self.receiver().hash(state);
        match self {
            Self::Said { from, link, .. } => (from, link).hash(state),
            Self::Loads { from, to, records } => (from, to, records[0].sequence).hash(state),
            Self::Greeted { link, .. } | Self::Closed { link, .. } | Self::Idle { link, .. } => {
                link.hash(state);
            }
            Self::Wake(_) | Self::Handshake(_) | Self::Missed(_) | Self::Left(_) | Self::Late(_) => {}
        }
    }
}
