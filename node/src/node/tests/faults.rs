use std::sync::mpsc::{SyncSender, sync_channel};

use futures_util::StreamExt;
use shoal_mesh::{ClientError, Completed, WhenOverloaded};
use shoal_protocol::ErrorCode;
use shoal_protocol::message::{Input, Priority, Truncate};
use tokio::task::JoinSet;

use super::gate::{Act, Gate, OpenAtEnd};
use super::*;
use crate::actors::front::Front;
use crate::edge::NodeView;
use crate::node::StartError;
use crate::tasks::pool::{JOBS_MAX, TokenizeJob, TokenizedChunk};
use crate::tasks::reading::Reading;

async fn start_gated(config: NodeConfig) -> (Node, Gate, OpenAtEnd) {
    let gate = Gate::default();
    let node = Node::start_on(config, gate.backend()).await.expect("the node starts");
    (node, gate.clone(), OpenAtEnd(gate))
}

fn text() -> Encode {
    Encode::new("mean", ["a text"])
}

/// A call under way in a task of its own.
fn under_way(node: &Node, call: Encode) -> JoinSet<Result<Completed, ClientError>> {
    let client = node.client();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { client.encode(call).await });
    tasks
}

async fn outcome(mut tasks: JoinSet<Result<Completed, ClientError>>) -> Result<Completed, ClientError> {
    let joined = tokio::time::timeout(PATIENCE, tasks.join_next()).await;
    joined.expect("in time").expect("one task").expect("no panic")
}

#[tokio::test]
async fn a_dropped_call_frees_its_slot() {
    let (node, gate, _open) = start_gated(golden_config(&["mean"])).await;
    gate.stall_all(true);
    let mut calls: Vec<_> = (0..6).map(|_| under_way(&node, text())).collect();
    until(&node, "six requests admitted", |requests, gauges| requests == 6 && gauges.admitted_bytes.0 > 0)
        .await;
    // Some of them are in stalled batches, the others are queued.
    calls.clear();
    until(&node, "every slot free", |requests, gauges| {
        requests == 0 && gauges.admitted_bytes.0 == 0 && gauges.cancelled == 6
    })
    .await;
    gate.open();
    assert!(node.client().encode(text()).await.is_ok());
}

#[tokio::test]
async fn deadlines_pass_while_the_device_is_busy() {
    let (node, gate, _open) = start_gated(golden_config(&["mean"])).await;
    gate.stall_all(true);
    let busy: Vec<_> = (0..4).map(|_| under_way(&node, text())).collect();
    until(&node, "busy", |requests, _| requests == 4).await;
    let late = node.client().encode(text().deadline(Duration::from_millis(150))).await;
    assert_eq!(late.expect_err("too late").code(), ErrorCode::DeadlineExceeded);
    until(&node, "its slot free", |requests, _| requests == 4).await;
    gate.open();
    for call in busy {
        outcome(call).await.expect("answered after all");
    }
}

#[tokio::test]
async fn overload_sheds_with_a_hint() {
    let mut config = golden_config(&["mean"]);
    config.device.admitted_bytes_max = 2000;
    let (node, gate, _open) = start_gated(config).await;
    gate.stall_all(true);
    let half = || Encode::new("mean", ["word ".repeat(200)]).truncate(Truncate::Right);
    let held = [under_way(&node, half()), under_way(&node, half())];
    until(&node, "the budget is used", |_, gauges| gauges.admitted_bytes.0 == 2000).await;
    let refused = node.client().encode(text().when_overloaded(WhenOverloaded::Fail)).await;
    let error = refused.expect_err("no room");
    assert_eq!(error.code(), ErrorCode::Overloaded);
    assert!(error.retry_after().is_some_and(|hint| hint > Duration::ZERO), "{error}");
    until(&node, "counted", |requests, gauges| requests == 2 && gauges.shed == 1).await;
    gate.open();
    for call in held {
        outcome(call).await.expect("answered");
    }
}

/// One empty text for the tokenizer threads; what comes of it goes to `deliver`.
fn tokenize_job(front: &Front, deliver: impl FnMut(TokenizedChunk) + Send + 'static) -> TokenizeJob {
    TokenizeJob {
        items: Arc::new([Input::Text(String::new())]),
        reading: Reading::Placed,
        tokenizer: Arc::clone(&front.tokenizer),
        truncate: Truncate::Refuse,
        priority: Priority::Interactive,
        cancelled: Arc::default(),
        span: tracing::Span::none(),
        deliver: Box::new(deliver),
    }
}

