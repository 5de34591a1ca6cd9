//! Under load: targets, priorities, honest refusals, the rate limit.

use std::time::{Duration, Instant};

use shoal_protocol::message::Priority;

use super::super::super::config::CoreConfig;
use super::super::super::error::RequestError;
use super::super::super::ids::{ModelKey, RequestKey};
use super::virtual_device::VirtualDevice;

const MS: Duration = Duration::from_millis(1);

fn latencies(device: &VirtualDevice, submitted: &[(RequestKey, Instant)]) -> Vec<Duration> {
    let mut latencies: Vec<Duration> = submitted
        .iter()
        .filter(|(request, _)| device.is_finished(*request))
        .map(|(request, at)| device.requests[request].ended_at - *at)
        .collect();
    latencies.sort_unstable();
    latencies
}

/// One request of `tokens` every `every`, for `time`.
fn stream(
    device: &mut VirtualDevice,
    model: ModelKey,
    tokens: u32,
    every: Duration,
    time: Duration,
) -> Vec<(RequestKey, Instant)> {
    let until = device.now + time;
    let mut submitted = Vec::new();
    while device.now < until {
        let at = device.now;
        submitted
            .extend(device.submit(model, Priority::Interactive, None, &[tokens]).ok().map(|key| (key, at)));
        device.run_for(every);
    }
    submitted
}

#[test]
fn a_busy_device_cuts_batches_to_the_target_time() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    device.submit(model, Priority::Interactive, None, &[20; 1000]).unwrap();
    device.run_until_idle();
    let sizes: Vec<u32> = device.runs.iter().map(|(_, run)| run.tokens).collect();
    let full = sizes.iter().filter(|tokens| (230..=250).contains(*tokens)).count();
    assert!(full * 10 >= sizes.len() * 9, "25 ms of one thread at 10,000 tokens/s: {sizes:?}");
}

#[test]
fn a_closed_loop_of_callers_keeps_every_thread_busy() {
    for callers in [2, 8, 32] {
        let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
        let start = device.now;
        let mut waiting: Vec<RequestKey> = Vec::new();
        while device.now < start + Duration::from_secs(5) {
            waiting.retain(|request| device.outcome(*request).is_none());
            while waiting.len() < callers {
                waiting.push(device.submit(model, Priority::Interactive, None, &[22]).unwrap());
            }
            device.run_for(MS / 10);
        }
        let busy: f64 = device.runs.iter().map(|(_, run)| f64::from(run.tokens) / 20_000.0).sum();
        // A caller asks again within 0.1 ms of its answer; a text takes 1.1 ms of the whole device.
        assert!(busy >= 4.5, "{callers} callers: {busy} s of 5 s");
    }
}

#[test]
fn batches_shrink_when_the_machine_slows_down() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    device.behave(model, |model| model.tokens_per_thread_s = 4000.0);
    device.submit(model, Priority::Interactive, None, &[20; 1000]).unwrap();
    device.run_until_idle();
    let (_, last) = device.runs[device.runs.len() - 4];
    assert!((80..=120).contains(&last.tokens), "{last:?}");
}

#[test]
fn an_index_job_does_not_hurt_the_query_lane() {
    let (mut device, model) =
        VirtualDevice::warm(CoreConfig { queue_tokens_max: 4_000_000, ..CoreConfig::default() });
    for _ in 0..20 {
        device.submit(model, Priority::Bulk, None, &[40; 2048]).unwrap();
    }
    let queries = stream(&mut device, model, 16, 10 * MS, Duration::from_secs(20));
    let latencies = latencies(&device, &queries);
    assert!(latencies.len() >= queries.len() - 2);
    let p99 = latencies[latencies.len() * 99 / 100];
    assert!(p99 <= 75 * MS, "p99 {p99:?}: at most the running batch, an owed one and its own");
}

#[test]
fn a_call_of_many_texts_does_not_stand_in_front_of_a_single_one() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    let call =
        device.submit(model, Priority::Interactive, Some(Duration::from_secs(30)), &[30; 2048]).unwrap();
    let queries = stream(&mut device, model, 16, 20 * MS, Duration::from_secs(3));
    let latencies = latencies(&device, &queries);
    let p99 = latencies[latencies.len() * 99 / 100];
    assert!(p99 <= 60 * MS, "{p99:?}");
    device.run_until_idle();
    // 61,440 tokens at 20,000 tokens/s, and the queries.
    let took = device.requests[&call].ended_at - device.start;
    assert!(took <= Duration::from_millis(3500), "{took:?}");
}

#[test]
fn bulk_is_not_starved_by_a_flood_of_queries() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    let bulk = device.submit(model, Priority::Bulk, None, &[40; 100]).unwrap();
    // Twice what the device can do; admission sheds the rest.
    stream(&mut device, model, 80, 2 * MS, Duration::from_secs(8));
    // 2 s of patience, then 4000 tokens at an eighth of 20,000 tokens/s.
    let bound = Duration::from_secs(2) + Duration::from_millis(1600) + 200 * MS;
    assert!(device.is_finished(bulk));
    let took = device.requests[&bulk].ended_at - device.start;
    assert!(took <= bound + 100 * MS, "{took:?}");
    assert!(took >= Duration::from_secs(2), "the flood was none: {took:?}");
}

