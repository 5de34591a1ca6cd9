//! How many devices hold a model: a holder's own judgement, window by window.

use std::time::Duration;

/// A holder wants help when requests wait longer than this share of a load (in halves).
const WAIT_UP_HALVES: u64 = 1;
/// The hysteresis: it can do without a copy only below two thirds of that.
const WAIT_DOWN_THIRDS: u64 = 2;
/// Use of all holders together below which a long wait is bad luck and not want of copies.
const USE_UP_PERCENT: u32 = 70;
/// Windows in a row that must agree.
const WINDOWS: u32 = 2;
/// The last copy of a model is kept this long after its last use, whatever the pressure.
const LAST_COPY_IDLE_MIN: Duration = Duration::from_secs(600);

/// What a holder measured of one model in one window (some seconds).
#[derive(Clone, Copy, Debug)]
pub struct CopyWindow {
    /// Mean time in the queue.
    pub wait_us: u64,
    /// A load of the model.
    pub load_us: u64,
    /// How busy all holders of the model were with it, in per cent of their capacity.
    pub use_percent: u32,
    /// Devices that hold it.
    pub holders: usize,
    /// Whether this one has the lowest score in rendezvous hashing of all holders: it is the first to give back.
    pub is_worst_placed: bool,
    /// Whether memory is short here.
    pub is_pressed: bool,
    /// Since the model's last use here.
    pub idle: Duration,
}

/// What a holder wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyWish {
    /// Nothing.
    Keep,
    /// That the next owner loads the model, too ([`further_holder`](super::further_holder)).
    Further,
    /// To evict its own copy.
    GiveBack,
}

/// The judgement about one model at one holder. A copy is made on measured queue time, not on rates that somebody
/// reported, and is given back only under pressure, at the worst-placed holder first: two thresholds and two windows each
/// way keep copies from coming and going.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copies {
    busy: u32,
    idle: u32,
}

impl Copies {
    /// A window is over. A wish is said once; the counting starts anew after it.
    pub fn handle_window(&mut self, window: &CopyWindow) -> CopyWish {
        let up_us = window.load_us.saturating_mul(WAIT_UP_HALVES) / 2;
        let is_busy = window.wait_us > up_us && window.use_percent > USE_UP_PERCENT;
        let is_idle = window.wait_us < up_us.saturating_mul(WAIT_DOWN_THIRDS) / 3;
        let may_go = match window.holders {
            0 | 1 => window.idle >= LAST_COPY_IDLE_MIN,
            _ => window.is_worst_placed,
        };
        self.busy = if is_busy { self.busy + 1 } else { 0 };
        self.idle = if is_idle && window.is_pressed && may_go { self.idle + 1 } else { 0 };
        if self.busy >= WINDOWS {
            *self = Self::default();
            return CopyWish::Further;
        }
        if self.idle >= WINDOWS {
            *self = Self::default();
            return CopyWish::GiveBack;
        }
        CopyWish::Keep
    }
}
