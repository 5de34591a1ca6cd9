//! What holds whatever carries the frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use shoal_protocol::ErrorCode;
use shoal_protocol::message::{Input, Priority};

use crate::client::Encode;
use crate::core::{ClientError, ItemResult, WhenOverloaded};
use crate::testing::{Mood, World, vector};

/// Runs each scenario over each link.
macro_rules! over_both_links {
    ($($scenario:ident),* $(,)?) => {
        mod memory {
            use crate::testing::in_process;
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(in_process().await).await;
            })*
        }
        mod quic {
            use crate::testing::over_quic;
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(over_quic().await).await;
            })*
        }
    };
}

over_both_links! {
    one_text, many_texts_keep_their_order, a_slow_input_is_answered_as_it_comes, an_item_fails_alone,
    a_dropped_future_frees_the_slot, a_dropped_stream_frees_the_slot, the_deadline_cancels,
    a_reply_dropped_half_way_is_retried_for_the_rest, missing_end_loses_nothing, a_panic_is_answered,
    overload_is_waited_out_or_told, silence_is_noticed, status, invalid_calls_are_not_sent,
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("text {n} {}", "x".repeat(n % 50))).collect()
}

fn assert_vector(item: &ItemResult, text: &str) {
    let found = item.vector().unwrap_or_else(|| panic!("{text}: {item:?}"));
    assert_eq!(found.as_f32().expect("f32")[..], vector(text), "{text}");
}

async fn one_text(world: World) {
    let done = world.client.encode(Encode::new("m", ["hello"])).await.expect("served");
    assert_eq!(done.items.len(), 1);
    assert_vector(&done.items[0], "hello");
    assert_eq!((done.parts, done.retries, done.tokens), (1, 0, 3));
    assert_eq!(done.served_by.expect("sent").device_name, "test");
}

async fn many_texts_keep_their_order(world: World) {
    let texts = texts(50_000);
    let pulled = Arc::new(AtomicUsize::new(0));
    let count = pulled.clone();
    let inputs = texts.clone().into_iter().map(move |text| {
        count.fetch_add(1, Ordering::SeqCst);
        Input::Text(text)
    });
    let mut reported = (0, None);
    let (report, reports) = std::sync::mpsc::sync_channel(100_000);
    let call = Encode::lazy("m", inputs)
        .priority(Priority::Bulk)
        .on_progress(move |done, total| report.send((done, total)).expect("room for every report"));
    let mut stream = world.client.encode_stream(call);
    let mut next = 0;
    while let Some(item) = stream.next().await {
        let (index, item) = item.expect("served");
        assert_eq!(index, next);
        assert_vector(&item, &texts[usize::try_from(index).unwrap()]);
        next += 1;
        // 12 parts and the open one, of about 8192 tokens: what is held does not grow with the call.
        let held = pulled.load(Ordering::SeqCst) as u64 - next;
        assert!(held < 12_000, "{held} texts held at {index}");
    }
    assert_eq!(next, 50_000);
    let summary = stream.summary().expect("over");
    assert!(summary.parts > 20 && summary.retries == 0, "{summary:?}");
    for report in reports.try_iter() {
        assert!(report.0 > reported.0, "progress only rises");
        reported = report;
    }
    assert_eq!(reported, (50_000, Some(50_000)));
}

async fn a_slow_input_is_answered_as_it_comes(world: World) {
    let (lines, mut read) = tokio::sync::mpsc::channel(1);
    let mut stream = world.client.encode_stream(Encode::live("m", poll_fn(move |cx| read.poll_recv(cx))));
    for index in 0..3 {
        let text = format!("line {index}");
        lines.send(Input::Text(text.clone())).await.expect("the call lives");
        let (found, item) = stream.next().await.expect("an answer before the next line").expect("served");
        assert_eq!(found, index);
        assert_vector(&item, &text);
    }
    drop(lines);
    assert!(stream.next().await.is_none());
    assert_eq!(stream.summary().expect("over").parts, 3);
}

