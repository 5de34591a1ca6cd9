//! Requests whose texts are tokenized piece by piece.

use std::time::Duration;

use shoal_protocol::message::{Phase, Priority};

use super::super::super::config::CoreConfig;
use super::super::super::error::RequestError;
use super::super::super::ids::ModelKey;
use super::virtual_device::VirtualDevice;

const MS: Duration = Duration::from_millis(1);

/// A warm device whose tokenizer takes `time` for each ten texts.
fn device(config: CoreConfig, time: Duration) -> (VirtualDevice, ModelKey) {
    let (mut device, model) = VirtualDevice::warm(config);
    device.tokenize_takes(time, 10);
    (device, model)
}

#[test]
fn the_first_batch_starts_before_the_last_text_is_tokenized() {
    let (mut device, model) = device(CoreConfig::default(), 5 * MS);
    let start = device.now;
    // 2000 tokens take 100 ms of the device, and 50 ms to tokenize.
    let request = device.submit(model, Priority::Interactive, None, &[20; 100]).unwrap();
    device.run_until_idle();
    assert_eq!(device.runs[0].0 - start, 5 * MS);
    assert!(device.is_finished(request));
    let took = device.requests[&request].ended_at - start;
    assert!(took <= 115 * MS, "{took:?}: the two overlap");
}

#[test]
fn room_is_taken_for_the_whole_request_and_only_once() {
    let (mut device, model) = device(CoreConfig { queue_tokens_max: 10_000, ..CoreConfig::default() }, MS);
    let first = device.submit(model, Priority::Interactive, None, &[60; 100]).unwrap();
    device.run_for(MS);
    let running: u32 = device.runs.iter().map(|(_, run)| run.tokens).sum();
    let queued = device.core.load_record(device.now).queue_tokens;
    assert_eq!((queued, running), (6000 - 480, 480), "all of it, less what runs");
    let second = device.submit(model, Priority::Interactive, None, &[60; 100]).unwrap();
    device.run_for(MS);
    let error = device.failure(second);
    assert!(
        matches!(error, RequestError::Overloaded { what: "tokens", .. }),
        "at its first piece: {error:?}"
    );
    device.run_until_idle();
    assert!(device.is_finished(first));
}

#[test]
fn a_deadline_is_judged_by_the_first_piece() {
    let (mut device, model) = device(CoreConfig::default(), MS);
    let hopeless = device.submit(model, Priority::Interactive, Some(500 * MS), &[40; 1000]).unwrap();
    device.run_for(MS);
    let error = device.failure(hopeless);
    assert!(matches!(error, RequestError::DeadlineUnreachable { retry_after: None, .. }), "{error:?}");
    assert!(device.runs.is_empty());
}

#[test]
fn a_request_between_two_pieces_is_alive() {
    let (mut device, model) = device(CoreConfig::default(), 200 * MS);
    let request = device.submit(model, Priority::Interactive, None, &[5; 20]).unwrap();
    device.run_for(390 * MS);
    assert_eq!((device.runs.len(), device.running.len()), (2, 0), "its first piece is done");
    let mut phases = Vec::new();
    device.core.for_each_beacon(device.now, |of, beacon| phases.push((of, beacon.phase)));
    assert_eq!(phases, [(request, Phase::Queued)]);
    device.run_until_idle();
    assert!(device.is_finished(request));
}

#[test]
fn what_comes_of_an_ended_request_is_dropped() {
    let (mut device, model) = device(CoreConfig::default(), MS);
    let request = device.submit(model, Priority::Interactive, None, &[20; 100]).unwrap();
    device.run_for(2 * MS);
    device.cancel(request);
    assert_eq!(device.core.load_record(device.now).queue_tokens, 0);
    let runs = device.runs.len();
    device.run_until_idle();
    assert_eq!(device.runs.len(), runs, "its other pieces are computed for nobody");
}

#[test]
fn a_call_in_pieces_does_not_stand_in_front_of_a_single_text() {
    let (mut device, model) = device(CoreConfig::default(), MS / 2);
    device.submit(model, Priority::Interactive, None, &[50; 2000]).unwrap();
    device.run_for(200 * MS);
    let single = device.submit(model, Priority::Interactive, None, &[16]).unwrap();
    let start = device.now;
    device.run_for(70 * MS);
    assert!(device.is_finished(single), "behind the running batches only");
    assert!(device.requests[&single].ended_at - start <= 60 * MS);
}
