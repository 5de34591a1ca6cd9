//! Where a model is loaded: a node's own use of the owners that callers see.

use std::time::Instant;

use shoal_protocol::limits::{ALTERNATIVES_MAX, REDIRECTS_MAX};
use shoal_protocol::{NodeId, Place};

use super::Query;
use super::offers::{self, Offer};
use crate::core::view::{Standing, View};

/// What a node does with a request for a model that it does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It loads the model: it is the owner, or nobody else can serve, or the request was redirected often enough.
    Load,
    /// It names who would be sooner, best first: holders, then the owner.
    Redirect(Vec<Place>),
}

/// Keeps loads of a model single in the whole mesh: on a miss only its rendezvous owner loads it, and whoever else is asked
/// says so. An owner loads even where others hold the model: a caller that asks it for a model that it does not hold found
/// the holders too busy.
#[must_use]
pub fn place_miss(view: &View, own: NodeId, query: &Query<'_>, redirects: u8, now: Instant) -> Miss {
    let Some(model) = view.model(query.model).filter(|_| redirects < REDIRECTS_MAX) else {
        return Miss::Load;
    };
    let owner = offers::owner(view, &model, query, Standing::Good, now).map(|(holding, _)| holding);
    if owner.is_some_and(|owner| view.node(owner.slot).id == own) {
        return Miss::Load;
    }
    let is_other = |node: NodeId| node != own;
    let mut holders: Vec<_> = model
        .holders
        .iter()
        .filter(|holding| offers::is_open(view, holding, query, Standing::Good, now))
        .map(|holding| Offer::known(view, holding, query, now))
        .filter(|offer| is_other(offer.node))
        .collect();
    holders.sort_by_key(Offer::total_us);
    holders.truncate(ALTERNATIVES_MAX - 1);
    holders.extend(owner.map(|owner| Offer::known(view, &owner, query, now)));
    if holders.is_empty() {
        return Miss::Load;
    }
    let place = |offer: Offer| Place { node: offer.node, device: offer.holding.device };
    Miss::Redirect(holders.into_iter().map(place).collect())
}

/// Who should hold the model next, when a holder wants help: the first owner among those that have it on disk only.
#[must_use]
pub fn further_holder(view: &View, query: &Query<'_>, now: Instant) -> Option<Place> {
    let model = view.model(query.model)?;
    let (holding, _) = offers::owner(view, &model, query, Standing::Good, now)?;
    Some(Place { node: view.node(holding.slot).id, device: holding.device })
}
