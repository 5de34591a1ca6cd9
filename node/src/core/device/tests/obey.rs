//! The virtual device does what the core says, and checks at every output what must always hold.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_protocol::Bytes;
use shoal_protocol::message::ModelState;

use super::super::super::event::{BatchRun, Output};
use super::super::super::ids::RequestKey;
use super::virtual_device::{Event, Item, Outcome, VirtualDevice};

impl VirtualDevice {
    pub(super) fn pump(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Run(run) => self.run(run),
                Output::Load { model } => {
                    assert_eq!(self.loading.replace(model), None, "one load at a time");
                    assert!(self.resident.insert(model, self.models[model.index()].bytes).is_none());
                    let at = self.now + self.models[model.index()].load;
                    self.at(at, Event::LoadEnded(model));
                    self.signals.push((self.now, output));
                }
                Output::Evict { model } => {
                    assert!(self.running.values().all(|(run, _)| run.model != model), "evicted while in use");
                    self.at(self.now + Duration::from_millis(5), Event::Evicted(model));
                    self.signals.push((self.now, output));
                }
                Output::Finished { request, stages } => {
                    let tracked = &self.requests[&request];
                    let done = tracked.items.values().all(|item| *item == Item::Delivered);
                    assert!(done, "finished before everything was delivered");
                    self.end(request, Outcome::Finished(stages));
                }
                Output::Failed { request, error } => self.end(request, Outcome::Failed(error)),
                Output::LaneHung { lane, .. } => {
                    let (_, items) = self.running.remove(&lane).expect("an idle lane hangs");
                    for item in items {
                        self.requests
                            .get_mut(&item.request)
                            .expect("known")
                            .items
                            .insert(item.index, Item::Waiting);
                    }
                    self.at(self.now + Duration::from_millis(100), Event::LaneReplaced(lane));
                    self.signals.push((self.now, output));
                }
                Output::DeviceFailed | Output::Draining | Output::Drained => {
                    self.signals.push((self.now, output))
                }
            }
        }
        self.check();
    }

    fn run(&mut self, run: BatchRun) {
        let config = self.core.config();
        let items = self.core.batch_items(run.batch).to_vec();
        assert_eq!(items.len(), run.sequences as usize);
        assert!(!items.is_empty() && run.sequences <= config.batch_sequences_max);
        assert_eq!(items.iter().map(|item| item.tokens).sum::<u32>(), run.tokens);
        assert!(items.len() == 1 || run.tokens <= config.batch_tokens_max, "over the batch budget");
        assert!((1..=run.lane.threads_max(config.threads)).contains(&run.threads));
        assert_eq!(self.core.model_state(run.model), ModelState::Ready, "ran a model that is not resident");
        for item in &items {
            let request = self.requests.get_mut(&item.request).expect("known");
            assert_eq!(request.outcome, None, "computes for nobody");
            assert!(request.deadline.is_none_or(|deadline| deadline > self.now), "computes what expired");
            let state = request.items.insert(item.index, Item::Running);
            assert_eq!(state, Some(Item::Waiting), "runs an item twice");
        }
        let model = self.models[run.model.index()];
        let speed = model.tokens_per_thread_s * f64::from(run.threads);
        let took = Duration::from_secs_f64(f64::from(run.tokens) / speed);
        if !items.iter().any(|item| Some(item.tokens) == model.poison_tokens) {
            self.at(self.now + took, Event::BatchDone(run.batch));
        }
        assert!(self.running.insert(run.lane, (run, items)).is_none(), "the lane was busy");
        self.runs.push((self.now, run));
    }

    pub(super) fn end(&mut self, request: RequestKey, outcome: Outcome) {
        let tracked = self.requests.get_mut(&request).expect("an outcome of a request that never was");
        assert_eq!(tracked.outcome, None, "a second outcome: {outcome:?}");
        tracked.outcome = Some(outcome);
        self.unfinished.remove(&request);
        tracked.ended_at = self.now;
    }

    /// What holds between any two events.
    fn check(&self) {
        let config = self.core.config();
        let threads: u16 = self.running.values().map(|(run, _)| run.threads).sum();
        assert!(threads <= config.threads, "{threads} threads");
        let honest = self.resident.iter().filter(|(model, _)| self.overshot != Some(**model));
        let resident: u64 = honest.map(|(_, bytes)| bytes).sum();
        assert!(resident <= config.resident_bytes_max, "{resident} bytes resident");
        let (load, gauges) = (self.core.load_record(self.now), self.core.gauges(self.now));
        assert_eq!(load.requests as usize, self.unfinished.len(), "permits and requests agree");
        assert!(
            !self.unfinished.is_empty() || load.queue_tokens == 0 && gauges.admitted_bytes == Bytes(0),
            "a leak"
        );
        assert_eq!(usize::from(load.running), self.running.len());
        let hung = self.events.values().any(|event| matches!(event, Event::LaneReplaced(_)));
        let mut alive = BTreeSet::new();
        self.core.for_each_beacon(self.now, |request, _| assert!(alive.insert(request), "two beacons"));
        assert!(hung || alive == self.unfinished, "whoever waits hears a beacon");
        for request in self.unfinished.iter().map(|key| &self.requests[key]) {
            assert!(request.deadline.is_none_or(|deadline| deadline > self.now), "outlived its deadline");
        }
    }
}
