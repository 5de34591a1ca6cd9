//! The residency alone: every load in its turn, the budget never exceeded, nobody waits for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use shoal_protocol::{Bytes, ErrorCode};

use super::super::config::CoreConfig;
use super::super::error::RequestError;
use super::super::event::ModelSpec;
use super::super::ids::ModelKey;
use super::super::testing::origin;
use super::{LoadEnd, Residency, ResidencyOutput};

const SECOND: Duration = Duration::from_secs(1);

struct Loader {
    residency: Residency,
    now: Instant,
    outputs: Vec<ResidencyOutput>,
    sizes: BTreeMap<ModelKey, u64>,
}

impl Loader {
    fn new(budget: u64, sizes: &[u64]) -> Self {
        let mut residency = Residency::new(&CoreConfig {
            resident_bytes_max: budget,
            residency_min: 10 * SECOND,
            keep_alive: Some(100 * SECOND),
            ..CoreConfig::default()
        });
        let mut register = |bytes: u64| {
            let spec = ModelSpec { bytes_estimate: Bytes(bytes), pinned: false };
            (residency.register_model(spec), bytes)
        };
        let sizes = sizes.iter().map(|bytes| register(*bytes)).collect();
        Self { residency, now: origin(), outputs: Vec::new(), sizes }
    }

    fn ask(&mut self, model: u32) -> Result<(), RequestError> {
        self.residency.check(ModelKey(model), self.now)?;
        self.residency.handle_acquired(ModelKey(model), self.now);
        self.advance();
        Ok(())
    }

    /// One batch of a model, from its start to its end.
    fn batch(&mut self, model: u32) {
        self.residency.handle_batch_started(ModelKey(model));
        self.residency.handle_batch_ended(ModelKey(model));
        self.advance();
    }

    fn release(&mut self, model: u32) {
        self.residency.handle_released(ModelKey(model), self.now);
        self.advance();
    }

    fn advance(&mut self) {
        self.residency.advance(self.now);
        self.outputs.extend(std::iter::from_fn(|| self.residency.poll_output()));
        assert!(self.residency.held() <= self.residency.budget());
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.advance();
    }

    fn loaded(&mut self, model: u32) {
        let bytes = self.sizes[&ModelKey(model)];
        assert_eq!(self.residency.handle_loaded(ModelKey(model), bytes, self.now), LoadEnd::Waiting);
        self.advance();
    }

    fn evicted(&mut self, model: u32) {
        self.residency.handle_evicted(ModelKey(model));
        self.advance();
    }

    fn outputs(&mut self) -> Vec<ResidencyOutput> {
        std::mem::take(&mut self.outputs)
    }

    /// Answers everything at once, until nothing is asked.
    fn serve(&mut self) {
        while let Some(output) = self.outputs.pop() {
            match output {
                ResidencyOutput::Load(model) => self.loaded(model.0),
                ResidencyOutput::Evict(model) => self.evicted(model.0),
                ResidencyOutput::Refuse(model, error) => panic!("{model:?}: {error}"),
            }
        }
    }
}

fn load(model: u32) -> ResidencyOutput {
    ResidencyOutput::Load(ModelKey(model))
}

#[test]
fn loads_come_one_at_a_time_in_the_order_of_wishes() {
    let mut loader = Loader::new(100, &[10, 10, 10]);
    for model in [1, 0, 1, 2, 0] {
        loader.ask(model).unwrap();
    }
    assert_eq!(loader.outputs(), [load(1)]);
    loader.loaded(1);
    assert_eq!(loader.outputs(), [load(0)]);
    loader.loaded(0);
    assert_eq!(loader.outputs(), [load(2)]);
}

/// The budget has room, and the device no piece of it that is large enough.
#[test]
fn a_load_that_is_short_of_memory_evicts_and_is_tried_again() {
    let mut loader = Loader::new(40, &[10, 10, 15]);
    let evict = |model| ResidencyOutput::Evict(ModelKey(model));
    let short = |loader: &mut Loader| {
        let (code, reason) = (ErrorCode::DeviceFailed, Arc::from("no piece of 15"));
        let end = loader.residency.handle_load_short(ModelKey(2), code, reason, loader.now);
        loader.advance();
        end
    };
    for model in [0, 1] {
        loader.ask(model).unwrap();
        loader.loaded(model);
        loader.batch(model);
        loader.release(model);
    }
    loader.pass(10 * SECOND);
    loader.ask(2).unwrap();
    assert_eq!(loader.outputs().last(), Some(&load(2)));
    assert_eq!(short(&mut loader), LoadEnd::Waiting);
    assert_eq!(loader.outputs(), [evict(0), evict(1)]);
    loader.evicted(0);
    assert_eq!(loader.outputs(), [], "not before all of it is free");
    loader.evicted(1);
    assert_eq!(loader.outputs(), [load(2)]);
    assert_eq!(loader.residency.memory_evictions(), 2);
    let LoadEnd::Failed(RequestError::LoadFailed { reason, .. }) = short(&mut loader) else {
        panic!("nobody is left to go");
    };
    assert_eq!(&*reason, "no piece of 15");
    assert_eq!(loader.outputs(), []);
}

