//! That broken rules are seen: a checker that finds nothing must be known to find something.

use std::time::{Duration, Instant};

use shoal_mesh::Life;
use shoal_mesh::core::{CallSpec, ClientCore, ClientError, ItemResult, Summary, View, WhenOverloaded};
use shoal_protocol::message::FactsVersion;
use shoal_protocol::message::{
    DenseBlock, End, Input, ItemOutcome, Numerics, Priority, ServedBy, Task, TaskResult, Timings,
};
use shoal_protocol::{DeviceIndex, Message, NodeId, RequestId};
use shoal_tests::sim::{Graves, History, disagreement};

const DEADLINE: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin of virtual time")]
fn history() -> (History, Instant) {
    let start = Instant::now();
    let mut history = History::new(start, start);
    history.invoked(1, 2, start + DEADLINE, start);
    (history, start)
}

/// Two items with these values, and how their call ended: as the real call gives them.
fn answered(values: [f32; 2], now: Instant) -> (Vec<(u64, ItemResult)>, Summary) {
    let spec = CallSpec {
        request_id: RequestId::default(),
        model: "model-0".to_owned(),
        task: Task::default(),
        priority: Priority::Interactive,
        deadline: None,
        trace: None,
        when_overloaded: WhenOverloaded::Wait,
        seed: 1,
    };
    let mut client = ClientCore::new(View::of_entry(NodeId::default()), 1);
    let call = client.start_call(spec, now);
    for number in 0..2 {
        client.handle_input(call, Input::TokenIds(vec![number]));
    }
    client.handle_input_end(call);
    let key = client.poll_submit(call, now).expect("a part to send").key;
    let result = TaskResult {
        indices: vec![0, 1],
        outcomes: vec![ItemOutcome::Answered { tokens: 1, truncated: false }; 2],
        answers: DenseBlock {
            dims: 1,
            rows: 2,
            data: values.into_iter().flat_map(f32::to_le_bytes).collect(),
            ..DenseBlock::default()
        }
        .into(),
    };
    let served_by = ServedBy {
        node: NodeId::default(),
        device: DeviceIndex(0),
        device_name: String::new(),
        numerics: Numerics::F32,
    };
    let request_id = RequestId::default();
    let end = End { request_id, items: 2, tokens: 2, served_by, timings: Timings::default() };
    client.handle_frame(call, key, Message::TaskResult(result), now);
    client.handle_frame(call, key, Message::End(end), now);
    let items = std::iter::from_fn(|| client.poll_item(call)).collect();
    (items, client.poll_outcome(call).expect("an outcome").expect("a good one").clone())
}

#[track_caller]
fn assert_violated(history: &History, what: &str) {
    let found = history.violations();
    assert!(found.iter().any(|violation| violation.what.contains(what)), "{what}: {found:?}");
}

#[test]
fn a_sound_history_breaks_no_rule() {
    let (mut history, now) = history();
    let (items, summary) = answered([0.0, 1.0], now);
    for (index, item) in &items {
        history.given(1, *index, item, now);
    }
    history.ended(1, Ok(&summary), |_| false, now);
    history.audit(now + 2 * DEADLINE);
    assert_eq!(history.violations(), []);
    assert_eq!((history.answered().0, history.open_len()), (1, 0));
}

#[test]
fn an_item_given_twice_or_mixed_up_or_missing_is_seen() {
    let (mut history, now) = history();
    let (items, summary) = answered([7.0, 1.0], now);
    history.given(1, items[0].0, &items[0].1, now);
    assert_violated(&history, "has another's vector");
    history.given(1, items[0].0, &items[0].1, now);
    assert_violated(&history, "item 0 of request 1 where 1 was next");
    let (mut history, now) = self::history();
    history.given(1, items[1].0, &items[1].1, now);
    history.ended(1, Ok(&summary), |_| false, now);
    assert_violated(&history, "is done with 1 of 2 items");
}

#[test]
fn a_second_outcome_and_a_missing_one_are_seen() {
    let (mut history, now) = history();
    let late = ClientError::DeadlineExceeded { answered: 0 };
    history.audit(now + DEADLINE);
    assert_eq!(history.violations(), []);
    history.audit(now + DEADLINE + Duration::from_millis(2));
    assert_violated(&history, "no outcome after its deadline");
    history.ended(1, Err(&late), |_| true, now);
    history.ended(1, Err(&late), |_| true, now);
    assert_violated(&history, "a second outcome");
}

#[test]
fn a_loss_without_an_excuse_is_seen() {
    let (mut history, now) = history();
    history.ended(1, Err(&ClientError::DeadlineExceeded { answered: 0 }), |since| since != now, now);
    assert_violated(&history, "was lost");
}

#[test]
fn the_dead_that_return_are_seen() {
    let mut graves = Graves::default();
    let life = |generation| Life { node: NodeId([1; 16]), generation };
    graves.bury(0, life(5));
    graves.bury(0, life(3));
    for generation in [4, 5] {
        let found = graves.rises(0, life(generation)).expect("a ghost");
        assert!(found.contains("dead at 5"), "{found}");
    }
    assert_eq!(graves.rises(0, life(6)), None, "another life");
    assert_eq!(graves.rises(1, life(5)), None, "it was not told yet");
    graves.forget(0);
    assert_eq!(graves.rises(0, life(5)), None, "a new process knows of no death");
}

#[test]
fn who_holds_too_little_too_old_or_too_much_is_seen() {
    let record = |node, version| FactsVersion { node: NodeId([node; 16]), generation: 1, version };
    let truth = [record(1, 4), record(2, 1)];
    assert_eq!(disagreement("a", &truth, &[record(2, 1), record(1, 4)]), None);
    for held in [&[record(1, 4)][..], &[record(1, 3), record(2, 1)]] {
        assert!(disagreement("a", &truth, held).is_some_and(|what| what.contains("does not hold")));
    }
    let ghost = [record(1, 4), record(2, 1), record(3, 1)];
    assert!(disagreement("a", &truth, &ghost).is_some_and(|what| what.contains("still holds")));
}