/// Holds a tokenizer thread, once it gets there, until the sender is dropped.
fn block_tokenizer(node: &Node, front: &Front) -> SyncSender<()> {
    let (blocker, blocked) = sync_channel(0);
    let job = tokenize_job(front, move |_| {
        let _ = blocked.recv();
    });
    node.service.tokenizers.submit(job).expect("room");
    blocker
}

#[tokio::test]
async fn a_full_tokenizer_queue_sheds() {
    let node = start(golden_config(&["mean"])).await;
    let front = node.service.fronts.make("mean").await.expect("preloaded");
    let blocker = block_tokenizer(&node, &front);
    for _ in 1..JOBS_MAX {
        node.service.tokenizers.submit(tokenize_job(&front, |_| ())).expect("room");
    }
    let refused = node.client().encode(text().when_overloaded(WhenOverloaded::Fail)).await;
    assert_eq!(refused.expect_err("no room").code(), ErrorCode::Overloaded);
    until(&node, "shed", |requests, gauges| requests == 0 && gauges.shed == 1 && gauges.cancelled == 0).await;
    drop(blocker);
    assert!(node.client().encode(text()).await.is_ok());
}

#[tokio::test]
async fn the_first_texts_are_answered_before_the_last_are_tokenized() {
    let node = start(golden_config(&["mean"])).await;
    let front = node.service.fronts.make("mean").await.expect("preloaded");
    let before = block_tokenizer(&node, &front);
    let texts = (0..100).map(|index| format!("text {index}"));
    let mut stream = node.client().encode_stream(Encode::new("mean", texts).no_deadline());
    let mut first = Box::pin(async move {
        let item = stream.next().await.expect("an item").expect("no failure");
        (item.0, stream)
    });
    tokio::select! {
        _ = &mut first => panic!("nothing is tokenized yet"),
        () = until(&node, "admitted", |requests, _| requests == 1) => {}
    }
    // The one thread takes the first texts of the call, then this, and only then the others.
    let after = block_tokenizer(&node, &front);
    drop(before);
    let (index, stream) = tokio::time::timeout(PATIENCE, first).await.expect("in time");
    assert_eq!(index, 0);
    drop(after);
    assert_eq!(stream.count().await, 99);
}

#[tokio::test]
async fn texts_that_fail_in_whole_chunks_fail_alone() {
    let node = start(golden_config(&["mean"])).await;
    let long = "word ".repeat(400);
    let sound = |index: usize| (50..120).contains(&index);
    let texts = (0..170).map(|index| if sound(index) { format!("text {index}") } else { long.clone() });
    let encoded = node.client().encode(Encode::new("mean", texts)).await.expect("answered");
    for (index, item) in encoded.items.iter().enumerate() {
        assert_eq!(matches!(item, ItemResult::Answered { .. }), sound(index), "text {index}");
    }
    let none = node.client().encode(Encode::new("mean", vec![long; 50])).await.expect("answered");
    assert!(none.items.iter().all(|item| matches!(item, ItemResult::Failed { .. })));
    until(&node, "every slot free", |requests, gauges| requests == 0 && gauges.admitted_bytes.0 == 0).await;
}

#[tokio::test]
async fn a_hung_lane_is_replaced_and_its_work_answered() {
    let (node, gate, _open) = start_gated(golden_config(&["mean"])).await;
    let expected = vectors(&node, text()).await;
    gate.next(&[Act::Stall]);
    let hung = outcome(under_way(&node, text())).await.expect("answered by another lane");
    assert_eq!(f32_of(&hung.items[0]), expected[0]);
    until(&node, "counted", |requests, gauges| requests == 0 && gauges.restarts == 1).await;
    let status = node.status(false).await;
    assert!(status.devices[0].reason.contains("1 hung lane"), "{}", status.devices[0].reason);
    assert_eq!(vectors(&node, text()).await, expected);
}

