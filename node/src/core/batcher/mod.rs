//! Which work runs next, together with what, where and how wide.

mod forecast;
mod lanes;
mod queue;
mod standing;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use shoal_protocol::BatchId;
use shoal_protocol::message::Priority;

use self::lanes::{Estimate, Lanes, Slot};
use self::queue::{Budget, WorkQueue};
use self::standing::Standing;
use super::config::CoreConfig;
use super::event::{BatchItem, BatchRun, ItemTokens};
use super::ids::{LaneIndex, ModelKey, RequestKey};
use super::rate::{RateMeter, Throttle, UseMeter, seconds_to_duration};

pub(super) use self::forecast::Newcomer;
pub(super) use self::lanes::EndedBatch;
pub(super) use self::queue::Queued;

/// Fewer tokens are not worth a batch: the weights' bytes cost more than the arithmetic.
const BATCH_TOKENS_MIN: u64 = 64;
/// Tokens that a lane of its own must get, for each thread of the device. All lanes read the weights through one
/// memory: two of them beat one wide lane from 16 tokens each (measured on 2 cores: +35 % at 16, +14 % at 32, +8 %
/// at 128), but the more cores share the memory, the more tokens each reading must serve.
const LANE_TOKENS_PER_THREAD: u64 = 8;
/// Speed of one thread before anything was measured, in tokens/s. Sizes the first batches only; no request is ever
/// refused by it.
const TOKENS_PER_S_GUESS: f64 = 4000.0;
/// A bulk request that waited this long is owed its share, whatever interactive work there is.
const BULK_WAIT: Duration = Duration::from_secs(2);
/// The share: one batch in this many.
const BULK_EVERY: u32 = 8;

/// Speeds of one model, by threads of a lane.
#[derive(Debug)]
struct Rates(Vec<RateMeter>);

impl Rates {
    /// Measured at this width, else scaled from the nearest narrower one, else from any.
    fn per_s(&self, threads: u16) -> Option<f64> {
        let width = usize::from(threads).clamp(1, self.0.len());
        let scaled = |from: usize| Some(self.0[from - 1].per_s()? * width as f64 / from as f64);
        (1..=width).rev().chain(width + 1..=self.0.len()).find_map(scaled)
    }

    /// All threads busy with narrow lanes, as they are when much waits.
    fn device_per_s(&self) -> Option<f64> {
        let threads = self.0.len() as f64;
        self.0.iter().zip(1u32..).find_map(|(meter, width)| Some(meter.per_s()? * threads / f64::from(width)))
    }
}

/// What would start now, and how many tokens of it.
struct Next {
    slot: Slot,
    model: ModelKey,
    priority: Priority,
    tokens_max: u64,
}

/// The batcher of one device. Requests wait in order of urgency; whenever a lane is free the most urgent one whose
/// model may run leads a batch of its model and priority, filled in order up to a token budget that the measured
/// rate turns into about `batch_target` of time. Work that is worth several lanes is shared among those that are
/// free; a single text gets all threads. Nothing waits while a lane is free.
///
/// # Fairness
/// Interactive work goes first. Once the oldest bulk request has waited [`BULK_WAIT`], at least one batch in
/// [`BULK_EVERY`] is bulk, so `n` bulk tokens with `b` before them are done within about
/// `BULK_WAIT + BULK_EVERY * (b + n) / rate`. Inside a priority, requests that had less of the device come first as
/// far as deadlines allow, and no later arrival overtakes one that waited for the queue's horizon and a multiple
/// of its own work: no model, no size and no deadline class starves another.
#[derive(Debug)]
pub(super) struct Batcher {
    target: Duration,
    tokens_max: u64,
    sequences_max: u32,
    queue: WorkQueue,
    lanes: Lanes,
    rates: Vec<Rates>,
    device: RateMeter,
    throttle: Throttle,
    /// Of interactive work.
    interactive: UseMeter,
    standing: Standing,
    started: u64,
    done: u64,
    interactive_streak: u32,
}

impl Batcher {
    pub(super) fn new(config: &CoreConfig) -> Self {
        Self {
            target: config.batch_target,
            tokens_max: u64::from(config.batch_tokens_max),
            sequences_max: config.batch_sequences_max.max(1),
            queue: WorkQueue::default(),
            lanes: Lanes::new(config.threads, config.shares_threads),
            rates: Vec::new(),
            device: RateMeter::default(),
            throttle: Throttle::new(config.tokens_per_s_max),
            interactive: UseMeter::default(),
            standing: Standing::default(),
            started: 0,
            done: 0,
            interactive_streak: 0,
        }
    }

    pub(super) fn register_model(&mut self) {
        self.queue.register_model();
        self.rates.push(Rates(vec![RateMeter::default(); usize::from(self.lanes.threads())]));
    }

