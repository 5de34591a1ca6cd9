//! Models come and go under load.

use std::time::Duration;

use shoal_protocol::message::{ModelState, Priority};
use shoal_protocol::{Bytes, ErrorCode};

use super::super::super::config::CoreConfig;
use super::super::super::error::RequestError;
use super::super::super::event::{ModelSpec, Output};
use super::super::super::ids::{ModelKey, RequestKey};
use super::virtual_device::{Behaviour, Outcome, VirtualDevice};

const SECOND: Duration = Duration::from_secs(1);

/// Room for two models of 100 bytes beside nothing else.
fn device() -> VirtualDevice {
    VirtualDevice::new(CoreConfig {
        threads: 2,
        resident_bytes_max: 200,
        residency_min: 10 * SECOND,
        keep_alive: Some(60 * SECOND),
        ..CoreConfig::default()
    })
}

fn ask(device: &mut VirtualDevice, model: ModelKey) -> RequestKey {
    device.submit(model, Priority::Interactive, Some(30 * SECOND), &[20]).unwrap()
}

fn loads(device: &VirtualDevice, of: ModelKey) -> usize {
    device.signals.iter().filter(|(_, output)| *output == Output::Load { model: of }).count()
}

fn evictions(device: &VirtualDevice, of: ModelKey) -> usize {
    device.signals.iter().filter(|(_, output)| *output == Output::Evict { model: of }).count()
}

#[test]
fn the_first_request_loads_and_everybody_waits_for_that_one_load() {
    let mut device = device();
    let model = device.model(Behaviour::default());
    let requests: Vec<RequestKey> = (0..10).map(|_| ask(&mut device, model)).collect();
    assert_eq!(device.core.model_state(model), ModelState::Loading);
    device.run_until_idle();
    assert_eq!(loads(&device, model), 1);
    for request in requests {
        let Some(Outcome::Finished(stages)) = device.outcome(request) else { panic!("finished") };
        assert_eq!(stages.load.0, 200_000);
    }
    assert_eq!(device.core.model_bytes(model), Bytes(100));
}

#[test]
fn loading_starts_while_the_text_is_tokenized() {
    let mut device = device();
    let model = device.model(Behaviour::default());
    device.tokenize_takes(50 * Duration::from_millis(1), usize::MAX);
    let request = ask(&mut device, model);
    assert_eq!(device.core.model_state(model), ModelState::Loading);
    device.run_until_idle();
    let Some(Outcome::Finished(stages)) = device.outcome(request) else { panic!("finished") };
    assert_eq!(stages.load.0, 150_000);
}

#[test]
fn a_cold_model_waits_for_room_and_never_fails() {
    let mut device = device();
    let models: Vec<ModelKey> = (0..4).map(|_| device.model(Behaviour::default())).collect();
    ask(&mut device, models[0]);
    ask(&mut device, models[1]);
    device.run_for(12 * SECOND);
    let busy = device.submit(models[0], Priority::Interactive, None, &[60_000]).unwrap();
    let cold = ask(&mut device, models[2]);
    device.run_for(SECOND);
    assert_eq!((evictions(&device, models[0]), evictions(&device, models[1])), (0, 1), "the unused one goes");
    // Now only the busy one may go, and not before its batch of three seconds is done.
    let colder = ask(&mut device, models[3]);
    device.run_for(SECOND);
    assert_eq!((device.outcome(busy), device.outcome(colder)), (None, None));
    device.run_until_idle();
    assert!([busy, cold, colder].into_iter().all(|request| device.is_finished(request)));
    assert_eq!(evictions(&device, models[0]), 1);
    let waited = device.requests[&colder].ended_at - device.requests[&busy].ended_at;
    assert!(waited <= Duration::from_millis(210), "eviction and load at once: {waited:?}");
}

#[test]
fn an_unused_model_goes_before_one_with_waiting_requests_however_popular_it_was() {
    let mut device = device();
    let (popular, busy) = (device.model(Behaviour::default()), device.model(Behaviour::default()));
    for _ in 0..50 {
        ask(&mut device, popular);
    }
    device.run_for(12 * SECOND);
    device.submit(busy, Priority::Interactive, None, &[280_000]).unwrap();
    device.run_for(12 * SECOND);
    let cold = device.model(Behaviour::default());
    ask(&mut device, cold);
    device.run_for(SECOND);
    assert_eq!((evictions(&device, popular), evictions(&device, busy)), (1, 0));
    device.run_until_idle();
}

