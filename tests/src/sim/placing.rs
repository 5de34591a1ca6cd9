//! A node's part in routing: the same machine as in production, told by the simulated members.

use std::time::{Duration, Instant};

use shoal::core::{Arrival, OwnStanding, Verdict};
use shoal_mesh::simulation::node_id;
use shoal_mesh::{HeardLoad, News};
use shoal_protocol::message::{Failure, ModelState, TaskRequest};
use shoal_protocol::{DeviceIndex, ErrorCode, Micros, NodeId, Place, Retry};

use super::bug::Bug;
use super::node::{Deed, Node};

/// Loads are looked at where they matter, and no more often than others say them.
const LOADS_PERIOD: Duration = Duration::from_secs(1);
/// As many nodes as a planted fault has load a model at once.
const EVERYBODY: u16 = 6;
/// News that wait to be taken note of.
const NEWS_MAX: usize = 1024;
/// A queue beside which others may matter.
const WAIT_LONG: Duration = Duration::from_millis(500);

impl Node {
    /// Something that its member learnt.
    pub(super) fn handle_news(&mut self, news: News, now: Instant) {
        self.news.push(news);
        let matters =
            matches!(self.news.last(), Some(News::LoadRequested { .. })) || self.departure.is_some();
        if matters || self.news.len() >= NEWS_MAX {
            self.learn(now);
            self.depart(now);
        }
    }

    /// Takes note of what its member learnt, as late as it matters: as in production, where that is told together.
    pub(super) fn learn(&mut self, now: Instant) {
        for news in std::mem::take(&mut self.news) {
            match news {
                News::Member(seen) => self.placement.handle_member(seen.life, seen.state, now),
                News::Facts(record) => self.placement.handle_facts(&record, now),
                News::LoadRequested { request, .. } => self.handle_load_request(&request, now),
                News::Renewed(_) | News::Forgotten(_) => {}
            }
        }
    }

    /// Whether a request for the model may go elsewhere, and what others said last of their load is not known yet.
    pub(super) fn wants_loads(&self, model: u16, now: Instant) -> bool {
        let is_here = || self.state(model) == ModelState::Ready;
        let is_long = || Duration::from_micros(self.core.load_record(now).wait_us) >= WAIT_LONG;
        self.loads_heard_at.is_none_or(|heard| now >= heard + LOADS_PERIOD) && (!is_here() || is_long())
    }

    /// What others said of their loads.
    pub(super) fn handle_loads<'a>(
        &mut self,
        loads: impl Iterator<Item = (NodeId, &'a HeardLoad)>,
        now: Instant,
    ) {
        self.loads_heard_at = Some(now);
        loads.for_each(|(node, heard)| self.placement.handle_load(node, &heard.record, heard.at));
    }

    /// Why the request is not for this node.
    pub(super) fn check_place(
        &mut self,
        model: u16,
        request: &TaskRequest,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Result<(), Failure> {
        self.learn(now);
        if self.bug == Some(Bug::EverybodyLoads) && self.state(model) == ModelState::Stored {
            let place = |number| Place { node: node_id(number), device: DeviceIndex(0) };
            self.deeds.extend((0..EVERYBODY).map(|number| Deed::Ask(place(number), request.model.clone())));
            return Ok(());
        }
        let own = OwnStanding {
            load: self.load_record(now),
            state: Some(self.state(model)),
            ready_in: self.core.load_eta(self.key(model), now),
        };
        match self.placement.handle_arrival(&arrival(request, deadline), &own, now) {
            Verdict::Take => Ok(()),
            Verdict::Redirect(alternatives) => {
                Err(Failure { alternatives, ..Failure::new(ErrorCode::Redirect, String::new()) })
            }
            Verdict::Loading { ready_in } => {
                let retry_after_us = Some(Micros::from(ready_in));
                Err(Failure { retry_after_us, ..Failure::new(ErrorCode::Loading, String::new()) })
            }
        }
    }
}

impl Node {
    /// A refusal after which the caller may try elsewhere now says where.
    pub(super) fn name_others(&self, failure: &mut Failure, request: &TaskRequest, now: Instant) {
        if failure.code.retry() == Retry::Later {
            failure.alternatives = self.placement.alternatives(&arrival(request, None), now);
        }
        if failure.code == ErrorCode::Redirect && failure.alternatives.is_empty() {
            // Who held the model is gone as well.
            failure.code = ErrorCode::Draining;
        }
    }
}

fn arrival(request: &TaskRequest, deadline: Option<Instant>) -> Arrival<'_> {
    Arrival {
        model: &request.model,
        numerics: request.task.numerics(),
        bytes: request.items.iter().map(|item| item.bytes() as u64).sum(),
        priority: request.priority,
        deadline,
        redirects: request.to.map(|_| request.redirects),
    }
}
