//! The attempts of a call: sent, heard of, lost, and what follows.

use std::collections::VecDeque;
use std::time::Instant;

use shoal_protocol::message::{End, Failure, Priority, TaskRequest};
use shoal_protocol::{ErrorCode, Message, Micros, NodeId};

use super::{Call, WINDOW_MAX};
use crate::core::attempts::{AttemptFailure, AttemptKey, CancelReason, Context, Next};
use crate::core::dispatch::Dispatch;
use crate::core::error::ClientError;
use crate::core::part::{Part, State};
use crate::core::router::{Choice, Reason, Route};
use crate::core::spec::{Submit, Target};

/// How an attempt ended without its end.
enum Ending {
    /// Without a word: its node died or fell silent.
    Gone(String),
    /// By a break of the protocol.
    Broken(&'static str),
    /// Before it began.
    Unreachable(String),
    /// As the node, or the own link, says.
    Told(Failure),
}

impl Ending {
    /// Whether the node should come after others for a while. A failed device refuses everything at once and so looks
    /// idle: whoever goes by load alone would send it more and more.
    fn is_doubtful(&self) -> bool {
        match self {
            Self::Gone(_) | Self::Broken(_) => true,
            Self::Unreachable(_) => false,
            Self::Told(failure) => matches!(failure.code, ErrorCode::DeviceFailed | ErrorCode::Unavailable),
        }
    }
}

fn part_mut(parts: &mut VecDeque<Part>, number: u32) -> Option<&mut Part> {
    let first = parts.front()?.number;
    parts.get_mut(number.checked_sub(first)? as usize)
}

impl Call {
    /// The next attempt to send.
    pub(in crate::core) fn poll_submit(&mut self, dispatch: &mut Dispatch, now: Instant) -> Option<Submit> {
        for at in 0..self.parts.len() {
            if self.outcome.is_some() {
                return None;
            }
            let submit = match &self.parts[at].state {
                State::Ready { not_before } if not_before.is_none_or(|due| due <= now) => {
                    if self.flying() < self.window { self.place(at, dispatch, now) } else { None }
                }
                State::Flying(flight) if flight.hedge_at.is_some_and(|due| due <= now) => {
                    self.hedge(at, dispatch, now)
                }
                State::Ready { .. } | State::Flying(_) | State::Done => None,
            };
            if submit.is_some() {
                return submit;
            }
        }
        None
    }

    /// Finds a device for a part that is due; `None` where it must wait, or the call failed.
    fn place(&mut self, at: usize, dispatch: &mut Dispatch, now: Instant) -> Option<Submit> {
        loop {
            let part = &mut self.parts[at];
            let mut context = Context { now, spec: &self.spec, progress: self.progress, dispatch };
            let next = match context.before_attempt(part) {
                Some(unpaid) => unpaid,
                None => match context.dispatch.route(&self.spec, part, now) {
                    Ok(Route::To(choice)) => return Some(self.send(at, choice, dispatch, now)),
                    Ok(Route::Wait(waiting)) => {
                        part.waits = Some(waiting);
                        part.state = State::Ready { not_before: None };
                        return None;
                    }
                    Err(why) => context.after_no_route(part, why),
                },
            };
            match next {
                Next::Again(None) => {} // what the part excluded is forgiven, which happens once
                Next::Again(not_before) => {
                    part.state = State::Ready { not_before };
                    return None;
                }
                Next::AgainWithLess(at) => {
                    part.state = State::Ready { not_before: Some(at) };
                    return None;
                }
                Next::Fail(error) => {
                    self.fail(error);
                    return None;
                }
            }
        }
    }

    /// Sends a second attempt beside one that is late, where the budget and another node allow it.
    fn hedge(&mut self, at: usize, dispatch: &mut Dispatch, now: Instant) -> Option<Submit> {
        let part = &mut self.parts[at];
        let State::Flying(flight) = &mut part.state else {
            return None;
        };
        flight.hedge_at = None;
        let first = flight.to.node;
        let choice = dispatch.hedge(&self.spec, part, first, now)?;
        Some(self.send(at, choice, dispatch, now))
    }

