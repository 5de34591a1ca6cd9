//! When a model that the node holds should have another holder, or one less: windows of what it served.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use shoal_mesh::core::{Copies, CopyWindow, CopyWish, Query, further_holder, holders};
use shoal_protocol::message::LoadRecord;
use shoal_protocol::{NodeId, Place};

use super::Placement;

/// Over which waits and use are measured: some batches of the slowest device, and short against a load's use. Two must agree:
/// a hot model gets a further holder 2.5 to 5 s after it became hot, and after that one's load.
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
    /// The time of a load of its model.
    pub load: Duration,
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
}

#[derive(Debug)]
struct Watched {
    copies: Copies,
    requests: u64,
    tokens: u64,
    queue: Duration,
    load: Duration,
    bytes: u64,
    used_at: Instant,
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
                load: served.load,
                bytes: served.bytes,
                used_at: now,
            };
            windows.models.insert(model.to_owned(), watched);
            windows.ends.get_or_insert(now + WINDOW);
        }
        if let Some(watched) = windows.models.get_mut(model) {
            watched.requests += 1;
            watched.tokens += served.tokens;
            watched.queue = watched.queue.saturating_add(served.queue);
            (watched.load, watched.bytes, watched.used_at) = (served.load, served.bytes, now);
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
        let tokens: u64 = self.windows.models.values().map(|watched| watched.tokens).sum();
        let capacity = u64::from(own.tokens_per_s).saturating_mul(WINDOW.as_millis() as u64) / 1000;
        let use_percent = (tokens.saturating_mul(100)).checked_div(capacity).unwrap_or(0).min(100);
        let mut models = std::mem::take(&mut self.windows.models);
        for (model, watched) in &mut models {
            let deed = self.judge(model, watched, use_percent, own, now);
            self.windows.deeds.extend(deed);
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
        own_use: u64,
        own: &LoadRecord,
        now: Instant,
    ) -> Option<CopyDeed> {
        let holders = holders(&self.view, self.own, model, now);
        if holders.loading > 0 {
            // One at a time: what it changes is not measured yet.
            watched.copies = Copies::default();
            return None;
        }
        let ready = holders.ready.max(1);
        let busy = own_use + 100 * holders.others_busy as u64;
        let requests = u32::try_from(watched.requests).unwrap_or(u32::MAX);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let wish = watched.copies.handle_window(&CopyWindow {
            wait_us: micros(watched.queue.checked_div(requests).unwrap_or_default()),
            load_us: micros(watched.load),
            use_percent: u32::try_from(busy / ready as u64).unwrap_or(u32::MAX),
            holders: ready,
            is_worst_placed: holders.is_own_last,
            // A full memory is no pressure as long as nobody wants any of it.
            is_pressed: self.is_loading && own.free_bytes < watched.bytes,
            idle: now.saturating_duration_since(watched.used_at),
        });
        match wish {
            CopyWish::Keep => None,
            CopyWish::GiveBack => Some(CopyDeed::GiveBack { model: model.to_owned() }),
            CopyWish::Further => {
                self.next_holder(model, now).map(|to| CopyDeed::Ask { to, model: model.to_owned() })
            }
        }
    }

    /// Who holds the model next, where another node has it and could.
    fn next_holder(&self, model: &str, now: Instant) -> Option<Place> {
        let excluded: [NodeId; 1] = [self.own.node];
        further_holder(&self.view, &Query::of_any(model, &excluded), now)
    }

    /// The next thing to do about copies.
    pub fn poll_deed(&mut self) -> Option<CopyDeed> {
        self.windows.deeds.pop_front()
    }
}