#[tokio::test]
async fn a_device_whose_lanes_all_hang_is_restarted() {
    let (node, gate, _open) = start_gated(golden_config(&["mean"])).await;
    gate.stall_all(true);
    let calls: Vec<_> = (0..3).map(|_| under_way(&node, text().no_deadline())).collect();
    // A lane replaced counts, and then the device itself.
    until(&node, "restarted", |_, gauges| gauges.restarts >= 4).await;
    // Also lets go a retry that already stalled on the new device, which would wait out the hang limit of a model
    // that it has not measured yet.
    gate.open();
    for call in calls {
        // The client may have tried again on the new device, or given up with a typed error.
        if let Err(error) = outcome(call).await {
            assert!(matches!(error.code(), ErrorCode::DeviceFailed | ErrorCode::Internal), "{error}");
        }
    }
    assert!(node.client().encode(text()).await.is_ok());
    assert!(node.view().readiness().is_ready());
}

#[tokio::test]
async fn a_lane_that_panics_costs_only_its_batch() {
    let (node, gate, _open) = start_gated(golden_config(&["mean"])).await;
    gate.next(&[Act::Panic]);
    // The client tries the lost attempt again.
    let encoded = node.client().encode(text()).await.expect("answered by the new lane");
    assert_eq!(encoded.retries, 1);
    assert!(node.client().encode(text()).await.is_ok());
}

#[tokio::test]
async fn draining_finishes_what_is_in_flight_and_takes_nothing_new() {
    let (node, gate, _open) = start_gated(golden_config(&["mean"])).await;
    gate.stall_all(true);
    let held = under_way(&node, text());
    until(&node, "in flight", |requests, _| requests == 1).await;
    let (client, view) = (node.client(), node.view());
    let mut leaving = JoinSet::new();
    leaving.spawn(node.shutdown(PATIENCE));
    let refused = loop {
        // Until the drain has begun a new call is taken; then none is.
        let call = text().deadline(Duration::from_millis(100)).when_overloaded(WhenOverloaded::Fail);
        match client.encode(call).await {
            Err(error) if error.code() == ErrorCode::DeadlineExceeded && !view.readiness().is_ready() => {}
            result => break result,
        }
    };
    assert_eq!(refused.expect_err("leaving").code(), ErrorCode::Draining);
    gate.open();
    outcome(held).await.expect("finished before leaving");
    leaving.join_next().await.expect("one task").expect("left cleanly");
}

/// A model that a test may break: its directory, the file of its weights, and what that held.
pub(super) fn copy_of_a_model() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(golden().join("bare-f16-gamma")).expect("a fixture") {
        let entry = entry.expect("an entry");
        if entry.path().is_file() {
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
        }
    }
    let weights = dir.path().join("model.safetensors");
    let sound = std::fs::read(&weights).expect("weights");
    (dir, weights, sound)
}

#[tokio::test]
async fn a_broken_model_is_read_anew_once_for_each_failed_load() {
    let (dir, weights, sound) = copy_of_a_model();
    let node = start(config(&[("broken", dir.path())])).await;
    node.service.fronts.make("broken").await.expect("sound so far");
    std::fs::write(&weights, b"garbage").expect("written");
    let call = || Encode::new("broken", ["a"]).when_overloaded(WhenOverloaded::Fail);
    let error = node.client().encode(call()).await.expect_err("garbage");
    assert_eq!(error.code(), ErrorCode::ModelBroken, "{error}");
    std::fs::write(&weights, &sound).expect("written");
    // Refused during the pause after the failed load, unless this machine took longer than that.
    let _ = node.client().encode(call()).await;
    assert!(node.service.fronts.get("broken").is_some(), "a refusal reads nothing anew");
}

#[tokio::test]
async fn a_broken_model_is_a_typed_answer_and_heals() {
    let (dir, weights, sound) = copy_of_a_model();
    std::fs::write(&weights, &sound[..sound.len() / 2]).expect("written");

    let mut broken = config(&[("broken", dir.path())]);
    let node = start(broken.clone()).await;
    let call = || Encode::new("broken", ["a"]).when_overloaded(WhenOverloaded::Fail);
    let error = node.client().encode(call()).await.expect_err("half a file");
    assert_eq!(error.code(), ErrorCode::ModelBroken, "{error}");
    let missing = node.client().encode(Encode::new("absent", ["a"])).await;
    assert_eq!(missing.expect_err("unknown").code(), ErrorCode::ModelNotFound);

    std::fs::write(&weights, &sound).expect("written");
    assert_eq!(vectors(&node, call()).await[0].len(), 48);

    std::fs::write(&weights, b"garbage").expect("written");
    broken.models.preload = vec!["broken".to_owned()];
    let refused = Node::start_on(broken, cpu()).await.err();
    assert!(matches!(refused, Some(StartError::Preload { .. })), "{refused:?}");
}