    fn send(&mut self, at: usize, choice: Choice, dispatch: &mut Dispatch, now: Instant) -> Submit {
        dispatch.view.handle_attempt(choice.node, now);
        let part = &mut self.parts[at];
        let key = AttemptKey { part: part.number, attempt: part.attempts };
        let is_hedge = choice.decision.reason == Reason::Hedge;
        match key.attempt {
            0 => dispatch.shared.earn_retry(),
            _ if is_hedge => self.summary.hedges += 1,
            _ => self.summary.retries += 1,
        }
        let to = Target { node: choice.node, device: choice.device, via: dispatch.view.via(choice.node) };
        let left = self.spec.deadline.map(|deadline| deadline.saturating_duration_since(now));
        let items = part.start(to, now);
        if self.spec.priority == Priority::Interactive && !is_hedge {
            let late = dispatch.shared.late_after(&self.spec.model);
            let in_time = late.filter(|late| left.is_none_or(|left| *late <= left / 2));
            if let Some(flight) = part.flight_mut(key.attempt) {
                flight.hedge_at = in_time.map(|late| now + late);
            }
        }
        let place = choice.place();
        let request = TaskRequest {
            request_id: self.spec.request_id,
            part: key.part,
            attempt: key.attempt,
            to: place,
            redirects: part.redirects,
            decision: choice.decision.encode(),
            model: choice.model.unwrap_or_else(|| self.spec.model.clone()),
            items,
            task: self.spec.task.clone(),
            deadline_us: left.map(Micros::from),
            priority: self.spec.priority,
            trace: self.spec.trace,
        };
        Submit { key, to, request }
    }

    /// An attempt that is superseded or no longer wanted: stop and forget its stream.
    pub(in crate::core) fn poll_cancel(&mut self) -> Option<(AttemptKey, CancelReason)> {
        self.cancelled.pop_front()
    }

    /// The transport took the whole request of an attempt.
    pub(in crate::core) fn handle_sent(&mut self, key: AttemptKey, now: Instant) {
        let part = part_mut(&mut self.parts, key.part);
        if let Some(flight) = part.and_then(|part| part.flight_mut(key.attempt)) {
            flight.handle_sent(now);
        }
    }

    /// A frame of an attempt. Frames of an attempt that is over are dropped.
    pub(in crate::core) fn handle_frame(
        &mut self,
        key: AttemptKey,
        message: Message,
        dispatch: &mut Dispatch,
        now: Instant,
    ) {
        let Some(part) = part_mut(&mut self.parts, key.part) else {
            return;
        };
        let Some(flight) = part.flight_mut(key.attempt) else {
            return;
        };
        let first = flight.handle_heard(now);
        dispatch.view.handle_frame(flight.to.node);
        if let Message::Failure(failure) = message {
            return self.settle(key, Ending::Told(failure), dispatch, now);
        }
        if let Some(after) = first {
            dispatch.shared.learn_first_frame(&self.spec.model, after);
        }
        if let Some(attempt) = part.win(key.attempt) {
            self.cancelled.push_back((AttemptKey { attempt, ..key }, CancelReason::Unwanted));
        }
        match message {
            Message::Beacon(_) => self.progress = now,
            Message::TaskResult(result) => match part.take(result, &self.spec.task) {
                Ok((answered, tokens)) => {
                    part.overloads = 0;
                    self.progress = now;
                    self.items_answered += answered;
                    self.summary.tokens += tokens;
                }
                Err(what) => self.handle_break(key, what, dispatch, now),
            },
            Message::End(end) => self.handle_end(key, end, dispatch, now),
            _ => self.handle_break(key, "a frame that does not belong into an answer", dispatch, now),
        }
    }

    /// An attempt ended without a terminal frame.
    pub(in crate::core) fn handle_failed(
        &mut self,
        key: AttemptKey,
        failure: AttemptFailure,
        dispatch: &mut Dispatch,
        now: Instant,
    ) {
        let ending = match failure {
            AttemptFailure::Refused(code, message) => Ending::Told(Failure::new(code, message)),
            AttemptFailure::Lost(what) => Ending::Gone(what),
            AttemptFailure::Unreachable(what) => Ending::Unreachable(what),
        };
        self.settle(key, ending, dispatch, now);
    }

    /// The node is gone, or its life is another: what is out there is lost, and sent again without waiting for beacons.
    pub(in crate::core) fn handle_gone(&mut self, node: NodeId, dispatch: &mut Dispatch, now: Instant) {
        for key in self.keys(|flight| flight.to.node == node) {
            self.cancelled.push_back((key, CancelReason::Unwanted));
            self.settle(key, Ending::Gone("the node is gone".to_owned()), dispatch, now);
        }
    }

    fn keys(&self, is_it: impl Fn(&crate::core::part::Flight) -> bool) -> Vec<AttemptKey> {
        let of_part = |part: &Part| {
            let number = part.number;
            let found: Vec<_> = part
                .flights()
                .filter(|flight| is_it(flight))
                .map(|flight| AttemptKey { part: number, attempt: flight.attempt })
                .collect();
            found
        };
        self.parts.iter().flat_map(of_part).collect()
    }