async fn an_item_fails_alone(world: World) {
    let big = "y".repeat(3 * 1024 * 1024);
    let done = world.client.encode(Encode::new("m", ["a", "too long", &big, "b"])).await;
    let items = done.expect("served").items;
    assert_vector(&items[0], "a");
    assert!(matches!(items[1], ItemResult::Failed { code: ErrorCode::TooLong, tokens: 300, limit: 256, .. }));
    assert!(matches!(items[2], ItemResult::Failed { code: ErrorCode::TooLong, .. }));
    assert_vector(&items[3], "b");
}

async fn a_dropped_future_frees_the_slot(world: World) {
    world.service.mood.send_replace(Mood::Stall);
    let call = world.client.encode(Encode::new("m", texts(5000)));
    tokio::select! {
        done = call => panic!("a stalled node answered: {done:?}"),
        () = world.service.serving_is(4) => {}
    }
    world.service.serving_is(0).await;
    assert_eq!(world.service.cancelled.load(Ordering::SeqCst), 4);
}

async fn a_dropped_stream_frees_the_slot(world: World) {
    let mut stream = world.client.encode_stream(Encode::new("m", texts(20_000)));
    stream.next().await.expect("items").expect("served");
    drop(stream);
    world.service.serving_is(0).await;
    let requests = world.service.requests.load(Ordering::SeqCst);
    assert!(requests <= 12, "a stream that is not polled takes no more: {requests} parts");
}

async fn the_deadline_cancels(world: World) {
    world.service.mood.send_replace(Mood::Stall);
    let call = Encode::new("m", ["a"]).deadline(Duration::from_millis(300));
    let error = world.client.encode(call).await.expect_err("no answer is coming");
    assert_eq!(error, ClientError::DeadlineExceeded { answered: 0 });
    world.service.serving_is(0).await;
}

async fn a_reply_dropped_half_way_is_retried_for_the_rest(world: World) {
    world.service.mood.send_replace(Mood::HalfThenDrop);
    let texts = texts(300);
    let done = world.client.encode(Encode::new("m", texts.clone())).await.expect("retried");
    assert_eq!(done.retries, 1);
    for (item, text) in done.items.iter().zip(&texts) {
        assert_vector(item, text);
    }
}

async fn missing_end_loses_nothing(world: World) {
    world.service.mood.send_replace(Mood::NoEnd);
    let done = world.client.encode(Encode::new("m", ["a"])).await.expect("answered");
    assert_vector(&done.items[0], "a");
    assert_eq!(done.retries, 0, "every item was answered");
}

async fn a_panic_is_answered(world: World) {
    world.service.mood.send_replace(Mood::Panic);
    let done = world.client.encode(Encode::new("m", ["a"])).await.expect("retried");
    assert_eq!(done.retries, 1);
    world.service.serving_is(0).await;
}

async fn overload_is_waited_out_or_told(world: World) {
    world.service.mood.send_replace(Mood::Overloaded);
    let call = || Encode::new("m", ["a"]);
    let error = world.client.encode(call().when_overloaded(WhenOverloaded::Fail)).await.expect_err("told");
    assert_eq!(error.code(), ErrorCode::Overloaded);
    assert_eq!(error.retry_after(), Some(Duration::from_millis(50)));
    let waiting = world.client.encode(call());
    let relieved = async {
        while world.service.requests.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        world.service.mood.send_replace(Mood::Work);
    };
    let (done, ()) = tokio::join!(waiting, relieved);
    assert_vector(&done.expect("served once there is room").items[0], "a");
}

async fn silence_is_noticed(world: World) {
    world.service.mood.send_replace(Mood::Silence);
    let done = world.client.encode(Encode::new("m", ["a"])).await.expect("retried");
    assert_eq!(done.retries, 1);
    world.service.serving_is(0).await;
    assert_eq!(world.service.cancelled.load(Ordering::SeqCst), 1);
}

async fn status(world: World) {
    let status = world.client.status(false).await.expect("told");
    assert!(status.ready);
}

async fn invalid_calls_are_not_sent(world: World) {
    let error = world.client.encode(Encode::new("m".repeat(300), ["a"])).await;
    assert_eq!(error.expect_err("refused").code(), ErrorCode::InvalidRequest);
    let nothing: [&str; 0] = [];
    let done = world.client.encode(Encode::new("m", nothing)).await.expect("nothing to do");
    assert!(done.items.is_empty() && done.served_by.is_none());
    assert_eq!(world.service.requests.load(Ordering::SeqCst), 0);
}
