//! Answers over time, and how soon the mesh does again what it can.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::history::Event;

/// Answers are counted in steps of this length.
const STEP_US: u64 = 100_000;
/// Steps over which goodput is looked at: one second.
const WINDOW_STEPS: usize = 10;
/// Share of what is asked for and possible from which on the mesh has recovered. Arrivals are regular, but two cores are
/// shared by everything.
const RECOVERED_SHARE: f64 = 0.9;
/// A time between events that is shorter says nothing: a window, and some steps for it to move by.
const SEGMENT_MIN: Duration = Duration::from_millis(1500);

/// After an event that took nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// The event.
    pub what: String,
    /// When it happened, in microseconds of the run.
    pub at_us: u64,
    /// From then until the second from which on goodput stayed at what is asked for and possible; `None`: not before the
    /// next event or the end.
    pub after_us: Option<u64>,
    /// For how long it was watched.
    pub watched_us: u64,
}

/// Counts texts.
#[derive(Debug)]
pub(super) struct Goodput {
    nodes: u16,
    capacity_per_s: f64,
    answered: Vec<u64>,
    texts_asked: u64,
    /// When the first and the last request were due.
    asked_us: Option<(u64, u64)>,
    events: Vec<Event>,
}

impl Goodput {
    pub(super) fn new(nodes: u16, capacity_per_s: f64) -> Self {
        Self {
            nodes,
            capacity_per_s,
            answered: Vec::new(),
            texts_asked: 0,
            asked_us: None,
            events: Vec::new(),
        }
    }

    pub(super) fn handle_event(&mut self, event: &Event) {
        self.events.push(event.clone());
    }

    pub(super) fn handle_asked(&mut self, intended_us: u64, texts: usize) {
        self.texts_asked += texts as u64;
        let (first, last) = self.asked_us.unwrap_or((intended_us, intended_us));
        self.asked_us = Some((first.min(intended_us), last.max(intended_us)));
    }

    pub(super) fn handle_answered(&mut self, at_us: u64, texts: usize) {
        let step = usize::try_from(at_us / STEP_US).unwrap_or(usize::MAX);
        if step >= self.answered.len() {
            self.answered.resize(step + 1, 0);
        }
        self.answered[step] += texts as u64;
    }

    /// Whether at some moment from `from_us` to `to_us` a node could serve.
    pub(super) fn could_be_served(&self, from_us: u64, to_us: u64) -> bool {
        let before = self.events.iter().rev().find(|event| event.at_us <= from_us);
        let at_first = before.map_or(self.nodes, |event| event.serving);
        let meanwhile = self.events.iter().filter(|event| (from_us..=to_us).contains(&event.at_us));
        at_first > 0 || meanwhile.into_iter().any(|event| event.serving > 0)
    }

    /// Texts answered in each second, and the recoveries.
    pub(super) fn finish(self) -> (Vec<u64>, Vec<Recovery>) {
        let seconds = self.answered.chunks(WINDOW_STEPS).map(|second| second.iter().sum()).collect();
        let (first, last) = self.asked_us.unwrap_or_default();
        let offered_per_s = self.texts_asked as f64 * 1e6 / (last - first).max(1) as f64;
        let ends = self.events.iter().skip(1).map(|event| event.at_us).chain([last]);
        let recoveries = self.events.iter().zip(ends).filter(|(event, end)| {
            let watched = Duration::from_micros(end.saturating_sub(event.at_us));
            event.takes && watched >= SEGMENT_MIN
        });
        let recoveries = recoveries.map(|(event, end)| self.recovery(event, end, offered_per_s)).collect();
        (seconds, recoveries)
    }

    fn recovery(&self, event: &Event, end_us: u64, offered_per_s: f64) -> Recovery {
        let possible_per_s = self.capacity_per_s * f64::from(event.serving) / f64::from(self.nodes.max(1));
        let wanted = RECOVERED_SHARE * offered_per_s.min(possible_per_s);
        let step_of = |at_us: u64| usize::try_from(at_us / STEP_US).unwrap_or(usize::MAX);
        // Whole steps after the event, so that what came before it does not count.
        let (first, end) = (step_of(event.at_us) + 1, step_of(end_us));
        let in_window = |step: usize| {
            let counted = self.answered.iter().skip(step).take(WINDOW_STEPS).sum::<u64>();
            counted as f64
        };
        let windows = first..end.saturating_sub(WINDOW_STEPS - 1);
        let low = windows.clone().rev().find(|step| in_window(*step) < wanted);
        let recovered = match low {
            None => Some(first),
            Some(low) => Some(low + 1).filter(|step| windows.contains(step)),
        };
        Recovery {
            what: event.what.clone(),
            at_us: event.at_us,
            after_us: recovered.map(|step| (step as u64 * STEP_US).saturating_sub(event.at_us)),
            watched_us: end_us.saturating_sub(event.at_us),
        }
    }
}
