//! Choices that something else than load has narrowed down: a redirect, a hedge.

use std::time::Instant;

use shoal_protocol::Place;
use shoal_protocol::message::{Alternative, ModelState};

use super::offers::{self, Offer};
use super::{Choice, Query, Reason, Router, choice, estimate};
use crate::core::view::{Holding, ModelView, Standing, View};

impl Router {
    /// The place that a node named; `None` where it may not take the query.
    pub(in crate::core) fn redirected(
        &self,
        view: &mut View,
        query: &Query<'_>,
        to: Place,
        now: Instant,
    ) -> Option<Choice> {
        let model = view.model(query.model)?;
        let holding = open_at(view, &model, query, to, now)?;
        let offer = Offer::known(view, &holding, query, now);
        let (choice, holding) = choice(&model, Reason::Redirected, vec![offer], 0);
        view.handle_sent(&holding, query.tokens);
        Some(choice)
    }

    /// The first of the places that a refusal names, best first, that may take the query.
    pub(in crate::core) fn best_alternative(
        &self,
        view: &View,
        query: &Query<'_>,
        alternatives: &[Alternative],
        now: Instant,
    ) -> Option<Place> {
        let model = view.model(query.model)?;
        let place =
            |alternative: &Alternative| Place { node: alternative.node, device: alternative.load.device };
        let known = |place: Place| Some((open_at(view, &model, query, place, now)?, place));
        let open = alternatives.iter().map(place).filter_map(known);
        // The first of the least; where it is quiet, whoever named it may know better.
        let best = open.min_by_key(|(holding, _)| view.node(holding.slot).standing(now));
        best.map(|(_, place)| place)
    }

    /// Whether anybody who is not doubted may take the query.
    pub(in crate::core) fn is_placeable(&self, view: &View, query: &Query<'_>, now: Instant) -> bool {
        is_any_open(view, query, |_| true, now)
    }

    /// Whether anybody who is not doubted may take the query and is not known to refuse its like.
    pub(in crate::core) fn is_welcome(&self, view: &View, query: &Query<'_>, now: Instant) -> bool {
        let sheds = |holding: &Holding| {
            let load = view.device(holding).and_then(|device| device.load);
            load.is_some_and(|load| estimate::sheds(&load.record, query.priority))
        };
        is_any_open(view, query, |holding| !sheds(holding), now)
    }

    /// The better of two at random that have the model ready and shed nothing: a second attempt must not load, nor add to
    /// an overload.
    pub(in crate::core) fn hedge(&mut self, view: &View, query: &Query<'_>, now: Instant) -> Option<Choice> {
        let model = view.model(query.model)?;
        let may_help = |offer: &Offer| {
            let load = view.device(&offer.holding).and_then(|device| device.load);
            offer.holding.state == ModelState::Ready
                && view.node(offer.holding.slot).standing(now) == Standing::Good
                && load.is_some_and(|load| load.record.shed_level == 0)
        };
        let (offers::Found::Holders { mut holders, .. }, _) =
            offers::find(view, &model, query, &mut self.chance, now).ok()?
        else {
            return None;
        };
        holders.retain(may_help);
        let (choice, _) = (!holders.is_empty()).then(|| self.two_choices(&model, Reason::Hedge, holders))?;
        Some(choice)
    }
}

/// Whether a holder of this kind may take the query, or somebody who would load the model.
fn is_any_open(view: &View, query: &Query<'_>, is_it: impl Fn(&Holding) -> bool, now: Instant) -> bool {
    view.model(query.model).is_some_and(|model| {
        let is_open =
            |holding: &Holding| is_it(holding) && offers::is_open(view, holding, query, Standing::Quiet, now);
        model.holders.iter().any(is_open)
            || offers::owner(view, &model, query, Standing::Quiet, now).is_some()
    })
}

fn open_at(
    view: &View,
    model: &ModelView<'_>,
    query: &Query<'_>,
    place: Place,
    now: Instant,
) -> Option<Holding> {
    let is_it =
        |holding: &&Holding| holding.device == place.device && view.node(holding.slot).id == place.node;
    let holding = model.holders.iter().chain(model.storers).find(is_it)?;
    offers::is_open(view, holding, query, Standing::Quiet, now).then_some(*holding)
}
