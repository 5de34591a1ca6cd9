//! The node's part in routing: what its [`Placement`] is asked, and what its callers are told.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_mesh::MeshState;
use shoal_protocol::message::{Failure, Numerics, Priority, TaskRequest};
use shoal_protocol::{ErrorCode, Micros, Retry};

use super::NodeService;
use crate::clock;
use crate::core::{Arrival, OwnStanding, Placement, ServedTokens, Verdict};

/// Longer hints are taken for "do not retry".
const READY_HINT_MAX: Duration = Duration::from_secs(120);

/// What placing an attempt needs to know of it, once its texts are on their way.
pub(crate) struct Placing {
    model: String,
    numerics: Numerics,
    bytes: u64,
    priority: Priority,
    pub(super) deadline: Option<Instant>,
    redirects: Option<u8>,
}

impl Placing {
    /// Canonical name, where the node knows one.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    fn arrival(&self) -> Arrival<'_> {
        let Self { ref model, numerics, bytes, priority, deadline, redirects } = *self;
        Arrival { model, numerics, bytes, priority, deadline, redirects }
    }
}

impl NodeService {
    /// What placing needs to know of an attempt that arrived then.
    pub(crate) fn placing(&self, request: &TaskRequest, arrived_at: Instant) -> Placing {
        Placing {
            model: self.canonical(&request.model).unwrap_or_else(|| request.model.clone()),
            numerics: request.task.numerics(),
            bytes: request.items.iter().map(|item| item.bytes() as u64).sum(),
            priority: request.priority,
            deadline: request.deadline_us.and_then(|left| arrived_at.checked_add(left.into())),
            // Who names no place knows no mesh, and could follow no redirection.
            redirects: request.to.map(|_| request.redirects),
        }
    }

    /// Whether the attempt is for this node's device that has the model.
    pub(crate) fn check_place(&self, placing: &Placing) -> Result<(), Failure> {
        let now = clock::now();
        let device = self.home(&placing.model);
        // A device that is down refuses by itself.
        let Some(load) = self.load_of(device) else {
            return Ok(());
        };
        let shelf = device.published.shelf();
        let standing = shelf.models.get(placing.model.as_str());
        let own = OwnStanding {
            load,
            state: self.state_of(&placing.model, device, &shelf),
            ready_in: standing.map_or(Duration::ZERO, |standing| standing.ready_in(now)),
        };
        match self.place().handle_arrival(&placing.arrival(), &own, now) {
            Verdict::Take => Ok(()),
            Verdict::Redirect(alternatives) => {
                let what = "another node would do it sooner".to_owned();
                Err(Failure { alternatives, ..Failure::new(ErrorCode::Redirect, what) })
            }
            Verdict::Loading { ready_in } => {
                let what = "the model is being loaded, and not ready before the deadline".to_owned();
                let retry_after_us = Some(Micros::from(ready_in.min(READY_HINT_MAX)));
                Err(Failure { retry_after_us, ..Failure::new(ErrorCode::Loading, what) })
            }
        }
    }

    /// A refusal after which the caller may try elsewhere now says where.
    pub(super) fn name_others(&self, failure: &mut Failure, placing: &Placing) {
        if failure.code.retry() == Retry::Later && failure.alternatives.is_empty() {
            failure.alternatives = self.place().alternatives(&placing.arrival(), clock::now());
        }
        let can_follow = placing.redirects.is_some() && !failure.alternatives.is_empty();
        if failure.code == ErrorCode::Redirect && !can_follow {
            // Who held the model is gone as well, or the caller cannot go there.
            failure.code = ErrorCode::Draining;
        }
    }

    /// An attempt was served here.
    pub(super) fn note_served(&self, model: &str, tokens: u64, queue: Duration) {
        if let Some(standing) = self.home(model).published.shelf().models.get(model) {
            let served = ServedTokens { tokens, queue, bytes: standing.bytes.0 };
            self.place().handle_served(model, served, clock::now());
        }
    }

    /// What is known of the mesh now.
    pub(crate) fn handle_mesh(&self, mesh: &MeshState) {
        let now = clock::now();
        let mut place = self.place();
        for seen in &mesh.members {
            place.handle_member(seen.life, seen.state, now);
        }
        for facts in mesh.facts.values() {
            place.handle_facts(facts, now);
        }
        for ((node, _), heard) in &mesh.loads {
            place.handle_load(*node, &heard.record, heard.at);
        }
    }

    /// The machine, for no longer than a decision takes.
    pub(crate) fn place(&self) -> MutexGuard<'_, Placement> {
        let place: &Mutex<Placement> = &self.placement;
        place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
