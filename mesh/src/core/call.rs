//! One call of the application, from texts to exactly one outcome each.

use std::collections::VecDeque;
use std::time::Instant;

use shoal_protocol::limits::{MODEL_NAME_BYTES_MAX, REQUEST_ITEMS_MAX};
use shoal_protocol::message::{EncodeRequest, End, Failure, Input};
use shoal_protocol::{Message, Micros};

use super::attempts::{AttemptFailure, AttemptKey, CancelReason, Context, Next};
use super::error::ClientError;
use super::item::ItemResult;
use super::part::{Part, State};
use super::shared::Shared;
use super::spec::{CallSpec, Submit, Summary, WhenOverloaded};
use super::split::Split;

/// Parts in flight at first: keeps both lanes of a device busy while one part's answer travels.
const WINDOW_FIRST: usize = 4;
/// Parts in flight at most.
const WINDOW_MAX: usize = 8;
/// Parts held at most, from the oldest that is not handed out: bounds memory while a slow part holds up the order.
const PARTS_HELD_MAX: usize = 12;

const _: () = assert!(PARTS_HELD_MAX >= WINDOW_MAX, "the window must be reachable");
const _: () = assert!(REQUEST_ITEMS_MAX <= u32::MAX as usize);

/// One call. The driver repeats, in this order, until [`Call::poll_outcome`] gives something:
///
/// 1. while [`wants_input`](Self::wants_input): [`handle_input`](Self::handle_input),
///    [`handle_input_end`](Self::handle_input_end), or, where the source has nothing now,
///    [`handle_input_pause`](Self::handle_input_pause) and on to the next step;
/// 2. [`poll_cancel`](Self::poll_cancel): drop these attempts; [`poll_submit`](Self::poll_submit): send these;
/// 3. [`poll_item`](Self::poll_item), as far as the application takes results: what it does not take holds back input;
/// 4. feed what happened: [`handle_sent`](Self::handle_sent), [`handle_frame`](Self::handle_frame),
///    [`handle_failed`](Self::handle_failed); and, only when nothing more is there to read, a passed
///    [`poll_timeout`](Self::poll_timeout) to [`handle_timeout`](Self::handle_timeout).
///
/// Every item ends in exactly one result; or the call fails as a whole, and only the results before the first item
/// without one are given.
#[derive(Debug)]
pub struct Call {
    spec: CallSpec,
    split: Split,
    input_ended: bool,
    parts: VecDeque<Part>,
    parts_made: u32,
    items_taken: u64,
    items_answered: u64,
    window: usize,
    progress: Instant,
    cancelled: VecDeque<(AttemptKey, CancelReason)>,
    summary: Summary,
    outcome: Option<Result<(), ClientError>>,
}

impl Call {
    /// A call that has taken no input yet.
    #[must_use]
    pub fn new(spec: CallSpec, now: Instant) -> Self {
        let too_long = |name: &String| name.len() > MODEL_NAME_BYTES_MAX;
        let invalid = if too_long(&spec.model) {
            Some("model name too long")
        } else if spec.options.prompt_name.as_ref().is_some_and(too_long) {
            Some("prompt name too long")
        } else {
            None
        };
        Self {
            summary: Summary::new(spec.request_id),
            spec,
            split: Split::default(),
            input_ended: false,
            parts: VecDeque::new(),
            parts_made: 0,
            items_taken: 0,
            items_answered: 0,
            window: WINDOW_FIRST,
            progress: now,
            cancelled: VecDeque::new(),
            outcome: invalid.map(|what| Err(ClientError::Invalid { what })),
        }
    }

