//! One part of a call: its texts until they are answered, its results until they are handed out.

use std::time::{Duration, Instant};

use shoal_protocol::limits::{ITEM_TEXT_BYTES_MAX, ITEM_TOKEN_IDS_MAX};
use shoal_protocol::message::{Input, Task, TaskResult};
use shoal_protocol::{ErrorCode, NodeId, Place};

use super::answer::AnswerRows;
use super::attempts::Refusal;
use super::item::ItemResult;
use super::router::Waiting;
use super::spec::Target;

/// How often a node proves progress at the latest.
const BEACON_INTERVAL_MAX: Duration = Duration::from_millis(250);
/// Beacons that may be missing before the attempt counts as lost. Measured: beside 24 spinning processes on the two
/// cores of a computing node no attempt was given up in 40 s, because its beacons come from a thread that sleeps
/// between them; a node that was stopped for 0.6 s was waited for, one that was stopped for 0.9 s was not.
const BEACONS_MISSED_MAX: u32 = 3;
/// From the last byte handed to the transport to the first frame back, which is due within a beacon's interval of the
/// node's reading. That is done by the thread from which beacons come, so that a silence means the same before the first
/// frame as after it. Found with killed processes: with more patience here, whatever had no budget for a hedge took that
/// long to fail over.
const FIRST_FRAME_WAIT: Duration = BEACON_INTERVAL_MAX.saturating_mul(BEACONS_MISSED_MAX);
/// From the submission until the transport took all of it: dialing, waiting for a stream, back pressure.
const SEND_WAIT: Duration = Duration::from_secs(10);
/// Nodes that a part remembers as tried; beyond it the first one tried may be asked again.
const EXCLUDED_MAX: usize = 16;
/// The slowest uplink that is still waited for, added to both waits above.
const UPLINK_BYTES_PER_S_MIN: u64 = 1 << 20;

const _: () = assert!(
    BEACON_INTERVAL_MAX.as_millis() * (BEACONS_MISSED_MAX as u128) < 900,
    "failover, with the next connection, stays within a second"
);

/// Where a part stands.
#[derive(Debug)]
pub(super) enum State {
    /// To be submitted, at once or not before some time.
    Ready { not_before: Option<Instant> },
    /// An attempt is out.
    Flying(Flight),
    /// Every item is answered and no attempt is out.
    Done,
}

/// An attempt that is out.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) attempt: u32,
    /// Where it went.
    pub(super) to: Target,
    /// When a second attempt goes out beside it, if nothing is heard until then; taken when that was tried.
    pub(super) hedge_at: Option<Instant>,
    started: Instant,
    is_heard: bool,
    /// Position in the attempt's request -> position in the part.
    positions: Vec<u32>,
    /// Bytes of text sent, and tokens that came back for them: what the ratio is learnt from.
    pub(super) text_bytes: u64,
    pub(super) text_tokens: u64,
    pub(super) text_items: u64,
    uplink: Duration,
    heard: Instant,
    patience: Duration,
    waits_for: &'static str,
}

impl Flight {
    fn new(attempt: u32, to: Target, positions: Vec<u32>, bytes: u64, now: Instant) -> Self {
        let uplink = Duration::from_millis(bytes.saturating_mul(1000) / UPLINK_BYTES_PER_S_MIN);
        Self {
            attempt,
            to,
            hedge_at: None,
            started: now,
            is_heard: false,
            positions,
            text_bytes: 0,
            text_tokens: 0,
            text_items: 0,
            uplink,
            heard: now,
            patience: SEND_WAIT + uplink,
            waits_for: "request not sent",
        }
    }

    pub(super) fn items(&self) -> usize {
        self.positions.len()
    }

    /// The transport took the whole request.
    pub(super) fn handle_sent(&mut self, now: Instant) {
        if self.patience == SEND_WAIT + self.uplink {
            self.heard = now;
            self.patience = FIRST_FRAME_WAIT + self.uplink;
            self.waits_for = "no answer";
        }
    }

    /// A frame came. Of the first one: how long it took.
    pub(super) fn handle_heard(&mut self, now: Instant) -> Option<Duration> {
        self.heard = now;
        self.patience = BEACON_INTERVAL_MAX * BEACONS_MISSED_MAX;
        self.waits_for = "beacons missed";
        self.hedge_at = None;
        let is_first = !std::mem::replace(&mut self.is_heard, true);
        is_first.then(|| now.saturating_duration_since(self.started))
    }

    /// When the silence counts as a failure, and as which.
    pub(super) fn silent_at(&self) -> (Instant, &'static str) {
        (self.heard + self.patience, self.waits_for)
    }
}

/// What became of an item so far. An item leaves `Open` once and for all: that is what "exactly one outcome" rests on.
#[derive(Debug)]
enum Slot {
    Open,
    Answered(ItemResult),
    HandedOut,
}

