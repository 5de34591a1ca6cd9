//! How many devices hold a model: a holder's own judgement, window by window.

use std::time::Duration;

/// What a request may take at its holders, in per cent of what it would take at a further one, before a window speaks for
/// that: waits differ by chance, and a copy takes the room of another model.
const RATIO_FREE_PERCENT: u64 = 150;
/// What is beyond that is added up over windows, and what is below it taken off: a copy is made when it comes to this.
/// Page's test (Biometrika 1954) tells a lasting difference from luck, and the greater the difference the sooner.
const EXCESS_MAX_PERCENT: u64 = 300;
/// Most that one window adds, so that two at least must agree.
const EXCESS_STEP_MAX_PERCENT: u64 = EXCESS_MAX_PERCENT / 2;
/// At the present rate of requests a copy must save what it costs within so many windows: a minute.
const PAYBACK_WINDOWS: u64 = 24;
/// Windows in a row that must agree that a copy may go.
const IDLE_WINDOWS: u32 = 2;
/// The last copy of a model is kept this long after its last use, whatever the pressure.
const LAST_COPY_IDLE_MIN: Duration = Duration::from_secs(600);

/// What a further holder would be worth to the requests of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FurtherWorth {
    /// What a request would take there, its load aside.
    pub request_us: u64,
    /// What the load costs once, with what its room costs others.
    pub price_us: u64,
}

/// What a holder measured of one model in one window (some seconds).
#[derive(Clone, Copy, Debug)]
pub struct CopyWindow {
    /// Requests served.
    pub requests: u64,
    /// What one took, the mean; less where another holder would take less.
    pub request_us: u64,
    /// The best that does not hold it yet; `None` where there is nobody.
    pub further: Option<FurtherWorth>,
    /// Devices that hold it.
    pub holders: usize,
    /// Whether this one has the lowest score in rendezvous hashing of all holders: it is the first to give back.
    pub is_worst_placed: bool,
    /// Whether memory is short here.
    pub is_pressed: bool,
    /// Since the model's last use here.
    pub idle: Duration,
}

impl CopyWindow {
    /// What a request takes, in per cent of what it would take at a further holder.
    fn ratio_percent(&self) -> u64 {
        let Some(further) = self.further.filter(|_| self.requests > 0) else {
            return 0;
        };
        self.request_us.saturating_mul(100) / further.request_us.max(1)
    }

    /// Whether a further holder would pay for its load.
    fn pays(&self) -> bool {
        self.further.is_some_and(|further| {
            let saved_us = self.request_us.saturating_sub(further.request_us).saturating_mul(self.requests);
            saved_us.saturating_mul(PAYBACK_WINDOWS) > further.price_us
        })
    }
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

/// The judgement about one model at one holder. A copy is made on measured time, where requests take longer than they would
/// at another device, for long enough and by so much that its load is paid for; a mesh that is busy everywhere makes none.
/// It is given back only under pressure, at the worst-placed holder first, and not while anything speaks for one more.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copies {
    excess_percent: u64,
    idle: u32,
}

impl Copies {
    /// A window is over. A wish is said once; the counting starts anew after it.
    pub fn handle_window(&mut self, window: &CopyWindow) -> CopyWish {
        let step = window.ratio_percent().min(RATIO_FREE_PERCENT + EXCESS_STEP_MAX_PERCENT);
        self.excess_percent = (self.excess_percent + step).saturating_sub(RATIO_FREE_PERCENT);
        let may_go = match window.holders {
            0 | 1 => window.idle >= LAST_COPY_IDLE_MIN,
            _ => window.is_worst_placed,
        };
        let is_idle = self.excess_percent == 0 && window.is_pressed && may_go;
        self.idle = if is_idle { self.idle + 1 } else { 0 };
        // Where it does not pay yet the excess grows no further, and falls as soon as it would from here.
        self.excess_percent = self.excess_percent.min(EXCESS_MAX_PERCENT);
        if self.excess_percent == EXCESS_MAX_PERCENT && window.pays() {
            *self = Self::default();
            return CopyWish::Further;
        }
        if self.idle >= IDLE_WINDOWS {
            *self = Self::default();
            return CopyWish::GiveBack;
        }
        CopyWish::Keep
    }
}
