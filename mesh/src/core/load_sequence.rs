//! What orders the load records of one node, whichever way they come.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

/// A record that comes after this much silence is news whatever its number: its sender may have lost its count.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Numbers are told apart over half of their range, which must be longer than the silence above.
const STEP: Duration = Duration::from_millis(2);

const _: () = assert!(STEP.as_millis() * (u16::MAX / 2) as u128 > FORGOTTEN_AFTER.as_millis());

/// Numbers a node's records by its own time, so that those which it gossips and those with which it answers probes are in
/// one order without sharing a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadSequence {
    origin: Instant,
}

impl LoadSequence {
    /// Counts from `origin`, the same for everything that numbers this node's records.
    #[must_use]
    pub fn new(origin: Instant) -> Self {
        Self { origin }
    }

    /// The number of a record that leaves now.
    #[must_use]
    pub fn at(self, now: Instant) -> u16 {
        let steps = now.saturating_duration_since(self.origin).as_millis() / STEP.as_millis();
        (steps % (1 << u16::BITS)) as u16
    }
}

/// How a record numbered `new` stands to the one `known`, which came `age` ago.
pub(crate) fn order(new: u16, known: u16, age: Duration) -> Ordering {
    match new.wrapping_sub(known) {
        _ if age >= FORGOTTEN_AFTER => Ordering::Greater,
        0 => Ordering::Equal,
        ahead if ahead <= u16::MAX / 2 => Ordering::Greater,
        _ => Ordering::Less,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::origin;
    use super::*;

    #[test]
    fn records_within_a_minute_of_each_other_are_in_order() {
        let start = origin();
        let sequence = LoadSequence::new(start);
        for at_s in [0, 1, 100, 131, 1_000_000] {
            let known = start + Duration::from_secs(at_s);
            for ahead_ms in [2, 1000, 59_000] {
                let ahead = Duration::from_millis(ahead_ms);
                let (new, old) = (sequence.at(known + ahead), sequence.at(known));
                assert_eq!(order(new, old, ahead), Ordering::Greater);
                assert_eq!(order(old, new, ahead), Ordering::Less);
                assert_eq!(order(old, new, FORGOTTEN_AFTER), Ordering::Greater);
            }
            assert_eq!(order(sequence.at(known), sequence.at(known), STEP), Ordering::Equal);
        }
    }
}