#[derive(Debug)]
pub(super) struct Part {
    pub(super) number: u32,
    /// Position of its first item in the call.
    first: u64,
    /// Emptied one by one as they are answered.
    items: Vec<Input>,
    slots: Vec<Slot>,
    handed_out: usize,
    pub(super) unanswered: usize,
    /// Attempts made.
    pub(super) attempts: u32,
    /// Attempts whose node died or fell silent.
    pub(super) deaths: u32,
    /// Attempts that a node told or showed to have failed, overload not counted.
    pub(super) losses: u32,
    /// Connections that could not be made for it.
    pub(super) unreached: u32,
    /// Consecutive answers of overload.
    pub(super) overloads: u32,
    /// The refusal that it waits out, until the attempt after it is paid for.
    pub(super) waits_out: Option<Refusal>,
    /// Attempts that went to another node without a pause, since the last pause.
    pub(super) moves: u32,
    /// Nodes on which the model failed to load for it.
    pub(super) loads_failed: u32,
    /// Redirections followed, and where the last one leads.
    pub(super) redirects: u8,
    pub(super) redirect: Option<Place>,
    /// The probes that it waits for.
    pub(super) waits: Option<Waiting>,
    /// Nodes that it must not go to: first those that will never serve it, then those that did not this time.
    excluded: Vec<NodeId>,
    never: usize,
    /// The older of two attempts, while neither was heard of.
    rival: Option<Flight>,
    pub(super) state: State,
}