#[test]
fn a_wish_waits_for_the_minimum_residency_with_a_named_timer() {
    let mut loader = Loader::new(15, &[10, 10]);
    loader.ask(0).unwrap();
    loader.loaded(0);
    loader.outputs();
    loader.batch(0);
    let ready_at = loader.now;
    loader.pass(3 * SECOND);
    loader.ask(1).unwrap();
    assert_eq!(loader.outputs(), []);
    assert_eq!(loader.residency.poll_timeout(), Some((ready_at + 10 * SECOND, "minimum residency")));
    assert!(loader.residency.eta(ModelKey(1), loader.now) >= 7 * SECOND);
    loader.pass(7 * SECOND);
    assert_eq!(loader.outputs(), [ResidencyOutput::Evict(ModelKey(0))]);
    loader.evicted(0);
    assert_eq!(loader.outputs(), [load(1)]);
}

#[test]
fn a_model_stays_until_it_has_served_whom_it_was_loaded_for() {
    let mut loader = Loader::new(15, &[10, 10]);
    loader.ask(0).unwrap();
    loader.loaded(0);
    loader.outputs();
    loader.ask(1).unwrap();
    loader.pass(100 * SECOND);
    assert_eq!((loader.outputs(), loader.residency.poll_timeout()), (vec![], None), "it waits for an event");
    loader.batch(0);
    assert_eq!(loader.outputs(), [ResidencyOutput::Evict(ModelKey(0))]);
    loader.evicted(0);
    assert_eq!(loader.outputs(), [load(1)]);
    loader.loaded(1);
    loader.pass(10 * SECOND);
    assert_eq!(loader.outputs(), [], "and so does the other, for which a request waits");
    loader.release(1);
    assert_eq!(loader.outputs(), [ResidencyOutput::Evict(ModelKey(1))], "nobody waits for it any more");
}

#[test]
fn the_backoff_doubles_to_a_minute_and_a_success_forgets_it() {
    let mut loader = Loader::new(100, &[10]);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        loader.ask(0).unwrap();
        let reason: Arc<str> = "torn".into();
        let end =
            loader.residency.handle_load_failed(ModelKey(0), ErrorCode::ModelBroken, reason, loader.now);
        let LoadEnd::Failed(error) = end else { panic!("{end:?}") };
        pauses.push(error.retry_after().unwrap().as_secs());
        loader.release(0);
        assert!(loader.ask(0).is_err(), "in backoff");
        loader.pass(error.retry_after().unwrap());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    loader.ask(0).unwrap();
    loader.loaded(0);
    assert!(loader.residency.is_ready(ModelKey(0)));
}

#[test]
fn a_load_that_does_not_end_is_given_up_but_may_still_come() {
    let mut loader = Loader::new(100, &[10, 10]);
    loader.ask(0).unwrap();
    loader.ask(1).unwrap();
    assert_eq!(loader.outputs(), [load(0)]);
    assert_eq!(loader.residency.poll_timeout(), Some((loader.now + 600 * SECOND, "load stalled")));
    loader.pass(600 * SECOND);
    let outputs = loader.outputs();
    assert!(matches!(
        outputs[..],
        [ResidencyOutput::Refuse(ModelKey(0), _), ResidencyOutput::Load(ModelKey(1))]
    ));
    loader.release(0);
    assert!(loader.ask(0).is_err());
    loader.loaded(0);
    assert!(loader.ask(0).is_ok() && loader.residency.is_ready(ModelKey(0)));
}

proptest! {
    /// Under any load of models that each fit, every wish is fulfilled within the turns of those before it.
    #[test]
    fn every_wish_is_fulfilled(sizes in prop::collection::vec(1u64..=100, 2..6), asks in prop::collection::vec((0u32..6, 0u64..15), 1..60)) {
        let mut loader = Loader::new(100, &sizes);
        let models = u32::try_from(sizes.len()).unwrap();
        for (model, seconds) in asks {
            let model = model % models;
            loader.ask(model).unwrap();
            for _ in 0..=2 * models {
                loader.serve();
                if loader.residency.is_ready(ModelKey(model)) {
                    break;
                }
                loader.pass(10 * SECOND);
            }
            loader.serve();
            prop_assert!(loader.residency.is_ready(ModelKey(model)));
            loader.release(model);
            loader.pass(Duration::from_secs(seconds));
            loader.serve();
        }
        loader.pass(200 * SECOND);
        loader.serve();
        prop_assert_eq!(loader.residency.held(), 0, "idle models are unloaded");
    }
}