#[test]
fn a_further_copy_takes_free_room_or_that_of_an_unused_spare_one() {
    let mut device = device();
    let [first, second, further] = [0; 3].map(|_| device.model(Behaviour::default()));
    for model in [first, second] {
        ask(&mut device, model);
        device.run_until_idle();
    }
    device.run_for(11 * SECOND);
    let wish = |device: &mut VirtualDevice| {
        device.handle(|core, now| core.handle_further(further, now).expect("it is open"));
        device.core.model_state(further)
    };
    assert_eq!(wish(&mut device), ModelState::Stored, "nobody else holds the two");
    device.handle(|core, _| core.handle_spare(second, true));
    let request = ask(&mut device, second);
    assert_eq!(wish(&mut device), ModelState::Stored, "it is in use");
    device.run_until_idle();
    assert!(matches!(device.outcome(request), Some(Outcome::Finished(_))));
    wish(&mut device);
    device.run_until_idle();
    assert_eq!((evictions(&device, first), evictions(&device, second)), (0, 1));
    assert_eq!(device.core.model_state(further), ModelState::Ready);
}

#[test]
fn a_pinned_model_is_nobodys_victim() {
    let mut device = device();
    let pinned =
        device.register(Behaviour::default(), ModelSpec { bytes_estimate: Bytes(100), pinned: true });
    let others = [0, 1].map(|_| device.model(Behaviour::default()));
    ask(&mut device, pinned);
    for round in 0..10 {
        device.run_for(12 * SECOND);
        ask(&mut device, others[round % 2]);
    }
    device.run_until_idle();
    assert_eq!(loads(&device, others[0]) + loads(&device, others[1]), 10);
    assert_eq!((loads(&device, pinned), evictions(&device, pinned)), (1, 0));
}

#[test]
fn two_models_that_do_not_fit_together_take_turns_of_the_minimum_residency() {
    let mut device = device();
    let big = Behaviour { bytes: 150, ..Behaviour::default() };
    let (first, second) = (device.model(big), device.model(big));
    let mut requests = Vec::new();
    // Alternating load, both all the time, for a minute.
    for _ in 0..600 {
        requests.extend([ask(&mut device, first), ask(&mut device, second)]);
        device.run_for(Duration::from_millis(100));
    }
    let turns = loads(&device, first) + loads(&device, second);
    assert!((5..=7).contains(&turns), "a minute holds six turns of ten seconds, not {turns}");
    device.run_until_idle();
    for request in requests {
        assert!(device.is_finished(request), "{:?}", device.outcome(request));
    }
}

#[test]
fn without_a_minimum_residency_every_load_still_serves() {
    let mut device = VirtualDevice::new(CoreConfig {
        threads: 2,
        resident_bytes_max: 200,
        residency_min: Duration::ZERO,
        ..CoreConfig::default()
    });
    let big = Behaviour { bytes: 150, ..Behaviour::default() };
    let (first, second) = (device.model(big), device.model(big));
    let mut requests = Vec::new();
    for _ in 0..100 {
        requests.extend([ask(&mut device, first), ask(&mut device, second)]);
        device.run_for(Duration::from_millis(100));
    }
    device.run_until_idle();
    assert!(requests.into_iter().all(|request| device.is_finished(request)));
    assert!(loads(&device, first) > 10 && loads(&device, second) > 10, "they took turns");
    let loaded = device.signals.iter().filter_map(|(at, output)| match output {
        Output::Load { model } => Some((*at, *model)),
        _ => None,
    });
    let loaded: Vec<_> = loaded.collect();
    for turn in loaded.windows(2) {
        let [(from, model), (until, _)] = turn else { continue };
        let served = device.runs.iter().any(|(at, run)| run.model == *model && (from..until).contains(&at));
        assert!(served, "loaded at {:?} for nothing", *from - device.start);
    }
}

#[test]
fn a_model_that_can_never_fit_is_a_typed_error() {
    let mut device = device();
    device.register(Behaviour::default(), ModelSpec { bytes_estimate: Bytes(120), pinned: true });
    let big = device.model(Behaviour { bytes: 90, ..Behaviour::default() });
    let error = device.submit(big, Priority::Interactive, None, &[1]).unwrap_err();
    assert_eq!(error, RequestError::ModelTooLarge { needed: Bytes(90), available: Bytes(80) });
    assert_eq!(error.code(), ErrorCode::ModelUnsupported);
}

