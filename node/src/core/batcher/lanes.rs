//! Lanes x threads: what runs where, how wide, and for how long it may.

use std::time::{Duration, Instant};

use shoal_protocol::BatchId;

use super::super::event::{BatchItem, BatchRun};
use super::super::ids::LaneIndex;

/// A batch that takes this many times its estimate is given up …
const OVERRUN_FACTOR: u32 = 3;
/// … but not before this time, so that noise on a small batch (a stolen core, a page fault) is no hang.
const OVERRUN_MIN: Duration = Duration::from_secs(2);
/// The patience with a batch whose model was never measured at any width: its estimate is a guess.
const OVERRUN_UNMEASURED: Duration = Duration::from_secs(60);
/// A timer this late means that the whole process stood still (stopped, suspended), so the lane is not to blame: the
/// batch gets its time once more.
const TIMER_LATE: Duration = Duration::from_secs(1);

/// How long a batch should take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    pub(super) time: Duration,
    pub(super) measured: bool,
}

impl Estimate {
    fn patience(self) -> Duration {
        let floor = if self.measured { OVERRUN_MIN } else { OVERRUN_UNMEASURED };
        (self.time * OVERRUN_FACTOR).max(floor)
    }
}

/// Where the next batch may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) lane: LaneIndex,
    pub(super) threads: u16,
    /// Lanes of this width that can start now: the work is shared among them.
    pub(super) lanes: u64,
}

#[derive(Debug)]
struct Running {
    run: BatchRun,
    items: Vec<BatchItem>,
    started: Instant,
    done_at: Instant,
    patience: Duration,
    overrun_at: Instant,
}

#[derive(Debug)]
enum Lane {
    Idle,
    Running(Running),
    Hung { run: BatchRun },
}

/// A batch that left its lane. Give the items back with [`Lanes::recycle`].
#[derive(Debug)]
pub(crate) struct EndedBatch {
    pub(crate) run: BatchRun,
    pub(crate) items: Vec<BatchItem>,
    pub(crate) took: Duration,
}

/// The lanes of a device. The threads of running and hung batches never exceed the device's.
#[derive(Debug)]
pub(super) struct Lanes {
    threads: u16,
    /// See [`CoreConfig::shares_threads`](super::super::config::CoreConfig).
    shares_threads: bool,
    lanes: Vec<Lane>,
    spare: Vec<Vec<BatchItem>>,
}

impl Lanes {
    pub(super) fn new(threads: u16, shares_threads: bool) -> Self {
        let threads = threads.max(1);
        Self { threads, shares_threads, lanes: (0..threads).map(|_| Lane::Idle).collect(), spare: Vec::new() }
    }

    pub(super) fn threads(&self) -> u16 {
        self.threads
    }

    /// The lane for the next batch of work that is worth `wanted` lanes: one wide lane for one, else the free threads, where
    /// they can be, shared among them. Two streams of one thread beat two threads on one stream.
    pub(super) fn next(&self, wanted: u64) -> Option<Slot> {
        let taken: u16 = self.lanes.iter().map(Lane::threads).sum();
        let free = self.threads.saturating_sub(taken);
        let mut idle = (0..).map(LaneIndex).zip(&self.lanes).filter(|(_, lane)| matches!(lane, Lane::Idle));
        let (lane, _) = idle.next().filter(|_| free > 0)?;
        if !self.shares_threads {
            return Some(Slot { lane, threads: 1, lanes: 1 });
        }
        let share = u16::try_from(u64::from(free) / wanted.max(1)).unwrap_or(free);
        let threads = share.clamp(1, lane.threads_max(self.threads));
        let lanes = u64::from(free / threads).min(wanted.max(1));
        Some(Slot { lane, threads, lanes })
    }

    /// An empty list for the items of the next batch.
    pub(super) fn spare_items(&mut self) -> Vec<BatchItem> {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn recycle(&mut self, mut items: Vec<BatchItem>) {
        items.clear();
        self.spare.push(items);
    }

    pub(super) fn handle_started(
        &mut self,
        run: BatchRun,
        items: Vec<BatchItem>,
        estimate: Estimate,
        now: Instant,
    ) {
        let patience = estimate.patience();
        let running = Running {
            run,
            items,
            started: now,
            done_at: now + estimate.time,
            patience,
            overrun_at: now + patience,
        };
        self.lanes[usize::from(run.lane.0)] = Lane::Running(running);
    }

    /// A lane is done with its batch, one way or the other. `None` if that batch was given up before.
    pub(super) fn handle_ended(&mut self, batch: BatchId, now: Instant) -> Option<EndedBatch> {
        let lane =
            self.lanes.iter_mut().find(|lane| lane.running().is_some_and(|held| held.run.batch == batch))?;
        let Lane::Running(held) = std::mem::replace(lane, Lane::Idle) else {
            return None;
        };
        Some(EndedBatch {
            run: held.run,
            items: held.items,
            took: now.saturating_duration_since(held.started),
        })
    }

    /// A lane whose batch overran its time, from now on hung. Call until `None`.
    pub(super) fn poll_hung(&mut self, now: Instant) -> Option<EndedBatch> {
        for lane in &mut self.lanes {
            let Lane::Running(held) = lane else { continue };
            if now < held.overrun_at {
                continue;
            }
            if now >= held.overrun_at + TIMER_LATE {
                held.overrun_at = now + held.patience;
                continue;
            }
            let hung = Lane::Hung { run: held.run };
            let Lane::Running(held) = std::mem::replace(lane, hung) else {
                continue;
            };
            let took = now.saturating_duration_since(held.started);
            return Some(EndedBatch { run: held.run, items: held.items, took });
        }
        None
    }

    /// A new lane stands in the place of a hung one; returns the batch that it hung on.
    pub(super) fn handle_replaced(&mut self, lane: LaneIndex) -> Option<BatchRun> {
        let lane = self.lanes.get_mut(usize::from(lane.0))?;
        let Lane::Hung { run } = *lane else { return None };
        *lane = Lane::Idle;
        Some(run)
    }

    pub(super) fn overrun_at(&self) -> Option<Instant> {
        self.running().map(|held| held.overrun_at).min()
    }

    /// Time until a thread is free, by the estimates.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        if self.next(1).is_some() {
            return Duration::ZERO;
        }
        self.running().map(|held| held.done_at.saturating_duration_since(now)).min().unwrap_or_default()
    }

    pub(super) fn items(&self, batch: BatchId) -> &[BatchItem] {
        self.running().find(|held| held.run.batch == batch).map_or(&[], |held| &held.items)
    }

    /// The items of every running batch, each with the estimated time until its end.
    pub(super) fn running_items(&self, now: Instant) -> impl Iterator<Item = (&BatchItem, Duration)> {
        self.running().flat_map(move |held| {
            let left = held.done_at.saturating_duration_since(now);
            held.items.iter().map(move |item| (item, left))
        })
    }

    pub(super) fn batches(&self) -> usize {
        self.running().count()
    }

    pub(super) fn is_hung(&self) -> bool {
        self.lanes.iter().any(|lane| matches!(lane, Lane::Hung { .. }))
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        self.lanes.iter().filter_map(Lane::running)
    }
}

impl Lane {
    fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(held) => Some(held),
            Self::Idle | Self::Hung { .. } => None,
        }
    }

    fn threads(&self) -> u16 {
        match self {
            Self::Idle => 0,
            Self::Running(held) => held.run.threads,
            Self::Hung { run } => run.threads,
        }
    }
}
