//! The life of requests on a healthy device: order, widths, deadlines, fairness, beacons, leaving.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_protocol::message::{Beacon, Phase, Priority};

use super::super::super::config::CoreConfig;
use super::super::super::error::RequestError;
use super::super::super::event::Output;
use super::super::super::ids::{ModelKey, RequestKey};
use super::virtual_device::{Behaviour, Outcome, VirtualDevice};

const MS: Duration = Duration::from_millis(1);

/// Both threads busy for `time` with one item each.
fn occupy(device: &mut VirtualDevice, model: ModelKey, time: Duration) {
    let tokens = (time.as_secs_f64() * 10_000.0) as u32;
    device.submit(model, Priority::Interactive, None, &[tokens, tokens]).unwrap();
    assert_eq!(device.core.load_record(device.now).running, 2);
    device.runs.clear();
}

fn beacons(device: &VirtualDevice) -> BTreeMap<RequestKey, Beacon> {
    let mut seen = BTreeMap::new();
    device.core.for_each_beacon(device.now, |request, beacon| {
        assert_eq!(seen.insert(request, beacon), None, "one beacon for each request");
    });
    seen
}

#[test]
fn an_idle_device_starts_at_once_and_on_all_threads() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    let request = device.submit(model, Priority::Bulk, None, &[16]).unwrap();
    let [(at, run)] = device.runs[..] else { panic!("one batch") };
    assert_eq!((at, run.threads, run.sequences), (device.now, 2, 1));
    device.run_until_idle();
    assert!(device.is_finished(request));
}

#[test]
fn two_batches_run_side_by_side_on_one_thread_each() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    device.submit(model, Priority::Interactive, None, &[50; 40]).unwrap();
    let widths: Vec<u16> = device.runs.iter().map(|(_, run)| run.threads).collect();
    assert_eq!(widths, [1, 1]);
    device.run_until_idle();
    for (_, run) in &device.runs {
        assert!(run.tokens <= 500, "25 ms on all threads at most: {run:?}");
    }
}

#[test]
fn a_few_texts_are_shared_evenly_among_the_free_lanes() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    device.submit(model, Priority::Interactive, None, &[20, 20, 20, 20, 20, 20]).unwrap();
    let shape: Vec<(u16, u32)> = device.runs.iter().map(|(_, run)| (run.threads, run.tokens)).collect();
    assert_eq!(shape, [(1, 60), (1, 60)]);
    device.run_until_idle();
    device.runs.clear();
    device.submit(model, Priority::Interactive, None, &[8, 8]).unwrap();
    assert_eq!((device.runs.len(), device.runs[0].1.threads), (1, 2), "too little to read the weights twice");
}

#[test]
fn many_threads_are_shared_among_few_batches() {
    let mut device = VirtualDevice::new(CoreConfig { threads: 16, ..CoreConfig::default() });
    let model = device.model(Behaviour::default());
    device.warm_up(model);
    device.submit(model, Priority::Interactive, None, &[250; 4]).unwrap();
    let widths: Vec<u16> = device.runs.iter().map(|(_, run)| run.threads).collect();
    assert_eq!(widths, [4, 4, 4, 4]);
}

#[test]
fn a_long_item_runs_alone() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    occupy(&mut device, model, 20 * MS);
    device.submit(model, Priority::Interactive, None, &[10, 5000, 10]).unwrap();
    device.run_until_idle();
    let sizes: Vec<u32> = device.runs.iter().map(|(_, run)| run.tokens).collect();
    assert_eq!(sizes, [10, 5000, 10]);
}

#[test]
fn the_earliest_deadline_goes_first_and_interactive_before_bulk() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    occupy(&mut device, model, 50 * MS);
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (priority, time, tokens) in [
        (Priority::Bulk, seconds(1), 246),
        (Priority::Interactive, seconds(9), 247),
        (Priority::Interactive, None, 248),
        (Priority::Interactive, seconds(2), 249),
    ] {
        device.submit(model, priority, time, &[tokens]).unwrap();
    }
    device.run_until_idle();
    let order: Vec<u32> = device.runs.iter().map(|(_, run)| run.tokens).collect();
    assert_eq!(order, [249, 247, 248, 246]);
}