    /// Items of a request: its first, or further ones at the place that it has.
    pub(super) fn handle_items(
        &mut self,
        request: RequestKey,
        model: ModelKey,
        priority: Priority,
        deadline: Option<Instant>,
        items: &[ItemTokens],
        now: Instant,
    ) {
        self.queue.handle_items(request, model, priority, deadline, items, now);
    }

    /// An item of a given-up batch waits again, at its request's place.
    pub(super) fn handle_requeued(&mut self, request: RequestKey, item: ItemTokens) {
        self.queue.handle_requeued(request, item);
    }

    /// The request ended; its waiting items are dropped, its running ones computed for nobody.
    pub(super) fn handle_removed(&mut self, request: RequestKey) {
        self.queue.handle_removed(request);
    }

    /// A batch ended well: its speed counts.
    pub(super) fn handle_done(&mut self, batch: BatchId, now: Instant) -> Option<EndedBatch> {
        let ended = self.lanes.handle_ended(batch, now)?;
        let BatchRun { model, threads, tokens, .. } = ended.run;
        self.rates[model.index()].0[usize::from(threads) - 1].record(u64::from(tokens), ended.took);
        self.device.record(u64::from(tokens), ended.took * u32::from(threads));
        self.done += 1;
        Some(ended)
    }

    /// A batch ended with an error: its time says nothing.
    pub(super) fn handle_failed(&mut self, batch: BatchId, now: Instant) -> Option<EndedBatch> {
        self.lanes.handle_ended(batch, now)
    }

    /// A batch that overran its time; its lane is hung. Call until `None`.
    pub(super) fn poll_hung(&mut self, now: Instant) -> Option<EndedBatch> {
        self.lanes.poll_hung(now)
    }

    /// Returns the batch that the replaced lane hung on.
    pub(super) fn handle_lane_replaced(&mut self, lane: LaneIndex) -> Option<BatchRun> {
        self.lanes.handle_replaced(lane)
    }

    /// Takes back the list of an [`EndedBatch`].
    pub(super) fn recycle(&mut self, items: Vec<BatchItem>) {
        self.lanes.recycle(items);
    }

    /// The next batch to start now, if a lane is free and something may run.
    pub(super) fn poll_batch(
        &mut self,
        is_runnable: impl Fn(ModelKey) -> bool,
        now: Instant,
    ) -> Option<BatchRun> {
        let Next { slot: Slot { lane, threads, .. }, model, priority, tokens_max } =
            self.next(&is_runnable, now)?;
        let mut items = self.lanes.spare_items();
        let (rate, _) = self.rate_or_guess(model, 1);
        let rate = rate * f64::from(self.lanes.threads());
        let budget = Budget {
            tokens_max,
            sequences_max: self.sequences_max,
            token_time: 1.0 / self.throttle.cap(Some(rate)).unwrap_or(rate),
        };
        let tokens = self.queue.take(model, priority, budget, &mut items);
        match priority {
            Priority::Interactive => {
                self.interactive_streak = self.interactive_streak.saturating_add(1);
                self.interactive.record(self.work_time(model, tokens), now);
            }
            Priority::Bulk => self.interactive_streak = 0,
        }
        self.started += 1;
        self.throttle.spend(tokens, now);
        let run = BatchRun {
            batch: BatchId(self.started),
            model,
            lane,
            threads,
            sequences: u32::try_from(items.len()).unwrap_or(u32::MAX),
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        };
        let estimate = self.estimate(model, threads, tokens);
        self.lanes.handle_started(run, items, estimate, now);
        self.handle_shorter(&is_runnable, now);
        Some(run)
    }

    /// When the batch that [`poll_batch`](Self::poll_batch) would start now should end; `None` where none would start,
    /// or its speed is a guess.
    pub(super) fn next_end(&self, is_runnable: impl Fn(ModelKey) -> bool, now: Instant) -> Option<Instant> {
        let Next { slot, model, tokens_max, .. } = self.next(&is_runnable, now)?;
        let Estimate { time, measured } = self.estimate(model, slot.threads, tokens_max);
        measured.then(|| now + time)
    }

    fn next(&self, is_runnable: &impl Fn(ModelKey) -> bool, now: Instant) -> Option<Next> {
        if !self.throttle.is_ready(now) {
            return None;
        }
        let slot = self.lanes.next(self.lanes_worth(is_runnable))?;
        let (model, priority) = self.choose(is_runnable, now)?;
        let share = self.queue.tokens(model, priority).div_ceil(slot.lanes);
        Some(Next { slot, model, priority, tokens_max: self.budget(model).min(share) })
    }

