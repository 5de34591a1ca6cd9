//! What one process makes of another's silence: when a node that membership holds for alive is not sent to.
//!
//! Membership needs a second or two to notice a death; whoever talks to the node can know within two of its questions.
//! The rule, whole:
//!
//! - **Silence** begins with the first question (an attempt or a probe) to a node that has said nothing since, and ends
//!   with any word of its own on any stream or in any datagram, or with a connection to it that comes up. An attempt that
//!   is given up because its twin was sooner leaves it as it is.
//! - A silent node is **asked again**, by probes that nobody waits for, as often as requests come by that it could take.
//!   That is how a wrong doubt ends within a round trip, and why a doubt may be quick.
//! - A probe is **missed** when it is unanswered after [`ANSWER_DUE`] although another node answered one meanwhile: where
//!   nobody answers, the fault is ours or the network's.
//! - [`MISSED_MIN`] missed probes, or an attempt that was silent for [`SILENCE_MAX`] whatever became of it, make it
//!   **quiet**: others that have the model are preferred. Nothing is loaded anywhere because of this.
//! - Missed probes and a silence of [`SILENCE_MAX`], or an attempt that failed by the node's own fault, make it
//!   **doubted**: any other node that can serve is preferred, one that has to load the model, too.
//! - A doubt that came of silence ends with the silence. One that came of an attempt at a node that talked meanwhile ends
//!   with a frame of another attempt: a node whose device hangs answers probes as ever.
//! - After [`DOUBT_WAIT`] it has a second chance.
//!
//! Each process doubts for itself: nobody is told, and nobody is believed. A doubted node is still asked where no other
//! can serve, so that a doubt costs a detour and never an answer.

use std::time::{Duration, Instant};

use super::Standing;

/// When a probe should be answered: by the thread that reads it, without asking the device. As long as the longest wait of
/// a choice for its probes.
const ANSWER_DUE: Duration = Duration::from_millis(50);
/// Probes in a row, [`ANSWER_DUE`] apart. Where one packet in twenty is lost each way, one probe in ten is missed and one
/// pair in a hundred; the next one is answered then.
const MISSED_MIN: u8 = 2;
/// A node with an attempt says something every 250 ms: three times that is what an attempt is waited for.
const SILENCE_MAX: Duration = Duration::from_millis(750);
/// How long a doubt lasts by itself: until membership noticed a death (3 to 4.5 s), or until an idle node may have a second
/// chance.
const DOUBT_WAIT: Duration = Duration::from_secs(4);

/// One process's doubt about one life of a node.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// Until when, after an attempt that failed.
    until: Option<Instant>,
    silence: Option<Silence>,
}

/// Questions without a word since.
#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Instant,
    /// Whether one of them was an attempt.
    has_attempt: bool,
    /// The last probe that counts.
    probed_at: Option<Instant>,
    missed: u8,
}

impl Silence {
    fn lasts(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Whether the last probe should have been answered by now, if there was one.
    fn is_due(&self, now: Instant) -> bool {
        self.probed_at.is_none_or(|at| now.saturating_duration_since(at) >= ANSWER_DUE)
    }
}

impl Doubt {
    /// An attempt ended badly, by the node's fault as far as can be seen from here.
    pub(super) fn handle_failed(&mut self, now: Instant) {
        self.until = Some(now + DOUBT_WAIT);
    }

    /// A frame of an attempt came.
    pub(super) fn handle_frame(&mut self) {
        *self = Self::default();
    }

    /// The node answered a probe, or a connection to it came up: it is there, whatever its devices do.
    pub(super) fn handle_sign(&mut self, now: Instant) {
        if self.silence.take().is_some_and(|silence| silence.lasts(now) >= SILENCE_MAX) {
            self.until = None;
        }
    }

    /// An attempt goes there.
    pub(super) fn handle_attempt(&mut self, now: Instant) {
        self.silence(now).has_attempt = true;
    }

    /// A probe goes there; the last answer of any node came at `answered_at`.
    pub(super) fn handle_probe(&mut self, answered_at: Option<Instant>, now: Instant) {
        let silence = self.silence(now);
        if !silence.is_due(now) {
            return; // lost together, perhaps
        }
        let is_missed = silence.probed_at.is_some_and(|at| answered_at.is_some_and(|answer| answer >= at));
        silence.missed = silence.missed.saturating_add(u8::from(is_missed));
        silence.probed_at = Some(now);
    }

    /// The silence that lasts, or a new one; one that gave the node a second chance is over.
    fn silence(&mut self, now: Instant) -> &mut Silence {
        self.silence.take_if(|silence| silence.lasts(now) >= DOUBT_WAIT);
        self.silence.get_or_insert(Silence { since: now, has_attempt: false, probed_at: None, missed: 0 })
    }

    /// Whether it should be asked if it is there: it is silent for too long, and not being asked.
    pub(super) fn wants_probe(&self, now: Instant) -> bool {
        self.silence.is_some_and(|silence| silence.lasts(now) >= ANSWER_DUE && silence.is_due(now))
    }

