//! One call of the application, from texts to exactly one outcome each.

mod flights;

use std::collections::VecDeque;
use std::time::Instant;

use shoal_protocol::limits::{MODEL_NAME_BYTES_MAX, REQUEST_ITEMS_MAX};
use shoal_protocol::message::Input;

use super::attempts::{AttemptKey, CancelReason};
use super::error::ClientError;
use super::item::ItemResult;
use super::part::{Part, State};
use super::shared::Shared;
use super::spec::{CallSpec, Summary};
use super::split::Split;

/// Parts in flight at first: keeps both lanes of a device busy while one part's answer travels.
const WINDOW_FIRST: usize = 4;
/// Parts in flight at most.
const WINDOW_MAX: usize = 8;
/// Parts held at most, from the oldest that is not handed out: bounds memory while a slow part holds up the order.
const PARTS_HELD_MAX: usize = 12;

const _: () = assert!(PARTS_HELD_MAX >= WINDOW_MAX, "the window must be reachable");
const _: () = assert!(REQUEST_ITEMS_MAX <= u32::MAX as usize);

/// One call: its texts until they are answered, its attempts while they are out, its results until they are taken. The
/// order in which it is driven is written at [`ClientCore`](super::ClientCore).
#[derive(Debug)]
pub(super) struct Call {
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
    pub(super) fn new(spec: CallSpec, now: Instant) -> Self {
        let invalid = if spec.model.len() > MODEL_NAME_BYTES_MAX {
            Some("model name too long")
        } else {
            spec.task.check().err()
        };
        Self {
            summary: Summary::new(spec.request_id),
            split: Split::of(spec.task.item_work()),
            spec,
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
    pub(super) fn wants_input(&self) -> bool {
        !self.input_ended && self.outcome.is_none() && self.parts.len() < PARTS_HELD_MAX
    }

    /// Whether a part waits for a place.
    pub(super) fn is_placing(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.state, State::Ready { .. }))
    }

    /// The next text.
    pub(super) fn handle_input(&mut self, input: Input, shared: &Shared) {
        self.items_taken += 1;
        if let Some(items) = self.split.push(input, &self.spec.model, shared) {
            self.add_part(items);
        }
    }

    /// There are no more texts for now. What is open is sent if nothing else is under way: a slow source's texts do not
    /// wait for those after them, and a fast one's still travel together (as Nagle's rule has it, RFC 896).
    pub(super) fn handle_input_pause(&mut self) {
        if self.parts.iter().all(|part| matches!(part.state, State::Done))
            && let Some(items) = self.split.cut()
        {
            self.add_part(items);
        }
    }

    /// There are no more texts.
    pub(super) fn handle_input_end(&mut self) {
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

    /// Keeps of the parts only what is answered before the first item that is not.
    fn fail(&mut self, error: ClientError) {
        for part in &self.parts {
            let key = |attempt| AttemptKey { part: part.number, attempt };
            let out = part.flights().map(|flight| (key(flight.attempt), CancelReason::Unwanted));
            self.cancelled.extend(out);
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
    pub(super) fn poll_item(&mut self) -> Option<(u64, ItemResult)> {
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
    pub(super) fn poll_outcome(&self) -> Option<Result<&Summary, &ClientError>> {
        let outcome = self.outcome.as_ref().filter(|_| self.parts.is_empty())?;
        Some(outcome.as_ref().map(|()| &self.summary))
    }

    /// Items answered, and items given so far.
    pub(super) fn items(&self) -> (u64, u64) {
        (self.items_answered, self.items_taken)
    }
}
