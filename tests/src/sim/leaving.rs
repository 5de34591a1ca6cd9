//! A node's copies and its way out: what production's tasks do with [`Placement`](shoal::core::Placement)'s deeds and
//! [`Departure`]'s steps.

use std::time::{Duration, Instant};

use shoal::core::{Copy, CopyDeed, Departure, DeviceCore, ServedTokens, Step};
use shoal_mesh::core::Elsewhere;
use shoal_protocol::NodeId;
use shoal_protocol::message::{LoadRequest, ModelState};

use super::answer::{model_name, model_number};
use super::bug::Bug;
use super::machine::model_bytes;
use super::node::{Deed, Job, Node};

/// Without requests that waited so long nobody is asked for help, whatever the others do.
const WAIT_NOTED: Duration = Duration::from_millis(20);

impl Node {
    /// Leave within `time`.
    pub(super) fn handle_drain(&mut self, time: Duration, now: Instant) {
        match &mut self.departure {
            Some(departure) => departure.handle_notice(now + time, now),
            None => self.departure = Some(Departure::new(now + time, now)),
        }
        self.depart(now);
        self.settle(now);
    }

    /// Goes on with leaving, if it leaves.
    pub(super) fn depart(&mut self, now: Instant) {
        if self.departure.is_some() {
            self.learn(now);
        }
        let Some(mut departure) = self.departure.take() else {
            return;
        };
        if self.bug != Some(Bug::LeavesSoleCopies) {
            let copies = self.copies(|model| departure.given_up(model, now), now);
            departure.handle_copies(copies);
        }
        while let Some(step) = departure.poll_step(now) {
            self.step(step, now);
        }
        self.departure = Some(departure);
    }

    /// What it holds, and where else that is; nobody whom `given_up` names for a model is to load it.
    fn copies(&self, given_up: impl Fn(&str) -> Vec<NodeId>, now: Instant) -> Vec<Copy> {
        let held = |model: &u16| matches!(self.state(*model), ModelState::Ready | ModelState::Loading);
        let copy = |model| {
            let (requests, model) = (self.served[usize::from(model)], model_name(model));
            let elsewhere = self.placement.elsewhere(&model, &given_up(&model), now);
            Copy { model, requests, elsewhere }
        };
        (0..self.served.len() as u16).filter(held).map(copy).collect()
    }

    /// Models that were used and that nobody else holds, though others could.
    pub(super) fn sole_copies(&self, now: Instant) -> impl Iterator<Item = String> {
        let is_sole = |copy: &Copy| copy.requests > 0 && matches!(copy.elsewhere, Elsewhere::Stored(_));
        self.copies(|_| Vec::new(), now).into_iter().filter(is_sole).map(|copy| copy.model)
    }

    fn step(&mut self, step: Step, now: Instant) {
        match step {
            Step::Announce => self.deeds.push(Deed::Changed),
            Step::Finish { by } => {
                self.core.handle_drain(if self.bug == Some(Bug::DrainsAway) { now } else { by }, now);
                self.deeds.extend((self.bug == Some(Bug::LeavesAtOnce)).then_some(Deed::Leave));
            }
            Step::HandOver { model, to } => self.deeds.push(Deed::Ask(to, model)),
            Step::GiveBack { model } => {
                if let Some(model) = model_number(&model) {
                    self.core.handle_held_elsewhere(self.key(model), now);
                }
            }
            Step::Leave => self.deeds.push(Deed::Leave),
        }
    }

    /// A request was answered: what its model served counts.
    pub(super) fn note_served(&mut self, job: &Job, tokens: u64, queue: Duration, now: Instant) {
        if let Some(model) = model_number(&job.request.model) {
            let served = ServedTokens { tokens, queue, bytes: model_bytes().0 };
            self.served[usize::from(model)] += 1;
            self.has_waits |= queue >= WAIT_NOTED;
            self.placement.handle_served(&job.request.model, served, now);
        }
    }

    /// Whether it is time to judge the copies.
    fn judges_copies(&self, now: Instant) -> bool {
        self.placement.poll_timeout().is_some_and(|(at, _)| at <= now)
    }

    /// Whether it judges them now, and others' loads matter for that because requests waited here.
    pub(super) fn wants_loads_to_judge(&mut self, now: Instant) -> bool {
        self.judges_copies(now) && std::mem::take(&mut self.has_waits)
    }

    /// Judges its copies, if it is time.
    pub(super) fn handle_window(&mut self, now: Instant) {
        if !self.judges_copies(now) {
            return;
        }
        self.learn(now);
        self.placement.handle_window(&self.load_record(now), now);
        while let Some(deed) = self.placement.poll_deed() {
            self.deeds.extend(match deed {
                CopyDeed::Ask { to, model } => Some(Deed::Ask(to, model)),
                CopyDeed::GiveBack { model } => model_number(&model).map(Deed::GiveBack),
                CopyDeed::Spare { model, is_spare } => {
                    let model = model_number(&model).map(|model| self.key(model));
                    model.into_iter().for_each(|model| self.core.handle_spare(model, is_spare));
                    None
                }
            });
        }
        if self.bug == Some(Bug::GivesBackUnpressed) {
            let held = (0..self.served.len() as u16).find(|model| self.state(*model) == ModelState::Ready);
            self.deeds.extend(held.map(Deed::GiveBack));
        }
    }

    /// Evicts a copy, unless somebody uses it.
    pub(super) fn give_back(&mut self, model: u16, now: Instant) {
        self.core.handle_given_back(self.key(model), now);
        self.settle(now);
    }

    /// A member asks it to load a model.
    pub(super) fn handle_load_request(&mut self, request: &LoadRequest, now: Instant) {
        if let Some(model) = model_number(&request.model) {
            // A node that is leaving itself, or whose copy is broken, does not; who asked asks another.
            let _ = match self.placement.is_held_elsewhere(&request.model, now) {
                true => self.core.handle_further(self.key(model), now),
                false => self.core.handle_preload(self.key(model), now),
            };
            self.settle(now);
        }
    }

    /// Makes it one that has this fault.
    pub(super) fn plant(&mut self, bug: Option<Bug>) {
        self.bug = bug;
        let mut config = self.machine().core_config();
        match bug {
            Some(Bug::HoldsTooMuch) => config.resident_bytes_max *= 2,
            Some(Bug::QueuesTooMuch) => {
                config.queue_tokens_max *= 2;
                config.requests_max *= 2;
                config.admitted_bytes_max *= 2;
            }
            _ => return,
        }
        self.core = DeviceCore::new(config);
        self.register(self.served.len());
    }

    /// What it did since the last time.
    pub(super) fn take_deeds(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.deeds)
    }

    /// Whether there is something for the world to do.
    pub(super) fn has_deeds(&self) -> bool {
        !self.deeds.is_empty()
    }

    /// When it wants to be told the time.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let leaving = self.departure.as_ref().and_then(|departure| departure.poll_timeout(now));
        let timeouts = [self.core.poll_timeout(), self.placement.poll_timeout(), leaving];
        timeouts.into_iter().flatten().map(|(at, _)| at).min()
    }
}