#[test]
fn cancelled_and_expired_work_is_dropped_before_compute() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    occupy(&mut device, model, 100 * MS);
    let expired = device.submit(model, Priority::Bulk, Some(130 * MS), &[10]).unwrap();
    let cancelled = device.submit(model, Priority::Interactive, None, &[50; 100]).unwrap();
    let ahead = device.submit(model, Priority::Interactive, None, &[50; 50]).unwrap();
    device.cancel(cancelled);
    assert_eq!(device.outcome(cancelled), Some(&Outcome::Cancelled));
    device.run_until_idle();
    assert!(device.is_finished(ahead));
    assert_eq!(device.failure(expired), &RequestError::Expired);
    let tokens: u32 = device.runs.iter().map(|(_, run)| run.tokens).sum();
    assert_eq!(tokens, 2500, "computed for nobody");
    assert_eq!(device.core.gauges(device.now).cancelled, 1);
}

#[test]
fn what_the_shell_has_no_room_for_is_shed_and_not_cancelled() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    device.tokenize_takes(MS, 1);
    let request = device.submit(model, Priority::Interactive, None, &[10]).unwrap();
    device.handle(|core, now| core.handle_shed(request, "tokenizer queue", now));
    let error = device.failure(request);
    assert!(matches!(error, RequestError::Overloaded { what: "tokenizer queue", .. }), "{error:?}");
    assert!(error.retry_after() > Some(Duration::ZERO));
    let gauges = device.core.gauges(device.now);
    assert_eq!((gauges.shed, gauges.cancelled), (1, 0));
}

#[test]
fn a_request_that_waits_too_long_expires_on_time() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    // Slower than it was measured, so that admission lets it in.
    device.behave(model, |model| model.tokens_per_thread_s = 1000.0);
    occupy(&mut device, model, 100 * MS);
    let start = device.now;
    let request = device.submit(model, Priority::Interactive, Some(400 * MS), &[10]).unwrap();
    device.run_until_idle();
    assert_eq!(device.failure(request), &RequestError::Expired);
    assert_eq!(device.requests[&request].ended_at - start, 400 * MS);
    assert_eq!(device.core.gauges(device.now).expired, 1);
    assert!(device.runs.is_empty(), "dropped before compute");
}

#[test]
fn a_request_without_items_is_finished_at_once() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    let request = device.submit(model, Priority::Interactive, None, &[]).unwrap();
    assert!(device.is_finished(request));
}

#[test]
fn stages_add_up_to_the_time_in_the_device() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    occupy(&mut device, model, 30 * MS);
    let request = device.submit(model, Priority::Interactive, None, &[100]).unwrap();
    let queued_at = device.now;
    device.run_until_idle();
    let Some(Outcome::Finished(stages)) = device.outcome(request).cloned() else { panic!("finished") };
    let total = device.requests[&request].ended_at - queued_at;
    assert_eq!((stages.load.0, stages.queue.0), (0, 30_000));
    assert_eq!(Duration::from(stages.queue.saturating_add(stages.compute)), total);
}

#[test]
fn beacons_tell_phase_place_and_time() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    let cold = device.model(Behaviour { load: Duration::from_secs(1), ..Behaviour::default() });
    occupy(&mut device, model, 100 * MS);
    let done = device.core.load_record(device.now).batches_done;
    let first = device.submit(model, Priority::Interactive, None, &[200]).unwrap();
    let second = device.submit(model, Priority::Interactive, None, &[300]).unwrap();
    let loading = device.submit(cold, Priority::Interactive, None, &[10]).unwrap();
    let seen = beacons(&device);
    assert_eq!(seen.len(), 4);
    let beacon = |request: RequestKey| seen[&request].clone();
    assert_eq!(seen.values().filter(|beacon| beacon.phase == Phase::Running).count(), 1);
    assert_eq!((beacon(first).phase, beacon(first).queue_tokens), (Phase::Queued, 0));
    assert_eq!(Duration::from(beacon(first).eta_us), 100 * MS);
    assert_eq!((beacon(second).phase, beacon(second).queue_tokens), (Phase::Queued, 200));
    assert_eq!(Duration::from(beacon(second).eta_us), 110 * MS);
    assert_eq!((beacon(loading).phase, beacon(loading).queue_tokens), (Phase::Loading, 500));
    assert!(seen.values().all(|beacon| beacon.batches_done == done));
    device.run_for(100 * MS);
    assert!(beacons(&device)[&loading].batches_done > done);
}