#[test]
fn a_model_larger_than_its_estimate_is_measured_and_fitted_again() {
    let mut device = device();
    let small = device.model(Behaviour { bytes: 100, ..Behaviour::default() });
    ask(&mut device, small);
    device.run_for(11 * SECOND);
    let liar = device.model(Behaviour { bytes: 100, ..Behaviour::default() });
    let request = ask(&mut device, liar);
    // It takes 150 bytes: over the budget beside the other, but it can be alone.
    device.overshoot(liar, 150);
    device.run_until_idle();
    assert!(device.is_finished(request));
    assert_eq!((loads(&device, liar), evictions(&device, liar), evictions(&device, small)), (2, 1, 1));
    let giant = device.model(Behaviour { bytes: 100, ..Behaviour::default() });
    device.run_for(11 * SECOND);
    let request = ask(&mut device, giant);
    device.overshoot(giant, 201);
    device.run_until_idle();
    let error = device.failure(request);
    assert_eq!(error, &RequestError::ModelTooLarge { needed: Bytes(201), available: Bytes(200) });
}

#[test]
fn a_failed_load_answers_every_waiter_and_backs_off() {
    let mut device = device();
    let model = device.model(Behaviour { load_fails: true, ..Behaviour::default() });
    let waiters: Vec<RequestKey> = (0..3).map(|_| ask(&mut device, model)).collect();
    device.run_until_idle();
    for request in waiters {
        let error = device.failure(request);
        assert!(matches!(error, RequestError::LoadFailed { code: ErrorCode::ModelBroken, .. }), "{error:?}");
        assert!(error.to_string().contains("no such file"));
    }
    let in_backoff = device.submit(model, Priority::Interactive, None, &[1]).unwrap_err();
    assert_eq!(in_backoff.retry_after(), Some(SECOND));
    assert_eq!(device.core.model_state(model), ModelState::Failed);
    device.run_for(SECOND);
    let second = ask(&mut device, model);
    device.run_until_idle();
    assert_eq!(device.failure(second).retry_after(), Some(2 * SECOND));
    device.behave(model, |model| model.load_fails = false);
    device.run_for(2 * SECOND);
    let third = ask(&mut device, model);
    device.run_until_idle();
    assert!(device.is_finished(third));
}

#[test]
fn idle_models_are_unloaded_and_pinned_ones_are_not() {
    let mut device = device();
    let idle = device.model(Behaviour::default());
    let pinned =
        device.register(Behaviour::default(), ModelSpec { bytes_estimate: Bytes(100), pinned: true });
    ask(&mut device, idle);
    device.handle(|core, now| core.handle_preload(pinned, now).expect("it fits"));
    device.run_for(59 * SECOND);
    assert_eq!(device.core.model_state(idle), ModelState::Ready);
    device.run_for(600 * SECOND);
    assert_eq!(device.core.model_state(idle), ModelState::Stored);
    assert_eq!(device.core.model_state(pinned), ModelState::Ready);
    assert_eq!(device.core.gauges(device.now).resident_bytes, Bytes(100));
    assert_eq!(device.core.poll_timeout(), None, "an idle device sleeps");
}

#[test]
fn a_drain_ends_with_the_last_request_even_if_that_one_fails() {
    let mut device = device();
    let model = device.model(Behaviour { load_fails: true, ..Behaviour::default() });
    ask(&mut device, model);
    device.handle(|core, now| core.handle_drain(now + 25 * SECOND, now));
    device.run_for(SECOND);
    assert_eq!(device.signals.last().map(|(_, output)| output), Some(&Output::Drained));
}

#[test]
fn a_wish_that_nobody_has_any_more_is_not_loaded() {
    let mut device = device();
    let models: Vec<ModelKey> = (0..3).map(|_| device.model(Behaviour::default())).collect();
    ask(&mut device, models[0]);
    ask(&mut device, models[1]);
    let gone = ask(&mut device, models[2]);
    device.run_for(SECOND);
    device.cancel(gone);
    device.run_for(20 * SECOND);
    assert_eq!(loads(&device, models[2]), 0);
    assert_eq!(device.core.gauges(device.now).evictions, 0);
}

#[test]
fn a_deadline_before_the_measured_load_is_refused_at_arrival() {
    let mut device = device();
    let model = device.model(Behaviour { load: 5 * SECOND, ..Behaviour::default() });
    ask(&mut device, model);
    device.run_for(100 * SECOND);
    assert_eq!(device.core.model_state(model), ModelState::Stored, "unloaded");
    let request = device.submit(model, Priority::Interactive, Some(3 * SECOND), &[20]).unwrap();
    let error = device.failure(request);
    assert!(matches!(error, RequestError::DeadlineUnreachable { .. }), "{error:?}");
}
