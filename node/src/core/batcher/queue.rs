//! The work that waits: requests in order of urgency, each with the items that are not in a batch yet.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use shoal_protocol::message::Priority;
use slotmap::SecondaryMap;

use super::super::event::{BatchItem, ItemTokens};
use super::super::ids::{ModelKey, RequestKey};
use super::super::rate::seconds_to_duration;

/// After this wait an interactive request goes before any that arrives later, however close the deadline of that
/// one is: earliest deadline first alone would let a stream of tight deadlines starve the rest.
const INTERACTIVE_DUE: Duration = Duration::from_secs(10);
/// The same among bulk requests.
const BULK_DUE: Duration = Duration::from_secs(300);
/// A request that has had so much of the device moves back by this many times as much, so that a call of two
/// thousand texts does not stand in front of a single one that comes a moment later.
const SERVED_FACTOR: u32 = 4;

/// Empty lists kept for the next requests.
const SPARE_LISTS_MAX: usize = 64;

/// Order inside a priority: due first, ties by arrival. All items of a request share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    due: Instant,
    sequence: u64,
}

#[derive(Debug)]
struct Job {
    model: ModelKey,
    priority: Priority,
    place: Place,
    deadline: Option<Instant>,
    queued_at: Instant,
    waiting: VecDeque<ItemTokens>,
    waiting_tokens: u64,
}

impl Job {
    /// It has had `served` of the device: of those that want more, or whose next texts are still being tokenized,
    /// the ones that had less come first, deadlines permitting. (Least attained service first, but never past a
    /// deadline.)
    fn move_back(&mut self, served: Duration) {
        let due = self.place.due + served * SERVED_FACTOR;
        self.place.due = self.deadline.map_or(due, |deadline| due.min(deadline.max(self.place.due)));
    }
}

/// What one batch may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) tokens_max: u64,
    pub(super) sequences_max: u32,
    /// Time that a token costs the whole device, in seconds.
    pub(super) token_time: f64,
}

/// What waits for one model.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    /// Tokens by priority.
    pub(super) tokens: [u64; 2],
    /// Items of both priorities.
    pub(super) items: u64,
}

impl Waiting {
    pub(super) fn of(&self, priority: Priority) -> u64 {
        self.tokens[priority as usize]
    }
}

/// A queued request as others see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    pub(crate) request: RequestKey,
    pub(crate) model: ModelKey,
    pub(crate) tokens: u64,
    pub(super) due: Instant,
    pub(super) deadline: Option<Instant>,
}

/// Two priorities, each in order of urgency over all models. A request has a place until it ends, for the items that
/// are still being tokenized and those of given-up batches.
#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    jobs: SecondaryMap<RequestKey, Job>,
    order: [BTreeMap<Place, RequestKey>; 2],
    models: Vec<Waiting>,
    /// Models with something waiting, in order of registration: few of hundreds, and looked at with every event.
    busy: Vec<ModelKey>,
    sequence: u64,
    /// Whom the batch that is being filled serves: place, request, tokens.
    served: Vec<(Place, RequestKey, u64)>,
    spare: Vec<VecDeque<ItemTokens>>,
}

/// When a request that arrives now is due.
pub(super) fn due(priority: Priority, deadline: Option<Instant>, now: Instant) -> Instant {
    let horizon = now
        + match priority {
            Priority::Interactive => INTERACTIVE_DUE,
            Priority::Bulk => BULK_DUE,
        };
    deadline.map_or(horizon, |deadline| deadline.min(horizon))
}

impl WorkQueue {
    pub(super) fn register_model(&mut self) {
        self.models.push(Waiting::default());
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
        if items.is_empty() {
            return;
        }
        if !self.jobs.contains_key(request) {
            self.sequence += 1;
            let place = Place { due: due(priority, deadline, now), sequence: self.sequence };
            let waiting = self.spare.pop().unwrap_or_default();
            let job = Job { model, priority, place, deadline, queued_at: now, waiting, waiting_tokens: 0 };
            self.jobs.insert(request, job);
        }
        let tokens = items.iter().map(|item| u64::from(item.tokens)).sum::<u64>();
        let job = &mut self.jobs[request];
        job.waiting.extend(items);
        job.waiting_tokens += tokens;
        self.order[priority as usize].insert(job.place, request);
        self.count(model, |counts| {
            counts.tokens[priority as usize] += tokens;
            counts.items += items.len() as u64;
        });
    }

    /// Changes what waits for a model.
    fn count(&mut self, model: ModelKey, change: impl FnOnce(&mut Waiting)) {
        let counts = &mut self.models[model.index()];
        let was_busy = counts.items > 0;
        change(counts);
        if was_busy != (counts.items > 0) {
            match self.busy.binary_search(&model) {
                Ok(at) => drop(self.busy.remove(at)),
                Err(at) => self.busy.insert(at, model),
            }
        }
    }

