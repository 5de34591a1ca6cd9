//! The queue's order and the lanes' widths, each alone.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use shoal_protocol::BatchId;
use shoal_protocol::message::Priority;
use slotmap::SlotMap;

use super::super::event::{BatchItem, BatchRun, ItemTokens};
use super::super::ids::{LaneIndex, ModelKey, RequestKey};
use super::super::testing::origin;
use super::lanes::{Estimate, Lanes, Slot};
use super::queue::{Budget, WorkQueue, due};

const SECOND: Duration = Duration::from_secs(1);
const MODELS: u32 = 2;

struct Queue {
    queue: WorkQueue,
    keys: SlotMap<RequestKey, ()>,
    now: Instant,
}

impl Queue {
    fn new() -> Self {
        let mut queue = WorkQueue::default();
        (0..MODELS).for_each(|_| queue.register_model());
        Self { queue, keys: SlotMap::with_key(), now: origin() }
    }

    fn add(&mut self, model: u32, deadline: Option<Duration>, tokens: &[u32]) -> RequestKey {
        let request = self.keys.insert(());
        let items: Vec<ItemTokens> =
            (0..).zip(tokens).map(|(index, tokens)| ItemTokens { index, tokens: *tokens }).collect();
        let deadline = deadline.map(|time| self.now + time);
        self.queue.handle_items(request, ModelKey(model), Priority::Interactive, deadline, &items, self.now);
        request
    }

    /// Takes a batch at a speed of 100 tokens/s.
    fn take(&mut self, model: u32, tokens_max: u64) -> Vec<BatchItem> {
        let mut batch = Vec::new();
        let budget = Budget { tokens_max, sequences_max: 3, token_time: 0.01 };
        self.queue.take(ModelKey(model), Priority::Interactive, budget, &mut batch);
        batch
    }

    fn order(&self) -> Vec<RequestKey> {
        self.queue.iter(Priority::Interactive).map(|queued| queued.request).collect()
    }
}

#[test]
fn a_batch_is_filled_in_order_up_to_its_budget() {
    let mut queue = Queue::new();
    let later = queue.add(0, Some(9 * SECOND), &[10, 10]);
    queue.add(1, Some(SECOND), &[10]);
    let sooner = queue.add(0, Some(2 * SECOND), &[10, 5]);
    let taken = queue.take(0, 25);
    let expected = [(sooner, 0, 0), (sooner, 1, 1), (later, 0, 2)];
    assert_eq!(taken.iter().map(|item| (item.request, item.index, item.row)).collect::<Vec<_>>(), expected);
    assert_eq!(queue.take(0, 25).len(), 1);
    assert_eq!(queue.take(0, 25), []);
    assert_eq!(queue.take(1, 5).len(), 1, "alone, whatever the budget");
}

#[test]
fn sequences_are_bounded_too() {
    let mut queue = Queue::new();
    queue.add(0, None, &[1; 5]);
    assert_eq!(queue.take(0, 1000).len(), 3);
    assert_eq!(queue.take(0, 1000).len(), 2);
}

#[test]
fn no_stream_of_tight_deadlines_overtakes_for_ever() {
    let mut queue = Queue::new();
    let patient = queue.add(0, Some(600 * SECOND), &[1]);
    queue.now += 8 * SECOND;
    let urgent = queue.add(0, Some(SECOND), &[1]);
    assert_eq!(queue.order(), [urgent, patient]);
    queue.now += 3 * SECOND;
    let too_late = queue.add(0, Some(SECOND), &[1]);
    assert_eq!(queue.order(), [urgent, patient, too_late]);
}

#[test]
fn bulk_work_is_patient_but_not_for_ever() {
    let now = origin();
    let due = |time: Option<u64>, after: u64| {
        let now = now + Duration::from_secs(after);
        due(Priority::Bulk, time.map(|time| now + Duration::from_secs(time)), now)
    };
    assert!(due(Some(60), 0) < due(None, 0));
    assert!(due(Some(60), 299) > due(None, 0));
    assert_eq!(due(Some(3600), 0), due(None, 0));
}

#[test]
fn who_was_served_moves_back_but_not_past_its_deadline() {
    let mut queue = Queue::new();
    let large = queue.add(0, None, &[100; 3]);
    let tight = queue.add(0, Some(10 * SECOND), &[100; 3]);
    queue.now += SECOND;
    let small = queue.add(0, None, &[1]);
    assert_eq!(queue.order(), [large, tight, small]);
    assert_eq!(queue.take(0, 100)[0].request, large);
    assert_eq!(queue.order(), [tight, small, large], "one second served, four back");
    assert_eq!(queue.take(0, 100)[0].request, tight);
    assert_eq!(queue.order(), [tight, small, large], "due at its deadline");
}

#[test]
fn a_requeued_item_comes_first_again() {
    let mut queue = Queue::new();
    let request = queue.add(0, None, &[1, 2]);
    assert_eq!(queue.take(0, 10).len(), 2);
    assert_eq!(queue.order(), []);
    queue.queue.handle_requeued(request, ItemTokens { index: 1, tokens: 2 });
    assert_eq!(queue.order(), [request]);
    assert_eq!(queue.take(0, 10)[0].index, 1);
    queue.queue.handle_removed(request);
    queue.queue.handle_requeued(request, ItemTokens { index: 1, tokens: 2 });
    assert_eq!(queue.order(), [], "its request has ended");
}

