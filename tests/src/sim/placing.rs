//! A node's part in routing: the same machine as in production, told by the simulated members.

use std::time::{Duration, Instant};

use shoal::core::{Arrival, OwnStanding, Verdict};
use shoal_mesh::{MeshState, News};
use shoal_protocol::message::{Failure, ModelState, TaskRequest};
use shoal_protocol::{ErrorCode, Micros};

use super::node::Node;

/// Loads are looked at where they matter, and no more often than others say them.
const LOADS_PERIOD: Duration = Duration::from_secs(1);
/// A queue beside which others may matter.
const WAIT_LONG: Duration = Duration::from_millis(500);

impl Node {
    /// Something that its member learnt.
    pub(super) fn handle_news(&mut self, news: &News, now: Instant) {
        match news {
            News::Member(seen) => self.placement.handle_member(seen.life, seen.state, now),
            News::Facts(record) => self.placement.handle_facts(record, now),
            News::Renewed(_) | News::Forgotten(_) | News::LoadRequested { .. } => {}
        }
    }

    /// Whether a request for the model may go elsewhere, and what others said last of their load is not known yet.
    pub(super) fn wants_loads(&self, model: u16, now: Instant) -> bool {
        let is_here = self.state(model) == ModelState::Ready;
        let is_long = Duration::from_micros(self.core.load_record(now).wait_us) >= WAIT_LONG;
        (!is_here || is_long) && self.loads_heard_at.is_none_or(|heard| now >= heard + LOADS_PERIOD)
    }

    /// What others said of their loads.
    pub(super) fn handle_loads(&mut self, mesh: &MeshState, now: Instant) {
        self.loads_heard_at = Some(now);
        for ((node, _), heard) in &mesh.loads {
            self.placement.handle_load(*node, &heard.record, heard.at);
        }
    }

    /// Why the request is not for this node.
    pub(super) fn check_place(
        &mut self,
        model: u16,
        request: &TaskRequest,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Result<(), Failure> {
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