    /// The peer broke the protocol: the attempt is stopped and lost.
    fn handle_break(&mut self, key: AttemptKey, what: &'static str, dispatch: &mut Dispatch, now: Instant) {
        self.cancelled.push_back((key, CancelReason::Unwanted));
        self.settle(key, Ending::Broken(what), dispatch, now);
    }

    fn handle_end(&mut self, key: AttemptKey, end: End, dispatch: &mut Dispatch, now: Instant) {
        let Some(part) = part_mut(&mut self.parts, key.part) else {
            return;
        };
        let unanswered = part.unanswered;
        let Some(flight) = part.flight_mut(key.attempt) else {
            return;
        };
        if unanswered > 0 || end.items as usize != flight.items() {
            return self.settle(key, Ending::Broken("an end with items unanswered"), dispatch, now);
        }
        dispatch.shared.learn(&self.spec.model, flight.text_bytes, flight.text_items, flight.text_tokens);
        part.state = State::Done;
        self.progress = now;
        self.window = (self.window + 1).min(WINDOW_MAX);
        self.summary.request_id = end.request_id;
        self.summary.served_by = Some(end.served_by);
        self.summary.widen(&end.timings);
        self.finish_if_done();
    }

    /// An attempt is over without an end: decide what becomes of its part.
    fn settle(&mut self, key: AttemptKey, ending: Ending, dispatch: &mut Dispatch, now: Instant) {
        let Some(part) = part_mut(&mut self.parts, key.part) else {
            return;
        };
        let Some(to) = part.flight_mut(key.attempt).map(|flight| flight.to) else {
            return;
        };
        if ending.is_doubtful() {
            dispatch.view.handle_doubt(to.node, now);
        }
        if part.lose(key.attempt) {
            return part.exclude(to.node, false); // its twin goes on
        }
        if part.unanswered == 0 {
            part.state = State::Done; // all answers came; only the words around them were lost
            return self.finish_if_done();
        }
        let mut context = Context { now, spec: &self.spec, progress: self.progress, dispatch };
        let next = match ending {
            Ending::Gone(what) => context.after_death(part, to, what),
            Ending::Broken(what) => context.after_loss(part, to, what.to_owned(), None),
            Ending::Unreachable(what) => context.after_unreachable(part, to, what),
            Ending::Told(failure) => context.after_failure(part, to, failure),
        };
        match next {
            Next::Again(not_before) => part.state = State::Ready { not_before },
            Next::AgainWithLess(at) => {
                part.state = State::Ready { not_before: Some(at) };
                self.window = (self.window / 2).max(1);
            }
            Next::Fail(error) => self.fail(error),
        }
    }

    /// When [`Self::handle_timeout`] is due next, and why.
    pub(in crate::core) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.outcome.is_some() {
            return None;
        }
        let room = self.flying() < self.window;
        let of_part = |part: &Part| match &part.state {
            State::Ready { not_before: Some(at) } if room => Some((*at, "retry")),
            State::Ready { .. } if room => part.waits.map(|waiting| (waiting.until, "probes unanswered")),
            State::Flying(flight) => {
                let hedge = flight.hedge_at.map(|at| (at, "hedge"));
                part.flights().map(|flight| flight.silent_at()).chain(hedge).min()
            }
            State::Ready { .. } | State::Done => None,
        };
        let parts = self.parts.iter().filter_map(of_part);
        let deadline = self.spec.deadline.map(|at| (at, "deadline"));
        parts.chain(deadline).min()
    }

    /// Time passed. Feed frames that are already there first: they may disprove a silence.
    pub(in crate::core) fn handle_timeout(&mut self, dispatch: &mut Dispatch, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        if self.spec.deadline.is_some_and(|deadline| now >= deadline) {
            let answered = self.items_in_order();
            return self.fail(ClientError::DeadlineExceeded { answered });
        }
        for key in self.keys(|flight| flight.silent_at().0 <= now) {
            let part = part_mut(&mut self.parts, key.part);
            let Some(flight) = part.and_then(|part| part.flight_mut(key.attempt)) else {
                continue; // an earlier one failed the call
            };
            let what = flight.silent_at().1.to_owned();
            self.cancelled.push_back((key, CancelReason::Silent));
            self.settle(key, Ending::Gone(what), dispatch, now);
        }
    }

    fn flying(&self) -> usize {
        let flying = |part: &&Part| matches!(part.state, State::Flying(_));
        self.parts.iter().filter(flying).count()
    }
}