    /// When to look again, unless an event comes first.
    pub(super) fn poll_timeout(
        &self,
        is_runnable: impl Fn(ModelKey) -> bool,
    ) -> Option<(Instant, &'static str)> {
        let overrun = self.lanes.overrun_at().map(|at| (at, "batch overrun"));
        let startable =
            self.lanes.next(1).is_some() && self.queue.models().any(|(model, _)| is_runnable(model));
        let paced = self.throttle.ready_at().filter(|_| startable).map(|at| (at, "token rate limit"));
        overrun.into_iter().chain(paced).min()
    }

    /// The model and priority of the next batch.
    fn choose(&self, is_runnable: impl Fn(ModelKey) -> bool, now: Instant) -> Option<(ModelKey, Priority)> {
        let first = |priority| Some((self.queue.head(priority, &is_runnable)?, priority));
        if self.is_bulk_owed(&is_runnable, now) {
            return first(Priority::Bulk);
        }
        first(Priority::Interactive).or_else(|| first(Priority::Bulk))
    }

    fn is_bulk_owed(&self, is_runnable: impl Fn(ModelKey) -> bool, now: Instant) -> bool {
        self.interactive_streak + 1 >= BULK_EVERY
            && self
                .queue
                .oldest(Priority::Bulk, is_runnable)
                .is_some_and(|queued_at| now.saturating_duration_since(queued_at) >= BULK_WAIT)
    }

    /// How many lanes the runnable work is worth.
    fn lanes_worth(&self, is_runnable: impl Fn(ModelKey) -> bool) -> u64 {
        let lane_tokens = LANE_TOKENS_PER_THREAD * u64::from(self.lanes.threads());
        let lanes = |(model, waiting): (ModelKey, queue::Waiting)| {
            let tokens: u64 = waiting.tokens.iter().sum();
            let by_tokens = tokens.div_ceil(lane_tokens.min(self.budget(model)));
            let by_sequences = waiting.items.div_ceil(u64::from(self.sequences_max));
            by_tokens.min(waiting.items).max(by_sequences)
        };
        self.queue.models().filter(|(model, _)| is_runnable(*model)).map(lanes).sum()
    }

    /// Tokens that one thread computes in the target time, or that the rate limit grants in it; more threads only
    /// make the batch faster.
    fn budget(&self, model: ModelKey) -> u64 {
        let (rate, _) = self.rate_or_guess(model, 1);
        let rate = self.throttle.cap(Some(rate)).unwrap_or(rate);
        let tokens = (rate * self.target.as_secs_f64()) as u64;
        tokens.max(BATCH_TOKENS_MIN).min(self.tokens_max.max(1))
    }

    fn estimate(&self, model: ModelKey, threads: u16, tokens: u64) -> Estimate {
        let (rate, measured) = self.rate_or_guess(model, threads);
        Estimate { time: seconds_to_duration(tokens as f64 / rate), measured }
    }

    fn rate_or_guess(&self, model: ModelKey, threads: u16) -> (f64, bool) {
        match self.rate(model, threads) {
            Some(rate) => (rate, true),
            None => (TOKENS_PER_S_GUESS * f64::from(threads), false),
        }
    }

    /// Measured tokens/s of a model on one lane of this many threads.
    pub(super) fn rate(&self, model: ModelKey, threads: u16) -> Option<f64> {
        self.rates.get(model.index())?.per_s(threads)
    }

    /// Tokens/s of the whole device with this model, limit included.
    pub(super) fn device_rate(&self, model: ModelKey) -> Option<f64> {
        self.throttle.cap(self.rates.get(model.index()).and_then(Rates::device_per_s))
    }

    /// Tokens/s of the whole device with the mix of models that it ran last, limit included.
    pub(super) fn mixed_rate(&self) -> Option<f64> {
        self.throttle.cap(self.device.per_s().map(|rate| rate * f64::from(self.lanes.threads())))
    }

    /// Every queued request in the order in which it would run if all models were resident.
    pub(super) fn queued(&self) -> impl Iterator<Item = Queued> {
        self.queue.iter(Priority::Interactive).chain(self.queue.iter(Priority::Bulk))
    }

    pub(super) fn running_items(&self, now: Instant) -> impl Iterator<Item = (&BatchItem, Duration)> {
        self.lanes.running_items(now)
    }

    pub(super) fn items(&self, batch: BatchId) -> &[BatchItem] {
        self.lanes.items(batch)
    }

    /// When the oldest queued request was queued.
    pub(super) fn oldest(&self) -> Option<Instant> {
        [Priority::Interactive, Priority::Bulk]
            .into_iter()
            .filter_map(|priority| self.queue.oldest(priority, |_| true))
            .min()
    }

    pub(super) fn batches_done(&self) -> u64 {
        self.done
    }

    pub(super) fn batches_running(&self) -> usize {
        self.lanes.batches()
    }

    pub(super) fn is_hung(&self) -> bool {
        self.lanes.is_hung()
    }
}