    /// Whether the next input may be given now.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.input_ended && self.outcome.is_none() && self.parts.len() < PARTS_HELD_MAX
    }

    /// The next text.
    pub fn handle_input(&mut self, input: Input, shared: &Shared) {
        self.items_taken += 1;
        if let Some(items) = self.split.push(input, &self.spec.model, shared) {
            self.add_part(items);
        }
    }

    /// There are no more texts for now. What is open is sent if nothing else is under way: a slow source's texts do not
    /// wait for those after them, and a fast one's still travel together (as Nagle's rule has it, RFC 896).
    pub fn handle_input_pause(&mut self) {
        if self.parts.iter().all(|part| matches!(part.state, State::Done))
            && let Some(items) = self.split.cut()
        {
            self.add_part(items);
        }
    }

    /// There are no more texts.
    pub fn handle_input_end(&mut self) {
        self.input_ended = true;
        if let Some(items) = self.split.cut() {
            self.add_part(items);
        }
        self.finish_if_done();
    }

    fn add_part(&mut self, items: Vec<Input>) {
        let first = self.parts.back().map_or(self.summary.items, |part| part.first() + part.items_len());
        let part = Part::new(self.parts_made, first, items);
        self.items_answered += part.items_len() - part.unanswered as u64;
        self.parts_made += 1;
        self.parts.push_back(part);
    }

    /// The next attempt to send.
    pub fn poll_submit(&mut self, shared: &mut Shared, now: Instant) -> Option<Submit> {
        if self.outcome.is_some() || self.flying() >= self.window {
            return None;
        }
        let due = |part: &&mut Part| match part.state {
            State::Ready { not_before } => not_before.is_none_or(|at| at <= now),
            State::Flying(_) | State::Done => false,
        };
        let part = self.parts.iter_mut().find(due)?;
        let key = AttemptKey { part: part.number, attempt: part.attempts };
        if key.attempt == 0 {
            shared.earn_retry();
        } else {
            self.summary.retries += 1;
        }
        let request = EncodeRequest {
            request_id: self.spec.request_id,
            part: key.part,
            attempt: key.attempt,
            model: self.spec.model.clone(),
            items: part.start(now),
            options: self.spec.options.clone(),
            deadline_us: self
                .spec
                .deadline
                .map(|deadline| Micros::from(deadline.saturating_duration_since(now))),
            priority: self.spec.priority,
            decision: Vec::new(),
            trace: self.spec.trace,
        };
        Some(Submit { key, request })
    }

    /// An attempt that is superseded or no longer wanted: stop and forget its stream.
    pub fn poll_cancel(&mut self) -> Option<(AttemptKey, CancelReason)> {
        self.cancelled.pop_front()
    }

    /// The transport took the whole request of an attempt.
    pub fn handle_sent(&mut self, key: AttemptKey, now: Instant) {
        if let Some(Part { state: State::Flying(flight), .. }) = self.flying_part(key) {
            flight.handle_sent(now);
        }
    }

    /// A frame of an attempt. Frames of an attempt that is over are dropped.
    pub fn handle_frame(&mut self, key: AttemptKey, message: Message, shared: &mut Shared, now: Instant) {
        let Some(part) = self.flying_part(key) else {
            return;
        };
        if let State::Flying(flight) = &mut part.state {
            flight.handle_heard(now);
        }
        match message {
            Message::Beacon(_) => self.progress = now,
            Message::EncodeResult(result) => match part.take(result) {
                Ok((answered, tokens)) => {
                    part.overloads = 0;
                    self.progress = now;
                    self.items_answered += answered;
                    self.summary.tokens += tokens;
                }
                Err(_) => self.handle_loss(key, "a result for an item that was not sent", shared, now),
            },
            Message::End(end) => self.handle_end(key, end, shared, now),
            Message::Failure(failure) => self.handle_failure(key, failure, shared, now),
            _ => self.handle_loss(key, "a frame that does not belong into an answer", shared, now),
        }
    }

    /// An attempt ended without a terminal frame.
    pub fn handle_failed(
        &mut self,
        key: AttemptKey,
        failure: AttemptFailure,
        shared: &mut Shared,
        now: Instant,
    ) {
        match failure {
            AttemptFailure::Refused(code, message) => {
                let failure = Failure { code, message, retry_after_us: None };
                self.handle_failure(key, failure, shared, now);
            }
            AttemptFailure::Lost(what) => {
                self.settle(key, shared, now, |context, part| context.after_loss(part, what, None))
            }
            AttemptFailure::Unreachable(what) => {
                self.settle(key, shared, now, |context, part| context.after_unreachable(part, what))
            }
        }
    }

    fn handle_loss(&mut self, key: AttemptKey, what: &str, shared: &mut Shared, now: Instant) {
        self.cancelled.push_back((key, CancelReason::Unwanted));
        self.settle(key, shared, now, |context, part| context.after_loss(part, what.to_owned(), None));
    }

    fn handle_failure(&mut self, key: AttemptKey, failure: Failure, shared: &mut Shared, now: Instant) {
        self.settle(key, shared, now, |context, part| context.after_failure(part, failure));
    }

    fn handle_end(&mut self, key: AttemptKey, end: End, shared: &mut Shared, now: Instant) {
        let Some(part) = self.flying_part(key) else {
            return;
        };
        let State::Flying(flight) = &part.state else {
            return;
        };
        if part.unanswered > 0 || end.items as usize != flight.items() {
            let what = "an end with items unanswered";
            return self
                .settle(key, shared, now, |context, part| context.after_loss(part, what.to_owned(), None));
        }
        let (bytes, items, tokens) = (flight.text_bytes, flight.text_items, flight.text_tokens);
        part.state = State::Done;
        shared.learn(&self.spec.model, bytes, items, tokens);
        self.progress = now;
        self.window = (self.window + 1).min(WINDOW_MAX);
        self.summary.request_id = end.request_id;
        self.summary.served_by = Some(end.served_by);
        self.summary.widen(&end.timings);
        self.finish_if_done();
    }

    /// An attempt is over without an end: decide what becomes of its part.
    fn settle(
        &mut self,
        key: AttemptKey,
        shared: &mut Shared,
        now: Instant,
        decide: impl FnOnce(&mut Context<'_>, &mut Part) -> Next,
    ) {
        let mut context = Context {
            now,
            deadline: self.spec.deadline,
            progress: self.progress,
            waits_for_room: self.spec.when_overloaded == WhenOverloaded::Wait,
            seed: self.spec.seed,
            shared,
        };
        let Some(part) = self.flying_part(key) else {
            return;
        };
        if part.unanswered == 0 {
            part.state = State::Done; // all answers came; only the words around them were lost
            return self.finish_if_done();
        }
        match decide(&mut context, part) {
            Next::Again(not_before) => part.state = State::Ready { not_before },
            Next::AgainWithLess(at) => {
                part.state = State::Ready { not_before: Some(at) };
                self.window = (self.window / 2).max(1);
            }
            Next::Fail(error) => self.fail(error),
        }
    }

    /// Keeps of the parts only what is answered before the first item that is not.
    fn fail(&mut self, error: ClientError) {
        for part in &self.parts {
            if let State::Flying(flight) = &part.state {
                let (part, attempt) = (part.number, flight.attempt);
                self.cancelled.push_back((AttemptKey { part, attempt }, CancelReason::Unwanted));
            }
        }
        let whole = self.parts.iter().take_while(|part| part.unanswered == 0).count();
        self.parts.truncate(whole + 1);
        self.parts.iter_mut().for_each(Part::close);
        self.outcome = Some(Err(error));
        self.finish_if_done();
    }

    /// Items answered before the first that is not: what is given whatever happens to the others.
    fn items_in_order(&self) -> u64 {
        match self.parts.iter().find(|part| part.unanswered > 0) {
            Some(part) => part.first() + part.answered_in_order() as u64,
            None => self.parts.back().map_or(self.summary.items, |part| part.first() + part.items_len()),
        }
    }

    /// The next result, in input order. Results that are not taken hold back input once enough are held.
    pub fn poll_item(&mut self) -> Option<(u64, ItemResult)> {
        let item = self.parts.front_mut()?.hand_out()?;
        self.finish_if_done();
        Some(item)
    }

    fn finish_if_done(&mut self) {
        while let Some(part) = self.parts.pop_front_if(|part| part.is_over()) {
            self.summary.items += part.items_len();
        }
        if self.input_ended && self.parts.is_empty() && self.outcome.is_none() {
            self.summary.parts = self.parts_made;
            self.outcome = Some(Ok(()));
        }
    }

    /// How the call ended, once it has and the last item was taken.
    #[must_use]
    pub fn poll_outcome(&self) -> Option<Result<&Summary, &ClientError>> {
        let outcome = self.outcome.as_ref().filter(|_| self.parts.is_empty())?;
        Some(outcome.as_ref().map(|()| &self.summary))
    }

    /// Items answered, and items given so far.
    #[must_use]
    pub fn items(&self) -> (u64, u64) {
        (self.items_answered, self.items_taken)
    }

    /// When [`Self::handle_timeout`] is due next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.outcome.is_some() {
            return None;
        }
        let room = self.flying() < self.window;
        let of_part = |part: &Part| match &part.state {
            State::Ready { not_before } if room => not_before.map(|at| (at, "retry")),
            State::Flying(flight) => Some(flight.silent_at()),
            State::Ready { .. } | State::Done => None,
        };
        let parts = self.parts.iter().filter_map(of_part);
        let deadline = self.spec.deadline.map(|at| (at, "deadline"));
        parts.chain(deadline).min()
    }

    /// Time passed. Feed frames that are already there first: they may disprove a silence.
    pub fn handle_timeout(&mut self, shared: &mut Shared, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        if self.spec.deadline.is_some_and(|deadline| now >= deadline) {
            let answered = self.items_in_order();
            return self.fail(ClientError::DeadlineExceeded { answered });
        }
        let silent = |part: &Part| match &part.state {
            State::Flying(flight) => {
                let (at, what) = flight.silent_at();
                let (part, attempt) = (part.number, flight.attempt);
                (at <= now).then_some((AttemptKey { part, attempt }, what))
            }
            State::Ready { .. } | State::Done => None,
        };
        let silent: Vec<_> = self.parts.iter().filter_map(silent).collect();
        for (key, what) in silent {
            self.cancelled.push_back((key, CancelReason::Silent));
            self.settle(key, shared, now, |context, part| context.after_loss(part, what.to_owned(), None));
        }
    }

    fn flying(&self) -> usize {
        let flying = |part: &&Part| matches!(part.state, State::Flying(_));
        self.parts.iter().filter(flying).count()
    }

    fn flying_part(&mut self, key: AttemptKey) -> Option<&mut Part> {
        let first = self.parts.front()?.number;
        let part = self.parts.get_mut(key.part.checked_sub(first)? as usize)?;
        match &part.state {
            State::Flying(flight) if flight.attempt == key.attempt => Some(part),
            _ => None,
        }
    }
}