impl Part {
    /// A part whose first item has position `first` in the call. Items that no frame may carry fail at once.
    pub(super) fn new(number: u32, first: u64, items: Vec<Input>) -> Self {
        let slot = |item| too_long(item).map_or(Slot::Open, Slot::Answered);
        let slots: Vec<_> = items.iter().map(slot).collect();
        let unanswered = slots.iter().filter(|slot| matches!(slot, Slot::Open)).count();
        let state = if unanswered == 0 { State::Done } else { State::Ready { not_before: None } };
        Self {
            number,
            first,
            items,
            slots,
            handed_out: 0,
            unanswered,
            attempts: 0,
            deaths: 0,
            losses: 0,
            unreached: 0,
            overloads: 0,
            waits_out: None,
            moves: 0,
            loads_failed: 0,
            redirects: 0,
            redirect: None,
            waits: None,
            excluded: Vec::new(),
            never: 0,
            rival: None,
            state,
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn items_len(&self) -> u64 {
        self.items.len() as u64
    }

    /// What is not answered yet: bytes of text, token ids, items. Answered items are empty.
    pub(super) fn weight(&self) -> (u64, u64, u64) {
        let of = |(bytes, ids): (u64, u64), item: &Input| match item {
            Input::Text(text) => (bytes + text.len() as u64, ids),
            Input::TokenIds(own) => (bytes, ids + own.len() as u64),
        };
        let (bytes, ids) = self.items.iter().fold((0, 0), of);
        (bytes, ids, self.unanswered as u64)
    }

    /// Nodes that it must not go to.
    pub(super) fn excluded(&self) -> &[NodeId] {
        &self.excluded
    }

    /// Whether the node will never serve it.
    pub(super) fn is_useless(&self, node: NodeId) -> bool {
        self.excluded[..self.never].contains(&node)
    }

    /// The node did not serve it this time, or never will.
    pub(super) fn exclude(&mut self, node: NodeId, for_ever: bool) {
        if self.is_useless(node) {
            return;
        }
        self.excluded.retain(|tried| *tried != node);
        if for_ever {
            self.excluded.insert(self.never, node);
            self.never += 1;
        } else {
            self.excluded.push(node);
        }
        if self.excluded.len() > EXCLUDED_MAX {
            self.never = self.never.min(EXCLUDED_MAX);
            self.excluded.remove(self.never.min(EXCLUDED_MAX - 1));
        }
    }

    /// Every other node was tried: those that did not serve it this time may be asked again. Whether there are any.
    pub(super) fn forgive(&mut self) -> bool {
        let some = self.excluded.len() > self.never;
        self.excluded.truncate(self.never);
        some
    }

    /// Starts an attempt at the unanswered items and gives them back, copied. An attempt that is out stays out beside it.
    pub(super) fn start(&mut self, to: Target, now: Instant) -> Vec<Input> {
        // A part has at most REQUEST_ITEMS_MAX items, so that every position fits.
        let open = |(position, slot): (u32, &Slot)| matches!(slot, Slot::Open).then_some(position);
        let positions: Vec<u32> = (0..).zip(&self.slots).filter_map(open).collect();
        let inputs: Vec<_> =
            positions.iter().map(|position| self.items[*position as usize].clone()).collect();
        let bytes = inputs.iter().map(|input| input.bytes() as u64).sum();
        let flight = Flight::new(self.attempts, to, positions, bytes, now);
        if let State::Flying(older) = std::mem::replace(&mut self.state, State::Flying(flight)) {
            self.rival = Some(older);
        }
        self.attempts += 1;
        (self.redirect, self.waits) = (None, None);
        inputs
    }

    /// The attempts that are out, the newest first.
    pub(super) fn flights(&self) -> impl Iterator<Item = &Flight> {
        let newest = match &self.state {
            State::Flying(flight) => Some(flight),
            State::Ready { .. } | State::Done => None,
        };
        newest.into_iter().chain(&self.rival)
    }

    /// The attempt of this number, if it is out.
    pub(super) fn flight_mut(&mut self, attempt: u32) -> Option<&mut Flight> {
        let newest = match &mut self.state {
            State::Flying(flight) => Some(flight),
            State::Ready { .. } | State::Done => None,
        };
        newest.into_iter().chain(&mut self.rival).find(|flight| flight.attempt == attempt)
    }

    /// Of two attempts this one is heard of: the other is no longer wanted. Gives back its number.
    pub(super) fn win(&mut self, attempt: u32) -> Option<u32> {
        let rival = self.rival.take()?;
        if rival.attempt != attempt {
            return Some(rival.attempt);
        }
        match std::mem::replace(&mut self.state, State::Flying(rival)) {
            State::Flying(loser) => Some(loser.attempt),
            State::Ready { .. } | State::Done => None,
        }
    }

    /// Of two attempts this one is over: the other goes on. Whether there are two.
    pub(super) fn lose(&mut self, attempt: u32) -> bool {
        let Some(rival) = self.rival.take() else {
            return false;
        };
        if rival.attempt != attempt {
            self.state = State::Flying(rival);
        }
        true
    }

    /// Takes the results that are new; those of items that are answered already are dropped. Gives back how many
    /// were new and the tokens that they took, or how the peer broke its word.
    pub(super) fn take(&mut self, result: TaskResult, task: &Task) -> Result<(u64, u64), &'static str> {
        let State::Flying(flight) = &mut self.state else {
            return Ok((0, 0));
        };
        let mut rows = AnswerRows::from(result.answers);
        let (mut answered, mut tokens) = (0, 0);
        for (position, outcome) in result.indices.into_iter().zip(result.outcomes) {
            let position = flight.positions.get(position as usize);
            let position = *position.ok_or("a result for an item that was not sent")? as usize;
            let slot = &mut self.slots[position];
            let input = matches!(slot, Slot::Open).then_some(&self.items[position]);
            let Some(item) = rows.next(outcome, task, input)? else {
                continue;
            };
            let seen = u64::from(item.tokens_seen());
            if let (Input::Text(text), ItemResult::Answered { truncated: false, .. }) =
                (&self.items[position], &item)
            {
                flight.text_bytes += task.item_work().bytes(text.len() as u64, 1);
                flight.text_tokens += seen;
                flight.text_items += 1;
            }
            tokens += seen;
            answered += 1;
            self.unanswered -= 1;
            self.items[position] = Input::Text(String::new());
            *slot = Slot::Answered(item);
        }
        Ok((answered, tokens))
    }

    /// The next result in input order, once it is there.
    pub(super) fn hand_out(&mut self) -> Option<(u64, ItemResult)> {
        let slot = self.slots.get_mut(self.handed_out)?;
        if !matches!(slot, Slot::Answered(_)) {
            return None;
        }
        let Slot::Answered(item) = std::mem::replace(slot, Slot::HandedOut) else {
            return None;
        };
        let index = self.first + self.handed_out as u64;
        self.handed_out += 1;
        Some((index, item))
    }

    /// Items answered before its first that is not.
    pub(super) fn answered_in_order(&self) -> usize {
        self.slots.iter().position(|slot| matches!(slot, Slot::Open)).unwrap_or(self.slots.len())
    }

    /// Nothing more is coming: what is left to hand out are the items before the first that is not answered.
    pub(super) fn close(&mut self) {
        self.slots.truncate(self.answered_in_order());
        self.rival = None;
        self.state = State::Done;
    }

    /// Whether nothing of it is left to do or to hand out.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Done) && self.handed_out == self.slots.len()
    }
}

/// Fails an item that no frame may carry. It is over every model's limit by orders of magnitude, whatever the
/// truncation, and is not sent.
fn too_long(input: &Input) -> Option<ItemResult> {
    let message = match input {
        Input::Text(text) if text.len() > ITEM_TEXT_BYTES_MAX => {
            format!("text of {} bytes, at most {ITEM_TEXT_BYTES_MAX} allowed", text.len())
        }
        Input::TokenIds(ids) if ids.len() > ITEM_TOKEN_IDS_MAX => {
            format!("{} token ids, at most {ITEM_TOKEN_IDS_MAX} allowed", ids.len())
        }
        _ => return None,
    };
    let (tokens, limit) = match input {
        Input::Text(_) => (0, 0),
        Input::TokenIds(ids) => (u32::try_from(ids.len()).unwrap_or(u32::MAX), ITEM_TOKEN_IDS_MAX as u32),
    };
    Some(ItemResult::Failed { code: ErrorCode::TooLong, message, tokens, limit })
}
