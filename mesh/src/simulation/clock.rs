//! What a process believes the time to be.

use std::time::{Duration, Instant};

/// The `Instant` that a node is given: ahead of the world's, and faster or slower. No machine compares the clocks of
/// two processes, so that neither may matter.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    ahead: Duration,
    rate: f64,
}

impl Clock {
    /// A clock that was `ahead` of the world's at `start`.
    #[must_use]
    pub fn new(start: Instant, ahead: Duration, drift_ppm: i32) -> Self {
        Self { start, ahead, rate: 1.0 + f64::from(drift_ppm) / 1e6 }
    }

    /// The process's time at a moment of the world.
    #[must_use]
    pub fn local(&self, world: Instant) -> Instant {
        self.start + self.ahead + world.saturating_duration_since(self.start).mul_f64(self.rate)
    }

    /// The first moment of the world at which the process's clock surely shows `local`.
    #[must_use]
    pub fn world(&self, local: Instant) -> Instant {
        let since = local.saturating_duration_since(self.start + self.ahead);
        self.start + since.div_f64(self.rate) + Duration::from_micros(1)
    }
}
