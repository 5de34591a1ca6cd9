//! What the calls of one client share: what it knows, how it chooses, what it learns and may spend.

use std::time::Instant;

use shoal_protocol::NodeId;
use shoal_protocol::message::Alternative;

use super::part::Part;
use super::router::{Choice, NoRoute, Query, Route, Router};
use super::shared::Shared;
use super::spec::CallSpec;
use super::view::View;

/// View, router and budgets.
#[derive(Debug)]
pub(super) struct Dispatch {
    pub(super) view: View,
    pub(super) router: Router,
    pub(super) shared: Shared,
}

impl Dispatch {
    /// Where a part's unanswered items go.
    pub(super) fn route(&mut self, spec: &CallSpec, part: &Part, now: Instant) -> Result<Route, NoRoute> {
        let query = self.query(spec, part);
        if let Some(place) = part.redirect
            && let Some(choice) = self.router.redirected(&mut self.view, &query, place, now)
        {
            return Ok(Route::To(choice));
        }
        self.router.route(&mut self.view, &query, now)
    }

    /// Whether another node than those that the part excludes may take it.
    pub(super) fn is_placeable(&self, spec: &CallSpec, part: &Part, now: Instant) -> bool {
        self.router.is_placeable(&self.view, &self.query(spec, part), now)
    }

    /// Whether one of them would not refuse it for want of room, as far as is known.
    pub(super) fn is_welcome(&self, spec: &CallSpec, part: &Part, now: Instant) -> bool {
        self.router.is_welcome(&self.view, &self.query(spec, part), now)
    }

    /// Where a second attempt goes beside one that was not heard of, if the budget allows one.
    pub(super) fn hedge(
        &mut self,
        spec: &CallSpec,
        part: &Part,
        first: NodeId,
        now: Instant,
    ) -> Option<Choice> {
        let excluded: Vec<_> = part.excluded().iter().copied().chain([first]).collect();
        let query = Query { excluded: &excluded, ..self.query(spec, part) };
        let choice = self.router.hedge(&self.view, &query, now)?;
        self.shared.spend_hedge().then_some(choice)
    }

    /// The best of the places that a refusal names, of those that are known and may take the part.
    pub(super) fn best(
        &self,
        spec: &CallSpec,
        part: &Part,
        alternatives: &[Alternative],
        now: Instant,
    ) -> Option<shoal_protocol::Place> {
        self.router.best_alternative(&self.view, &self.query(spec, part), alternatives, now)
    }

    fn query<'a>(&self, spec: &'a CallSpec, part: &'a Part) -> Query<'a> {
        let (bytes, ids, items) = part.weight();
        let bytes = spec.task.item_work().bytes(bytes, items);
        Query {
            model: &spec.model,
            numerics: spec.task.numerics(),
            tokens: self.shared.tokens_estimate(&spec.model, bytes, items).saturating_add(ids),
            texts: items,
            priority: spec.priority,
            deadline: spec.deadline,
            excluded: part.excluded(),
            waits: part.waits,
        }
    }
}
