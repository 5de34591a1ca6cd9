//! foca's timers: each delivered, the youngest of a kind only, and all of them on a clock that can be held back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use foca::Timer;
use shoal_protocol::NodeId;

use super::member_id::MemberId;

/// What a timer is about. A later timer of the same kind makes an earlier one void (it carries an old token or an
/// old life), so at most one of each is kept, which bounds them. The order is foca's own for timers due together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    IndirectProbe,
    Probe,
    Suspicion(NodeId),
    Announce,
    Gossip,
    Removal(NodeId),
    AnnounceDown,
}

impl Kind {
    fn of(timer: &Timer<MemberId>) -> Self {
        match timer {
            Timer::SendIndirectProbe { .. } => Self::IndirectProbe,
            Timer::ProbeRandomMember(_) => Self::Probe,
            Timer::ChangeSuspectToDown { member_id, .. } => Self::Suspicion(member_id.life.node),
            Timer::PeriodicAnnounce(_) => Self::Announce,
            Timer::PeriodicGossip(_) => Self::Gossip,
            Timer::RemoveDown(member) => Self::Removal(member.life.node),
            Timer::PeriodicAnnounceDown(_) => Self::AnnounceDown,
        }
    }
}

/// At most five timers and two for each member.
#[derive(Debug, Default)]
pub(super) struct Timers {
    waiting: BTreeMap<Kind, (Instant, Timer<MemberId>)>,
    order: BTreeSet<(Instant, Kind)>,
}

impl Timers {
    /// Schedules `timer`. A suspect that fails another probe keeps the time it was given first.
    pub(super) fn insert(&mut self, due: Instant, timer: Timer<MemberId>) {
        let kind = Kind::of(&timer);
        if let Some((former, same)) = self.waiting.get(&kind) {
            if matches!(kind, Kind::Suspicion(_)) && *same == timer {
                return;
            }
            self.order.remove(&(*former, kind));
        }
        self.order.insert((due, kind));
        self.waiting.insert(kind, (due, timer));
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(due, _)| *due)
    }

    /// Takes the next one that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer<MemberId>> {
        let (due, kind) = *self.order.first()?;
        if due > now {
            return None;
        }
        self.order.pop_first();
        self.waiting.remove(&kind).map(|(_, timer)| timer)
    }

    /// Everything happens `by` later: the time in which we were not there to see answers does not count.
    pub(super) fn postpone(&mut self, by: Duration) {
        self.order.clear();
        for (kind, (due, _)) in &mut self.waiting {
            *due += by;
            self.order.insert((*due, *kind));
        }
    }
}