    /// Its standing, as far as doubt goes.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let silence = self.silence.filter(|silence| silence.lasts(now) < DOUBT_WAIT);
        let is_missed = silence.is_some_and(|silence| silence.missed >= MISSED_MIN);
        let is_long = silence.is_some_and(|silence| silence.lasts(now) >= SILENCE_MAX);
        let is_waited_for = silence.is_some_and(|silence| silence.has_attempt);
        if (is_missed && is_long) || self.until.is_some_and(|until| now < until) {
            Standing::Doubted
        } else if is_missed || (is_long && is_waited_for) {
            Standing::Quiet
        } else {
            Standing::Good
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fleet::origin;

    const MS: Duration = Duration::from_millis(1);

    /// Asks every so often, as requests that come by do; the answers of another node come at once.
    fn asked(doubt: &mut Doubt, from: Instant, every: Duration, times: u32) -> Instant {
        let mut now = from;
        for _ in 0..times {
            doubt.handle_probe(Some(now), now);
            now += every;
        }
        now
    }

    #[test]
    fn two_missed_probes_make_it_quiet_and_a_long_silence_doubted() {
        let (mut doubt, start) = (Doubt::default(), origin());
        let now = asked(&mut doubt, start, ANSWER_DUE, 2);
        assert_eq!(doubt.standing(now), Standing::Good, "one is lost in ten on a bad network");
        doubt.handle_probe(Some(now), now);
        assert_eq!(doubt.standing(now), Standing::Quiet);
        assert_eq!(doubt.standing(start + SILENCE_MAX - MS), Standing::Quiet);
        assert_eq!(doubt.standing(start + SILENCE_MAX), Standing::Doubted);
        assert_eq!(doubt.standing(start + DOUBT_WAIT), Standing::Good, "a second chance");
        doubt.handle_sign(now);
        assert_eq!(doubt.standing(now), Standing::Good, "any word ends it");
    }

    #[test]
    fn probes_that_are_sent_together_count_as_one() {
        let (mut doubt, start) = (Doubt::default(), origin());
        let now = asked(&mut doubt, start, MS, 49);
        assert_eq!(doubt.standing(now), Standing::Good);
        assert!(!doubt.wants_probe(now) && doubt.wants_probe(start + ANSWER_DUE));
    }

    #[test]
    fn where_nobody_answers_nobody_is_quiet() {
        let (mut doubt, start) = (Doubt::default(), origin());
        let before = start.checked_sub(MS);
        for n in 0..20 {
            doubt.handle_probe(before, start + ANSWER_DUE * n);
        }
        assert_eq!(doubt.standing(start + SILENCE_MAX), Standing::Good);
    }

    #[test]
    fn an_attempt_that_was_given_up_is_remembered_until_the_node_speaks() {
        let (mut doubt, start) = (Doubt::default(), origin());
        doubt.handle_attempt(start);
        assert!(!doubt.wants_probe(start) && doubt.wants_probe(start + ANSWER_DUE), "it is asked");
        assert_eq!(doubt.standing(start + SILENCE_MAX - MS), Standing::Good);
        assert_eq!(doubt.standing(start + SILENCE_MAX), Standing::Quiet, "no reason to load elsewhere");
        doubt.handle_sign(start + ANSWER_DUE);
        assert!(!doubt.wants_probe(start + 2 * ANSWER_DUE));
        assert_eq!(doubt.standing(start + SILENCE_MAX), Standing::Good);
    }

    #[test]
    fn a_silence_that_was_forgiven_counts_anew() {
        let (mut doubt, start) = (Doubt::default(), origin());
        asked(&mut doubt, start, ANSWER_DUE, 3);
        let later = start + DOUBT_WAIT;
        doubt.handle_probe(Some(later), later);
        assert_eq!(doubt.standing(later), Standing::Good);
        asked(&mut doubt, later + ANSWER_DUE, ANSWER_DUE, 2);
        assert_eq!(doubt.standing(later + 2 * ANSWER_DUE), Standing::Quiet);
    }

    #[test]
    fn a_failed_attempt_is_a_doubt_at_once() {
        let (mut doubt, start) = (Doubt::default(), origin());
        doubt.handle_failed(start);
        assert_eq!(doubt.standing(start), Standing::Doubted);
        assert_eq!(doubt.standing(start + DOUBT_WAIT), Standing::Good);
        doubt.handle_frame();
        assert_eq!(doubt.standing(start), Standing::Good);
    }

    #[test]
    fn a_node_that_goes_on_is_trusted_at_once_and_one_whose_device_hangs_is_not() {
        let (mut stopped, mut hanging, start) = (Doubt::default(), Doubt::default(), origin());
        let failed = start + SILENCE_MAX;
        for doubt in [&mut stopped, &mut hanging] {
            doubt.handle_attempt(start);
        }
        hanging.handle_sign(start + ANSWER_DUE);
        for doubt in [&mut stopped, &mut hanging] {
            doubt.handle_failed(failed);
            doubt.handle_probe(Some(failed), failed);
            doubt.handle_sign(failed + MS);
        }
        assert_eq!(stopped.standing(failed + MS), Standing::Good);
        assert_eq!(hanging.standing(failed + MS), Standing::Doubted);
    }
}