proptest! {
    /// The counters by model agree with the queue whatever comes and goes, and each item is taken once.
    #[test]
    fn counters_follow_the_queue(steps in prop::collection::vec((0u8..3, 0u32..MODELS, 1u32..50, 0usize..8), 1..100)) {
        let mut queue = Queue::new();
        let mut requests = Vec::new();
        let mut taken: Vec<(RequestKey, u32)> = Vec::new();
        for (kind, model, tokens, items) in steps {
            match kind {
                0 => requests.push(queue.add(model, None, &vec![tokens; items])),
                1 => taken.extend(queue.take(model, u64::from(tokens) * 3).iter().map(|item| (item.request, item.index))),
                _ if items < requests.len() => queue.queue.handle_removed(requests.swap_remove(items)),
                _ => {}
            }
            let waiting: u64 = queue.queue.models().map(|(_, waiting)| waiting.tokens.iter().sum::<u64>()).sum();
            let queued: u64 = queue.queue.iter(Priority::Interactive).map(|queued| queued.tokens).sum();
            prop_assert_eq!(waiting, queued);
        }
        let all = taken.len();
        taken.sort_unstable();
        taken.dedup();
        prop_assert_eq!(taken.len(), all);
    }
}

fn start(lanes: &mut Lanes, batch: u64, (lane, threads): (LaneIndex, u16), time: Duration, now: Instant) {
    let run = BatchRun { batch: BatchId(batch), model: ModelKey(0), lane, threads, sequences: 1, tokens: 1 };
    let items = lanes.spare_items();
    lanes.handle_started(run, items, Estimate { time, measured: true }, now);
}

#[test]
fn one_wide_lane_or_one_thread_for_each_batch() {
    let width = |wanted| Lanes::new(8, true).next(wanted).map(|slot| (slot.threads, slot.lanes));
    assert_eq!([1, 2, 3, 8, 100].map(width), [(8, 1), (4, 2), (2, 3), (1, 8), (1, 8)].map(Some));
}

#[test]
fn streams_of_their_own_take_all_they_can() {
    let (mut lanes, now) = (Lanes::new(2, false), origin());
    for lane in [0, 1] {
        let next = Slot { lane: LaneIndex(lane), threads: 1, lanes: 1 };
        assert_eq!(lanes.next(100), Some(next));
        start(&mut lanes, u64::from(lane), (LaneIndex(lane), 1), SECOND, now);
    }
    assert_eq!(lanes.next(1), None);
}

#[test]
fn threads_are_never_oversubscribed() {
    for threads in 1..=17 {
        for wanted in 1..=20 {
            let (mut lanes, now) = (Lanes::new(threads, true), origin());
            let mut taken = 0;
            for batch in 1.. {
                let Some(Slot { lane, threads: width, .. }) = lanes.next(wanted) else {
                    break;
                };
                assert!(width >= 1 && width <= lane.threads_max(threads));
                taken += width;
                start(&mut lanes, batch, (lane, width), SECOND, now);
            }
            assert!(taken <= threads, "{taken} of {threads}");
            assert!(
                taken == threads || lanes.batches() == usize::from(threads),
                "idle threads and an idle lane"
            );
        }
    }
}

#[test]
fn patience_is_three_times_the_estimate_with_a_floor() {
    let (mut lanes, now) = (Lanes::new(2, true), origin());
    start(&mut lanes, 1, (LaneIndex(0), 1), SECOND, now);
    start(&mut lanes, 2, (LaneIndex(1), 1), SECOND / 100, now);
    assert_eq!(lanes.overrun_at(), Some(now + 2 * SECOND));
    assert!(lanes.poll_hung(now + 2 * SECOND - Duration::from_nanos(1)).is_none());
    assert_eq!(lanes.poll_hung(now + 2 * SECOND).map(|hung| hung.run.batch), Some(BatchId(2)));
    assert_eq!(lanes.overrun_at(), Some(now + 3 * SECOND));
    assert_eq!(lanes.handle_ended(BatchId(2), now).map(|ended| ended.run.batch), None, "given up");
    assert!(lanes.next(1).is_none() && lanes.is_hung(), "its thread is lost until it is replaced");
    assert!(lanes.handle_replaced(LaneIndex(1)).is_some());
    assert_eq!(lanes.next(1).map(|slot| (slot.lane, slot.threads)), Some((LaneIndex(1), 1)));
}

#[test]
fn a_late_timer_blames_the_process_and_not_the_lane() {
    let (mut lanes, now) = (Lanes::new(1, true), origin());
    start(&mut lanes, 1, (LaneIndex(0), 1), SECOND / 100, now);
    let resumed = now + 100 * SECOND;
    assert!(lanes.poll_hung(resumed).is_none());
    assert_eq!(lanes.overrun_at(), Some(resumed + 2 * SECOND));
    assert!(lanes.poll_hung(resumed + 2 * SECOND).is_some());
}