    /// An item of a given-up batch waits again, in front of its request's others.
    pub(super) fn handle_requeued(&mut self, request: RequestKey, item: ItemTokens) {
        let Some(job) = self.jobs.get_mut(request) else {
            return;
        };
        job.waiting.push_front(item);
        job.waiting_tokens += u64::from(item.tokens);
        self.order[job.priority as usize].insert(job.place, request);
        let (model, priority) = (job.model, job.priority);
        self.count(model, |counts| {
            counts.tokens[priority as usize] += u64::from(item.tokens);
            counts.items += 1;
        });
    }

    /// The request ended: nothing of it waits any more.
    pub(super) fn handle_removed(&mut self, request: RequestKey) {
        let Some(mut job) = self.jobs.remove(request) else {
            return;
        };
        self.order[job.priority as usize].remove(&job.place);
        self.count(job.model, |counts| {
            counts.tokens[job.priority as usize] -= job.waiting_tokens;
            counts.items -= job.waiting.len() as u64;
        });
        if self.spare.len() < SPARE_LISTS_MAX {
            job.waiting.clear();
            self.spare.push(job.waiting);
        }
    }

    /// The model of the most urgent request of a priority, among those whose model may run.
    pub(super) fn head(
        &self,
        priority: Priority,
        is_runnable: impl Fn(ModelKey) -> bool,
    ) -> Option<ModelKey> {
        self.in_order(priority).map(|(_, job)| job.model).find(|model| is_runnable(*model))
    }

    /// When the oldest request of a priority was queued, among those whose model may run.
    pub(super) fn oldest(
        &self,
        priority: Priority,
        is_runnable: impl Fn(ModelKey) -> bool,
    ) -> Option<Instant> {
        self.in_order(priority).filter(|(_, job)| is_runnable(job.model)).map(|(_, job)| job.queued_at).min()
    }

    /// Fills `batch` with items of one model in order of urgency, up to `tokens_max` and `sequences_max`; an item
    /// over the budget comes alone. Returns the tokens taken. `token_time` is what one of them costs the device.
    pub(super) fn take(
        &mut self,
        model: ModelKey,
        priority: Priority,
        Budget { tokens_max, sequences_max, token_time }: Budget,
        batch: &mut Vec<BatchItem>,
    ) -> u64 {
        let mut tokens = 0;
        'fill: for (place, request) in &self.order[priority as usize] {
            let Some(job) = self.jobs.get_mut(*request).filter(|job| job.model == model) else {
                continue;
            };
            let before = tokens;
            while let Some(item) = job.waiting.front().copied() {
                let row = u32::try_from(batch.len()).unwrap_or(u32::MAX);
                let item_tokens = u64::from(item.tokens);
                if row >= sequences_max || row > 0 && tokens + item_tokens > tokens_max {
                    self.served.push((*place, *request, tokens - before));
                    break 'fill;
                }
                job.waiting.pop_front();
                job.waiting_tokens -= item_tokens;
                tokens += item_tokens;
                batch.push(BatchItem { request: *request, index: item.index, tokens: item.tokens, row });
            }
            self.served.push((*place, *request, tokens - before));
        }
        self.count(model, |counts| {
            counts.tokens[priority as usize] -= tokens;
            counts.items -= batch.len() as u64;
        });
        for (place, request, taken) in self.served.drain(..) {
            self.order[priority as usize].remove(&place);
            let job = &mut self.jobs[request];
            job.move_back(seconds_to_duration(token_time * taken as f64));
            if !job.waiting.is_empty() {
                self.order[priority as usize].insert(job.place, request);
            }
        }
        tokens
    }

    /// Every queued request, interactive first, in order of urgency.
    pub(super) fn iter(&self, priority: Priority) -> impl Iterator<Item = Queued> {
        self.in_order(priority).map(|(request, job)| Queued {
            request,
            model: job.model,
            tokens: job.waiting_tokens,
            due: job.place.due,
            deadline: job.deadline,
        })
    }

    /// Those of a priority that go before a request that is due at `due`.
    pub(super) fn ahead(&self, priority: Priority, due: Instant) -> impl Iterator<Item = Queued> {
        self.iter(priority).take_while(move |queued| queued.due <= due)
    }

    /// Tokens that wait for a model in one priority.
    pub(super) fn tokens(&self, model: ModelKey, priority: Priority) -> u64 {
        self.models[model.index()].of(priority)
    }

    /// Models with something waiting, in order of registration.
    pub(super) fn models(&self) -> impl Iterator<Item = (ModelKey, Waiting)> {
        self.busy.iter().map(|model| (*model, self.models[model.index()]))
    }

    fn in_order(&self, priority: Priority) -> impl Iterator<Item = (RequestKey, &Job)> {
        self.order[priority as usize]
            .values()
            .filter_map(|request| self.jobs.get(*request).map(|job| (*request, job)))
    }
}
