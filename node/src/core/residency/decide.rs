//! What to load, what to evict, what to give up.

use std::sync::Arc;
use std::time::Instant;

use shoal_protocol::ErrorCode;

use super::super::ids::ModelKey;
use super::model::{Model, State};
use super::victims::{Candidate, choose_victims};
use super::{LoadEnd, Residency, ResidencyOutput, stalled};

impl Residency {
    /// Starts the first wanted load, or makes room for it.
    pub(super) fn start_load(&mut self, now: Instant) {
        self.blocked_until = None;
        let models = &self.models;
        self.wanted.retain(|key| models[key.index()].is_wanted());
        let busy = self.present().any(|model| matches!(model.state, State::Loading { stalled: false, .. }));
        let Some(&first) = self.wanted.front().filter(|_| !busy) else {
            return;
        };
        if matches!(self.models[first.index()].state, State::Evicting { .. }) {
            return;
        }
        if let Err(error) = self.check(first, now) {
            self.wanted.pop_front();
            self.models[first.index()].preload = false;
            self.outputs.push_back(ResidencyOutput::Refuse(first, error));
            return;
        }
        let needed = self.models[first.index()].bytes;
        let leaving: u64 = self.leaving().map(Model::held).sum();
        let free = self.budget.saturating_sub(self.held() + self.set_aside_absent(first));
        // What goes for want of one piece of memory must be gone before the load is tried again.
        let is_awaited = self.models[first.index()].is_short && leaving > 0;
        if needed <= free && !is_awaited {
            self.wanted.pop_front();
            self.models[first.index()].state = State::Loading { since: now, stalled: false };
            let place = self.present.partition_point(|key| *key < first);
            self.present.insert(place, first);
            self.outputs.push_back(ResidencyOutput::Load(first));
        } else if needed > free.saturating_add(leaving) {
            self.make_room(needed - free - leaving, now);
        }
    }

    /// Chooses victims for `bytes`, or notes when there will be some.
    fn make_room(&mut self, bytes: u64, now: Instant) {
        let candidates: Vec<Candidate> = self.candidates(now).collect();
        match choose_victims(&candidates, bytes, now) {
            Ok(victims) => victims.into_iter().for_each(|victim| self.evict(victim)),
            Err(until) => self.blocked_until = until,
        }
    }

    pub(super) fn candidates(&self, now: Instant) -> impl Iterator<Item = Candidate> {
        (0..).map(ModelKey).zip(&self.models).filter_map(move |(key, model)| {
            let State::Ready { since } = model.state else {
                return None;
            };
            let reload_s = self.load_time(model).as_secs_f64();
            (!model.pinned && !model.is_owed_a_batch()).then_some(Candidate {
                key,
                bytes: model.bytes,
                evictable_at: since + self.residency_min,
                in_use: model.users > 0,
                is_spare: model.is_spare,
                cost: reload_s * model.demand(now),
                last_used: model.last_used.unwrap_or(since),
            })
        })
    }

    /// A load found no piece of memory that is large enough for it. Models go, the cheapest of about its size first, and it is
    /// tried again; it failed if none can go now.
    pub(in crate::core) fn handle_load_short(
        &mut self,
        model: ModelKey,
        code: ErrorCode,
        reason: Arc<str>,
        now: Instant,
    ) -> LoadEnd {
        let Some(Model { state: State::Loading { .. }, bytes, .. }) = self.models.get(model.index()) else {
            return LoadEnd::Waiting;
        };
        let candidates: Vec<Candidate> =
            self.candidates(now).filter(|model| model.evictable_at <= now).collect();
        let evictable: u64 = candidates.iter().map(|model| model.bytes).sum();
        let victims = choose_victims(&candidates, evictable.min(*bytes), now).unwrap_or_default();
        if victims.is_empty() {
            return self.handle_load_failed(model, code, reason, now);
        }
        self.memory_evictions += victims.len() as u64;
        victims.into_iter().for_each(|victim| self.evict(victim));
        let short = &mut self.models[model.index()];
        (short.state, short.is_short) = (State::Absent, true);
        self.present.retain(|key| *key != model);
        self.wanted.retain(|key| *key != model);
        self.wanted.push_front(model);
        LoadEnd::Waiting
    }

    pub(super) fn evict(&mut self, victim: ModelKey) {
        self.models[victim.index()].state = State::Evicting { ordered: false };
        if self.models[victim.index()].is_wanted() {
            self.want(victim);
        }
    }

    /// Tells those who wait for a load that does not end. It may still come, and then serves whoever asks next.
    pub(super) fn give_up_stalled(&mut self, now: Instant) {
        for key in &self.present {
            let model = &mut self.models[key.index()];
            if model.stalls_at().is_some_and(|at| at <= now)
                && let State::Loading { stalled: given_up, .. } = &mut model.state
            {
                *given_up = true;
                model.preload = false;
                self.outputs.push_back(ResidencyOutput::Refuse(*key, stalled()));
            }
        }
    }

    pub(super) fn unload_idle(&mut self, now: Instant) {
        for at in 0..self.present.len() {
            let model = self.present[at].index();
            if self.idle_at(&self.models[model]).is_some_and(|idle_at| idle_at <= now) {
                self.models[model].state = State::Evicting { ordered: false };
            }
        }
    }

    /// When an unused model is unloaded.
    pub(super) fn idle_at(&self, model: &Model) -> Option<Instant> {
        let State::Ready { since } = model.state else {
            return None;
        };
        let idle_at = model.last_used.unwrap_or(since) + self.keep_alive?;
        (!model.pinned && model.users == 0).then(|| idle_at.max(since + self.residency_min))
    }
}
