//! Wall time, in which certificates live.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) const DAY_S: u64 = 24 * 3600;

/// A clock of wall time: seconds since the Unix epoch.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The system's: seconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "stamps certificates, which live in wall time")]
pub(crate) fn unix_time_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// As a certificate wants it.
pub(super) fn stamp<T: From<SystemTime>>(unix_s: u64) -> T {
    (UNIX_EPOCH + Duration::from_secs(unix_s)).into()
}
