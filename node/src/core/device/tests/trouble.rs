//! Lanes that hang, fail, or only seem to.

use std::time::Duration;

use shoal_protocol::message::Priority;

use super::super::super::config::CoreConfig;
use super::super::super::error::RequestError;
use super::super::super::event::Output;
use super::super::super::ids::ModelKey;
use super::virtual_device::{Behaviour, VirtualDevice};

const POISON: u32 = 666;
const SECOND: Duration = Duration::from_secs(1);

fn poisoned() -> (VirtualDevice, ModelKey) {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    device.behave(model, |model| model.poison_tokens = Some(POISON));
    (device, model)
}

fn hangs(device: &VirtualDevice) -> usize {
    device.signals.iter().filter(|(_, output)| matches!(output, Output::LaneHung { .. })).count()
}

#[test]
fn a_hung_batch_is_given_up_and_its_requests_run_once_more() {
    let (mut device, model) = poisoned();
    let request = device.submit(model, Priority::Interactive, None, &[POISON]).unwrap();
    let start = device.now;
    device.run_for(2 * SECOND);
    assert_eq!(hangs(&device), 1);
    assert_eq!(device.signals[0].0 - start, 2 * SECOND, "the floor of the patience");
    device.behave(model, |model| model.poison_tokens = None);
    device.run_until_idle();
    assert!(device.is_finished(request));
    assert_eq!(device.core.gauges(device.now).restarts, 1);
}

#[test]
fn a_text_that_hangs_every_lane_fails_alone() {
    let (mut device, model) = poisoned();
    device.submit(model, Priority::Interactive, None, &[100, 100]).unwrap();
    let poison = device.submit(model, Priority::Interactive, None, &[POISON]).unwrap();
    let others: Vec<_> =
        (0..20).map(|_| device.submit(model, Priority::Interactive, None, &[100; 3]).unwrap()).collect();
    device.run_until_idle();
    assert_eq!(device.failure(poison), &RequestError::DeviceFailed);
    assert_eq!(hangs(&device), 2);
    assert!(others.into_iter().all(|request| device.is_finished(request)));
}

#[test]
fn a_request_whose_deadline_passes_while_it_hangs_expires() {
    let (mut device, model) = poisoned();
    let request = device.submit(model, Priority::Interactive, Some(SECOND), &[POISON]).unwrap();
    device.run_for(2 * SECOND);
    assert_eq!(device.failure(request), &RequestError::Expired);
    device.run_until_idle();
    assert_eq!(hangs(&device), 1, "the lane is replaced all the same");
}

#[test]
fn nothing_beats_while_a_lane_hangs_and_its_late_result_is_ignored() {
    let (mut device, model) = poisoned();
    device.submit(model, Priority::Interactive, None, &[POISON]).unwrap();
    let (_, run) = device.runs[0];
    device.run_for(2 * SECOND);
    device.core.for_each_beacon(device.now, |request, _| panic!("a beacon for {request:?}"));
    assert_eq!(device.core.handle_batch_done(run.batch, device.now), []);
    assert!(device.core.batch_items(run.batch).is_empty());
    device.run_until_idle();
}

#[test]
fn a_process_that_stood_still_has_no_hung_lanes() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    let request = device.submit(model, Priority::Interactive, None, &[1000]).unwrap();
    device.suspend(3600 * SECOND);
    device.run_until_idle();
    assert!(device.is_finished(request));
    assert_eq!(hangs(&device), 0);
}

#[test]
fn a_slow_machine_is_no_hang() {
    let (mut device, model) = VirtualDevice::warm(CoreConfig::default());
    device.behave(model, |model| model.tokens_per_thread_s = 500.0);
    let request = device.submit(model, Priority::Interactive, None, &[50; 40]).unwrap();
    device.run_until_idle();
    assert!(device.is_finished(request));
    assert_eq!(hangs(&device), 0);
}

#[test]
fn lanes_that_keep_hanging_end_the_device() {
    let (mut device, model) = poisoned();
    let poison: Vec<_> =
        (0..4).map(|_| device.submit(model, Priority::Interactive, None, &[POISON]).unwrap()).collect();
    let waiting = device.submit(model, Priority::Interactive, None, &[10]).unwrap();
    device.run_until_idle();
    assert!(device.signals.iter().any(|(_, output)| *output == Output::DeviceFailed));
    for request in poison.into_iter().chain([waiting]) {
        assert_eq!(device.failure(request), &RequestError::DeviceFailed);
    }
    assert_eq!(device.submit(model, Priority::Interactive, None, &[1]), Err(RequestError::DeviceFailed));
}

#[test]
fn a_batch_that_fails_ends_its_requests_and_frees_the_lane() {
    let (mut device, model) = poisoned();
    let request = device.submit(model, Priority::Interactive, None, &[POISON, 10]).unwrap();
    let (_, run) = device.runs[0];
    device.fail_batch(run.batch);
    assert_eq!(device.failure(request), &RequestError::DeviceFailed);
    let next = device.submit(model, Priority::Interactive, None, &[10]).unwrap();
    device.run_until_idle();
    assert!(device.is_finished(next));
}

#[test]
fn an_unmeasured_model_gets_the_long_patience() {
    let mut device = VirtualDevice::new(CoreConfig::default());
    let slow = device.model(Behaviour { tokens_per_thread_s: 20.0, ..Behaviour::default() });
    let request = device.submit(slow, Priority::Interactive, None, &[64]).unwrap();
    device.run_until_idle();
    assert!(device.is_finished(request), "3.2 s for the first batch of a slow model is no hang");
}
