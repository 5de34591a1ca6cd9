//! Whether the queue stands, instead of taking up a burst.
//!
//! A queue that is never worked off makes everybody wait and nobody sooner; with deadlines it is as long as they are, and
//! serves each request when it is of no use any more. So it is the CoDel rule (Nichols and others, RFC 8289), at the
//! entrance as in "Fail at Scale" (Maurer, ACM Queue 13.8): a queue may be as long as its bound, but where it was not
//! short for an interval, only a short wait is sold.

use std::time::{Duration, Instant};

/// While the queue stands, whoever would wait longer than this is refused. Some 16 batches, so that no lane runs dry; and
/// with what bulk work and those who come again add to it, half of the device works it off within two seconds.
pub(super) const WAIT_TARGET: Duration = Duration::from_millis(400);
/// A queue below this is short. Half of the target, so that the target's own queue does not end the rule.
pub(super) const WAIT_SHORT: Duration = Duration::from_millis(200);
/// A queue that was not short for so long stands: longer than most bursts, and shorter than the patience of callers.
const INTERVAL: Duration = Duration::from_secs(1);

/// The rule's one memory: when the queue was short last.
#[derive(Debug, Default)]
pub(super) struct Standing {
    short_at: Option<Instant>,
}

impl Standing {
    /// A newcomer would wait so long. To be said at each arrival, before it is queued, and whenever the queue got shorter.
    pub(super) fn handle_wait(&mut self, wait: Duration, now: Instant) {
        if wait < WAIT_SHORT || self.short_at.is_none() {
            self.short_at = Some(now);
        }
    }

    /// Whether it stands.
    pub(super) fn stands(&self, now: Instant) -> bool {
        self.short_at.is_some_and(|at| now.saturating_duration_since(at) >= INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::origin;
    use super::*;

    #[test]
    fn a_burst_is_no_standing_queue_and_the_target_does_not_end_one() {
        let (mut standing, start) = (Standing::default(), origin());
        let at = |ms| start + Duration::from_millis(ms);
        let mut look = |wait_ms, now_ms| {
            standing.handle_wait(Duration::from_millis(wait_ms), at(now_ms));
            standing.stands(at(now_ms))
        };
        assert!(!look(9000, 0), "as long as it likes, at first");
        assert!(!look(9000, 999));
        assert!(look(9000, 1000));
        assert!(look(380, 1500), "refusals keep it at its target");
        assert!(!look(190, 2000));
        assert!(!look(9000, 2999));
    }
}