#[test]
fn the_load_record_tells_queue_speed_and_room() {
    let (mut device, model) =
        VirtualDevice::warm(CoreConfig { resident_bytes_max: 300, ..CoreConfig::default() });
    occupy(&mut device, model, 100 * MS);
    device.submit(model, Priority::Interactive, None, &[1000]).unwrap();
    let load = device.core.load_record(device.now);
    assert_eq!((load.queue_tokens, load.requests, load.running), (1000, 2, 2));
    assert_eq!((load.free_bytes, load.shed_level, load.draining), (200, 0, false));
    assert!((19_900..=20_000).contains(&load.tokens_per_s), "{load:?}");
    assert!((149_000..=151_000).contains(&load.wait_us), "{load:?}");
    device.run_for(40 * MS);
    assert_eq!(device.core.gauges(device.now).queue_oldest_us.0, 40_000);
}

#[test]
fn draining_finishes_what_was_admitted_and_takes_nothing_new() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    let admitted = device.submit(model, Priority::Bulk, None, &[100; 100]).unwrap();
    let deadline = Duration::from_secs(25);
    device.handle(|core, now| core.handle_drain(now + deadline, now));
    assert_eq!(device.submit(model, Priority::Interactive, None, &[1]), Err(RequestError::Draining));
    assert!(device.core.load_record(device.now).draining);
    device.run_until_idle();
    assert!(device.is_finished(admitted));
    let signals: Vec<&Output> = device.signals.iter().map(|(_, output)| output).collect();
    assert_eq!(signals, [&Output::Draining, &Output::Drained]);
}

#[test]
fn what_waits_for_a_model_that_another_node_holds_goes_there() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig { threads: 1, ..CoreConfig::default() });
    let other = device.model(Behaviour::default());
    device.warm_up(other);
    let running = device.submit(model, Priority::Interactive, None, &[500]).unwrap();
    let waiting: Vec<RequestKey> =
        (0..8).map(|_| device.submit(model, Priority::Interactive, None, &[500]).unwrap()).collect();
    let kept = device.submit(other, Priority::Interactive, None, &[500]).unwrap();
    device.run_for(MS);
    device.handle(|core, now| core.handle_held_elsewhere(model, now));
    assert!(waiting.iter().all(|request| device.outcome(*request).is_none()), "it is not leaving");
    device.handle(|core, now| core.handle_drain(now + Duration::from_secs(25), now));
    device.handle(|core, now| core.handle_held_elsewhere(model, now));
    let given_back = waiting.iter().filter(|request| device.outcome(**request).is_some()).count();
    assert!(given_back > 0);
    device.run_until_idle();
    assert!(
        device.is_finished(running) && device.is_finished(kept),
        "what runs, and what only this device holds"
    );
    for request in waiting.iter().filter(|request| !device.is_finished(**request)) {
        assert_eq!(device.failure(*request), &RequestError::HeldElsewhere);
    }
    assert_eq!(device.signals.last().map(|(_, output)| output), Some(&Output::Drained));
}

#[test]
fn what_is_unfinished_at_the_drain_deadline_is_told_to_go_elsewhere() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    let admitted = device.submit(model, Priority::Bulk, None, &[100; 1000]).unwrap();
    device.handle(|core, now| core.handle_drain(now + Duration::from_secs(1), now));
    device.run_until_idle();
    assert_eq!(device.failure(admitted), &RequestError::Draining);
    assert_eq!(device.signals.last().map(|(_, output)| output), Some(&Output::Drained));
}

#[test]
fn two_models_share_the_device() {
    let (mut device, first) =
        VirtualDevice::warm(CoreConfig { resident_bytes_max: 300, ..CoreConfig::default() });
    let second = device.model(Behaviour::default());
    device.warm_up(second);
    let requests: Vec<RequestKey> = (0..40)
        .map(|at| device.submit([first, second][at % 2], Priority::Interactive, None, &[500]).unwrap())
        .collect();
    device.run_for(500 * MS);
    let done = |parity: usize| {
        requests.iter().skip(parity).step_by(2).filter(|request| device.is_finished(**request)).count()
    };
    assert!(done(0).abs_diff(done(1)) <= 2, "{} against {}", done(0), done(1));
    assert!(done(0) >= 8, "{}", done(0));
}
