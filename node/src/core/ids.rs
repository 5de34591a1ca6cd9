//! Keys by which a device and its shell name requests, models and lanes.

use slotmap::new_key_type;

new_key_type! {
    /// A request between its admission and its outcome. Never reused: the key of a finished request names nothing.
    pub struct RequestKey;
}

/// A model that the shell registered with a device; valid as long as the device lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelKey(pub(crate) u32);

impl ModelKey {
    /// Position in the order of registration.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One of the device's lanes: an OS thread (with its team) or a stream that runs one batch at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneIndex(pub u16);

impl LaneIndex {
    /// Threads that this lane is ever asked to use on a device of `threads`: all on lane 0, half on lane 1, a
    /// third on lane 2 …, so that the teams of all lanes together stay near `threads * ln(threads)`.
    #[must_use]
    pub fn threads_max(self, threads: u16) -> u16 {
        (threads / self.0.saturating_add(1)).max(1)
    }
}