#[test]
fn what_cannot_meet_its_deadline_is_refused_at_arrival_with_an_honest_hint() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    let (ahead, time) = (vec![100; 200], 300 * MS);
    device.submit(model, Priority::Interactive, Some(4 * Duration::from_secs(1)), &ahead).unwrap();
    // One second of work is due before a deadline that is later, so it would wait.
    let refused = device.submit(model, Priority::Bulk, Some(time), &[100]).unwrap_err();
    let RequestError::DeadlineUnreachable { predicted, retry_after: Some(hint) } = refused else {
        panic!("{refused:?}");
    };
    // With the margin of an eighth and a batch.
    assert!((1075 * MS..1225 * MS).contains(&predicted), "{predicted:?}");
    device.run_for(hint - 50 * MS);
    let early = device.submit(model, Priority::Bulk, Some(time), &[100]);
    assert!(early.is_err(), "the hint is not padded");
    // The forecast is exact up to one batch.
    device.run_for(75 * MS);
    let again = device.submit(model, Priority::Bulk, Some(time), &[100]).unwrap();
    device.run_until_idle();
    assert!(device.is_finished(again), "{:?}", device.outcome(again));
    assert_eq!(device.core.gauges(device.now).shed, 2);
}

#[test]
fn a_tight_deadline_overtakes_a_long_queue_of_later_ones() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    device.submit(model, Priority::Interactive, None, &[100; 400]).unwrap();
    let urgent = device.submit(model, Priority::Interactive, Some(200 * MS), &[100]).unwrap();
    device.run_until_idle();
    assert!(device.is_finished(urgent), "{:?}", device.outcome(urgent));
}

#[test]
fn more_work_than_the_deadline_holds_gets_no_hint() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    let request =
        device.submit(model, Priority::Interactive, Some(Duration::from_secs(1)), &[100; 400]).unwrap();
    let error = device.failure(request);
    assert!(matches!(error, RequestError::DeadlineUnreachable { retry_after: None, .. }), "{error:?}");
    assert_eq!(error.code(), shoal_protocol::ErrorCode::DeadlineExceeded);
}

#[test]
fn nobody_is_refused_by_a_guess() {
    let mut device = VirtualDevice::new(CoreConfig::default());
    let model = device.model(super::virtual_device::Behaviour {
        load: Duration::ZERO,
        tokens_per_thread_s: 1e6,
        ..Default::default()
    });
    let request = device.submit(model, Priority::Interactive, Some(300 * MS), &[100; 1000]).unwrap();
    device.run_until_idle();
    assert!(device.is_finished(request), "{:?}", device.outcome(request));
}

#[test]
fn a_full_queue_sheds_with_the_measured_time_to_drain() {
    let (mut device, model) =
        VirtualDevice::warm(CoreConfig { queue_tokens_max: 10_000, ..CoreConfig::default() });
    let mut refused = 0;
    let until = device.now + Duration::from_secs(5);
    while device.now < until {
        if let Err(RequestError::Overloaded { retry_after, .. }) =
            device.submit(model, Priority::Interactive, None, &[100])
        {
            refused += 1;
            assert!(retry_after <= 300 * MS, "at most a few batches must drain: {retry_after:?}");
            assert_eq!(device.core.load_record(device.now).shed_level, 2);
        }
        device.run_for(2 * MS);
    }
    assert!(refused > 100, "{refused}");
    assert!(device.core.gauges(device.now).shed >= refused);
    device.run_until_idle();
}

#[test]
fn the_rate_limit_holds_throughput() {
    let limit = CoreConfig { tokens_per_s_max: Some(1000), ..CoreConfig::default() };
    let (mut device, model) = VirtualDevice::warm(limit);
    device.submit(model, Priority::Interactive, None, &[10; 2000]).unwrap();
    device.run_for(Duration::from_secs(5));
    let tokens: u32 = device.runs.iter().map(|(_, run)| run.tokens).sum();
    assert!((4_900..=5_064).contains(&tokens), "{tokens} in 5 s");
    assert_eq!(device.core.load_record(device.now).tokens_per_s, 1000);
    let urgent = device.submit(model, Priority::Interactive, Some(Duration::from_secs(1)), &[900]).unwrap();
    assert!(device.outcome(urgent).is_none(), "urgent enough to overtake");
    let bulk = device.submit(model, Priority::Bulk, Some(Duration::from_secs(5)), &[10]).unwrap_err();
    assert!(matches!(bulk, RequestError::DeadlineUnreachable { .. }), "15 s are queued: {bulk:?}");
}
