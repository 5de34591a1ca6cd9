//! Leaving: announce, take nothing new, do what was admitted, give the rest back at the deadline.

use std::time::Instant;

/// What leaving asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainOutput {
    /// Tell the peers; refuse new requests.
    Announce,
    /// The time is up: fail what is left.
    Abort,
    /// Nothing is left.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serving,
    Announcing { deadline: Instant },
    Draining { deadline: Instant },
    Aborting,
    Aborted,
    Drained,
}

/// Where a device stands on its way out. There is no way back: a node that stays starts a new core.
#[derive(Debug)]
pub(super) struct Drain {
    state: State,
}

impl Drain {
    pub(super) fn new() -> Self {
        Self { state: State::Serving }
    }

    /// A notice to leave by `deadline`. A second one can only shorten the time.
    pub(super) fn handle_notice(&mut self, deadline: Instant) {
        match &mut self.state {
            State::Serving => self.state = State::Announcing { deadline },
            State::Announcing { deadline: held } | State::Draining { deadline: held } => {
                *held = deadline.min(*held);
            }
            // Whoever asks after the end is told once more.
            State::Drained => self.state = State::Aborted,
            State::Aborting | State::Aborted => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let State::Draining { deadline } = self.state
            && deadline <= now
        {
            self.state = State::Aborting;
        }
    }

    /// The next thing to do while `in_flight` requests are unfinished.
    pub(super) fn poll_output(&mut self, in_flight: usize) -> Option<DrainOutput> {
        let (output, next) = match self.state {
            State::Announcing { deadline } => (DrainOutput::Announce, State::Draining { deadline }),
            State::Aborting => (DrainOutput::Abort, State::Aborted),
            State::Draining { .. } | State::Aborted if in_flight == 0 => (DrainOutput::Done, State::Drained),
            State::Serving | State::Draining { .. } | State::Aborted | State::Drained => return None,
        };
        self.state = next;
        Some(output)
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            State::Announcing { deadline } | State::Draining { deadline } => {
                Some((deadline, "drain deadline"))
            }
            State::Serving | State::Aborting | State::Aborted | State::Drained => None,
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.state != State::Serving
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::origin;
    use super::*;

    #[test]
    fn a_busy_device_announces_then_finishes_then_is_done() {
        let now = origin();
        let mut drain = Drain::new();
        assert_eq!(drain.poll_output(3), None);
        drain.handle_notice(now + Duration::from_secs(25));
        assert_eq!(drain.poll_output(3), Some(DrainOutput::Announce));
        assert_eq!(drain.poll_output(3), None);
        assert!(drain.is_draining());
        assert_eq!(drain.poll_output(0), Some(DrainOutput::Done));
        assert_eq!((drain.poll_output(0), drain.poll_timeout()), (None, None));
        drain.handle_notice(now);
        assert_eq!(drain.poll_output(0), Some(DrainOutput::Done));
    }

    #[test]
    fn what_is_left_at_the_deadline_is_aborted_once() {
        let now = origin();
        let mut drain = Drain::new();
        drain.handle_notice(now + Duration::from_secs(25));
        drain.handle_notice(now + Duration::from_secs(60));
        assert_eq!(drain.poll_output(1), Some(DrainOutput::Announce));
        drain.handle_timeout(now + Duration::from_secs(24));
        assert_eq!(drain.poll_output(1), None);
        assert_eq!(drain.poll_timeout(), Some((now + Duration::from_secs(25), "drain deadline")));
        drain.handle_timeout(now + Duration::from_secs(25));
        assert_eq!(drain.poll_output(1), Some(DrainOutput::Abort));
        assert_eq!(drain.poll_output(1), None);
        assert_eq!(drain.poll_output(0), Some(DrainOutput::Done));
    }
}
