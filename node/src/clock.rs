//! The one place that reads the clock. Everything else takes time as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time, for deadlines and durations.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the shell's clock: it hands time to the machines as an argument"
)]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Wall time since the Unix epoch, for a node's generation and for log stamps; never for durations.
#[expect(
    clippy::disallowed_methods,
    reason = "a restarted node must show a higher generation than its former self, across processes"
)]
#[must_use]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}
