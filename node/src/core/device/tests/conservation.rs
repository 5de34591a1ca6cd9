//! Random traces: whatever happens in whatever order, every request has one outcome and nothing leaks. The checks
//! are in [`VirtualDevice`].

use std::time::Duration;

use proptest::prelude::*;
use shoal_protocol::Bytes;
use shoal_protocol::message::Priority;

use super::super::super::config::CoreConfig;
use super::super::super::event::ModelSpec;
use super::super::super::ids::{ModelKey, RequestKey};
use super::virtual_device::{Behaviour, VirtualDevice};

#[derive(Clone, Debug)]
enum Step {
    Submit { model: usize, bulk: bool, deadline_ms: Option<u64>, tokens: Vec<u32> },
    Cancel(usize),
    Wait(u64),
    Suspend(u64),
    FailLoads(usize, bool),
    Preload(usize),
    Drain(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let tokens = prop_oneof![
        6 => prop::collection::vec(1u32..64, 0..6),
        2 => prop::collection::vec(1u32..300, 0..40),
        1 => Just(vec![2000]),
        // Never ends: see `poison_tokens`.
        1 => Just(vec![3, 666, 5]),
    ];
    let submit = (0usize..5, any::<bool>(), prop::option::of(0u64..4000), tokens)
        .prop_map(|(model, bulk, deadline_ms, tokens)| Step::Submit { model, bulk, deadline_ms, tokens });
    prop_oneof![
        20 => submit,
        4 => any::<usize>().prop_map(Step::Cancel),
        12 => (0u64..200).prop_map(Step::Wait),
        2 => (1000u64..20_000).prop_map(Step::Wait),
        1 => (0u64..30_000).prop_map(Step::Suspend),
        1 => (0usize..5, any::<bool>()).prop_map(|(model, fails)| Step::FailLoads(model, fails)),
        1 => (0usize..5).prop_map(Step::Preload),
    ]
}

fn device(threads: u16, limited: bool) -> (VirtualDevice, Vec<ModelKey>) {
    let mut device = VirtualDevice::new(CoreConfig {
        threads,
        tokens_per_s_max: limited.then_some(20_000),
        batch_tokens_max: 1024,
        batch_sequences_max: 16,
        queue_tokens_max: 5000,
        requests_max: 40,
        admitted_bytes_max: 30_000,
        resident_bytes_max: 300,
        residency_min: Duration::from_secs(2),
        keep_alive: Some(Duration::from_secs(10)),
        ..CoreConfig::default()
    });
    // Any two of the three middle ones fit beside the pinned one; the last never does.
    let models = [50, 120, 120, 120, 251].map(|bytes| {
        let poison_tokens = (bytes == 120).then_some(666);
        let behaviour = Behaviour { bytes, poison_tokens, ..Behaviour::default() };
        device.register(behaviour, ModelSpec { bytes_estimate: Bytes(bytes), pinned: bytes == 50 })
    });
    device.tokenize_takes(Duration::from_micros(300), 7);
    (device, models.to_vec())
}

fn play(device: &mut VirtualDevice, models: &[ModelKey], step: &Step, admitted: &mut Vec<RequestKey>) {
    match step {
        Step::Submit { model, bulk, deadline_ms, tokens } => {
            let priority = if *bulk { Priority::Bulk } else { Priority::Interactive };
            let time = deadline_ms.map(Duration::from_millis);
            admitted.extend(device.submit(models[*model], priority, time, tokens).ok());
        }
        Step::Cancel(at) if !admitted.is_empty() => device.cancel(admitted[at % admitted.len()]),
        Step::Cancel(_) => {}
        Step::Wait(ms) => device.run_for(Duration::from_millis(*ms)),
        Step::Suspend(ms) => device.suspend(Duration::from_millis(*ms)),
        Step::FailLoads(model, fails) => device.behave(models[*model], |model| model.load_fails = *fails),
        Step::Preload(model) => device.handle(|core, now| drop(core.handle_preload(models[*model], now))),
        Step::Drain(ms) => {
            let time = Duration::from_millis(*ms);
            device.handle(|core, now| core.handle_drain(now + time, now));
        }
    }
}

/// What a trace led to, with times from its start.
fn history(threads: u16, steps: &[Step]) -> Vec<String> {
    let (mut device, models) = device(threads, false);
    let mut admitted = Vec::new();
    for step in steps {
        play(&mut device, &models, step, &mut admitted);
    }
    device.run_until_idle();
    let start = device.start;
    let runs = device.runs.iter().map(|(at, run)| format!("{:?} {run:?}", *at - start));
    let signals = device.signals.iter().map(|(at, output)| format!("{:?} {output:?}", *at - start));
    let ends = admitted.iter().map(|request| format!("{:?}", device.outcome(*request)));
    runs.chain(signals).chain(ends).collect()
}

proptest! {
    /// Nothing but the events decides: a trace replays exactly.
    #[test]
    fn a_trace_replays_exactly(threads in 1u16..4, steps in prop::collection::vec(step(), 1..60)) {
        prop_assert_eq!(history(threads, &steps), history(threads, &steps));
    }

    #[test]
    fn every_request_has_one_outcome_and_nothing_leaks(
        threads in 1u16..6,
        limited in any::<bool>(),
        mut steps in prop::collection::vec(step(), 1..150),
        drain_ms in prop::option::of(0u64..5000),
    ) {
        let (mut device, models) = device(threads, limited);
        let mut admitted = Vec::new();
        steps.extend(drain_ms.map(Step::Drain));
        for step in &steps {
            play(&mut device, &models, step, &mut admitted);
        }
        device.run_until_idle();
        for request in admitted {
            prop_assert!(device.outcome(request).is_some());
        }
        let (load, gauges) = (device.core.load_record(device.now), device.core.gauges(device.now));
        prop_assert_eq!((load.requests, load.queue_tokens, load.running), (0, 0, 0));
        prop_assert_eq!(gauges.admitted_bytes, Bytes(0));
    }
}
