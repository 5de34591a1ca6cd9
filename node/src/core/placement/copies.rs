//! When a model that the node holds should have another holder, or one less: windows of what it served.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use shoal_mesh::core::{Copies, CopyWindow, CopyWish, Further, Holders, Query, further_holder, holders};
use shoal_protocol::Place;
use shoal_protocol::message::LoadRecord;

use super::Placement;

/// Over which times are measured: some batches of the slowest device, and short against a load's use. Two must agree, so that
/// a model which became hot gets a further holder 2.5 to 5 s later, and after a load; the less it matters, the later.
const WINDOW: Duration = Duration::from_millis(2500);
/// Models judged at once; further ones wait until one of these was given up or went unused.
const MODELS_MAX: usize = 256;
/// A model that served nobody for so long is judged no more.
const UNUSED_AFTER: Duration = Duration::from_secs(1800);

/// What an attempt was served, as far as copies depend on it.
#[derive(Clone, Copy, Debug)]
pub struct ServedTokens {
    /// Its tokens.
    pub tokens: u64,
    /// Its time in the queue, once the model was resident.
    pub queue: Duration,
    /// Resident bytes of its model.
    pub bytes: u64,
}

/// What the node is to do about copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyDeed {
    /// Ask a member to load the model, too.
    Ask {
        /// Whom, and on which device.
        to: Place,
        /// Canonical name.
        model: String,
    },
    /// Evict the own copy, unless somebody uses it: others hold the model.
    GiveBack {
        /// Canonical name.
        model: String,
    },
    /// Tell the device whether others hold a model that it has served: what it evicts depends on that.
    Spare {
        /// Canonical name.
        model: String,
        /// Whether they do.
        is_spare: bool,
    },
}

#[derive(Debug)]
struct Watched {
    copies: Copies,
    requests: u64,
    tokens: u64,
    queue: Duration,
    bytes: u64,
    used_at: Instant,
    /// Whether others hold it, as the device was told last.
    is_spare: bool,
}

/// The models that the node served lately.
#[derive(Debug, Default)]
pub(super) struct Windows {
    models: BTreeMap<String, Watched>,
    /// When the window ends, while there is a model to judge.
    ends: Option<Instant>,
    deeds: VecDeque<CopyDeed>,
}

impl Placement {
    /// An attempt was served here.
    pub fn handle_served(&mut self, model: &str, served: ServedTokens, now: Instant) {
        let windows = &mut self.windows;
        if !windows.models.contains_key(model) {
            if windows.models.len() >= MODELS_MAX {
                return;
            }
            let watched = Watched {
                copies: Copies::default(),
                requests: 0,
                tokens: 0,
                queue: Duration::ZERO,
                bytes: served.bytes,
                used_at: now,
                is_spare: false,
            };
            windows.models.insert(model.to_owned(), watched);
            windows.ends.get_or_insert(now + WINDOW);
        }
        if let Some(watched) = windows.models.get_mut(model) {
            watched.requests += 1;
            watched.tokens += served.tokens;
            watched.queue = watched.queue.saturating_add(served.queue);
            (watched.bytes, watched.used_at) = (served.bytes, now);
        }
    }

    /// When [`handle_window`](Self::handle_window) is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.windows.ends.map(|at| (at, "copies"))
    }

    /// A window is over. `own` is the device's load now.
    pub fn handle_window(&mut self, own: &LoadRecord, now: Instant) {
        if self.windows.ends.is_none_or(|ends| now < ends) {
            return;
        }
        self.view.handle_load(self.own.node, own, now);
        let mut models = std::mem::take(&mut self.windows.models);
        for (model, watched) in &mut models {
            let deeds = self.judge(model, watched, own, now);
            self.windows.deeds.extend(deeds);
            (watched.requests, watched.tokens, watched.queue) = (0, 0, Duration::ZERO);
        }
        models.retain(|_, watched| now.saturating_duration_since(watched.used_at) < UNUSED_AFTER);
        self.windows.ends = (!models.is_empty()).then(|| now + WINDOW);
        self.windows.models = models;
    }

    fn judge(
        &self,
        model: &str,
        watched: &mut Watched,
        own: &LoadRecord,
        now: Instant,
    ) -> impl Iterator<Item = CopyDeed> + use<> {
        let excluded = [self.own.node];
        let tokens = watched.tokens.checked_div(watched.requests).unwrap_or_default();
        let query = Query { tokens, ..Query::of_any(model, &excluded) };
        let holders = holders(&self.view, self.own, &query, now);
        let is_spare = holders.ready > usize::from(holders.is_own_ready);
        // Said again while it is served: the device may be a new one.
        let tells = watched.requests > 0 || watched.is_spare != is_spare;
        let told = tells.then(|| CopyDeed::Spare { model: model.to_owned(), is_spare });
        watched.is_spare = is_spare;
        let mut deed = None;
        if holders.loading > 0 {
            // One at a time: what it changes is not measured yet.
            watched.copies = Copies::default();
        } else {
            let further = further_holder(&self.view, &query, now);
            let wish = watched.copies.handle_window(&self.window(watched, &holders, further, own, now));
            deed = match (wish, further) {
                (CopyWish::Further, Some(further)) => {
                    Some(CopyDeed::Ask { to: further.place, model: model.to_owned() })
                }
                (CopyWish::GiveBack, _) => Some(CopyDeed::GiveBack { model: model.to_owned() }),
                (CopyWish::Keep | CopyWish::Further, _) => None,
            };
        }
        told.into_iter().chain(deed)
    }

    /// What was measured of a model.
    fn window(
        &self,
        watched: &Watched,
        holders: &Holders,
        further: Option<Further>,
        own: &LoadRecord,
        now: Instant,
    ) -> CopyWindow {
        let queue_us = u64::try_from(watched.queue.as_micros()).unwrap_or(u64::MAX);
        let wait_us = queue_us.checked_div(watched.requests).unwrap_or_default();
        let took_us = wait_us.saturating_add(holders.own_exec_us);
        CopyWindow {
            requests: watched.requests,
            request_us: holders.others_us.map_or(took_us, |others_us| took_us.min(others_us)),
            further: further.map(|further| further.worth),
            holders: holders.ready,
            is_worst_placed: holders.is_own_last,
            // A full memory is no pressure as long as nobody wants any of it.
            is_pressed: self.is_loading && own.free_bytes < watched.bytes,
            idle: now.saturating_duration_since(watched.used_at),
        }
    }

    /// The next thing to do about copies.
    pub fn poll_deed(&mut self) -> Option<CopyDeed> {
        self.windows.deeds.pop_front()
    }
}
