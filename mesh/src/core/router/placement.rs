//! Where a model is served and loaded: a node's own use of what callers see.

use std::time::Instant;

use shoal_protocol::limits::{ALTERNATIVES_MAX, REDIRECTS_MAX};
use shoal_protocol::message::{Alternative, LoadRecord, ModelState};
use shoal_protocol::{NodeId, Place};

use super::Query;
use super::copies::FurtherWorth;
use super::estimate::{exec_us, price_us, request_us};
use super::offers::{self, Offer};
use crate::core::view::{Holding, Standing, View};

/// Devices among which the next holder of a model is chosen, the first ones in rendezvous order.
const FURTHER_CANDIDATES_MAX: usize = 8;

/// What a node does with a request for a model that it does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It loads the model: it is the owner, or nobody else can serve, or the request was redirected often enough.
    Load,
    /// It names who would be sooner, best first: holders, then the owner.
    Redirect(Vec<Alternative>),
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
    let places = elsewhere(view, own, query, now);
    if places.is_empty() { Miss::Load } else { Miss::Redirect(places) }
}

/// Who else could take the query, best first: those that hold the model, then its owner among those that do not.
#[must_use]
pub fn elsewhere(view: &View, own: NodeId, query: &Query<'_>, now: Instant) -> Vec<Alternative> {
    let Some(model) = view.model(query.model) else {
        return Vec::new();
    };
    let is_other = |offer: &Offer| offer.node != own;
    let mut offers: Vec<_> = model
        .holders
        .iter()
        .filter(|holding| offers::is_open(view, holding, query, Standing::Good, now))
        .map(|holding| Offer::known(view, holding, query, now))
        .filter(is_other)
        .collect();
    offers.sort_by_key(Offer::total_us);
    offers.truncate(ALTERNATIVES_MAX - 1);
    let owner = offers::owner(view, &model, query, Standing::Good, now);
    let owner = owner.map(|(holding, _)| Offer::known(view, &holding, query, now));
    offers.extend(owner.filter(is_other));
    let alternative = |offer: Offer| {
        let known = view.device(&offer.holding).and_then(|device| device.load);
        let unknown = LoadRecord { device: offer.holding.device, ..LoadRecord::default() };
        Alternative { node: offer.node, load: known.map_or(unknown, |load| load.record) }
    };
    offers.into_iter().map(alternative).collect()
}

/// Another device that has the model ready and would take a query in less than `limit_us`, as far as is known: one to send
/// it to rather than to let it wait here.
#[must_use]
pub fn sooner_holder(
    view: &View,
    own: NodeId,
    query: &Query<'_>,
    limit_us: u64,
    now: Instant,
) -> Option<Alternative> {
    let model = view.model(query.model)?;
    let open = |holding: &&Holding| {
        holding.state == ModelState::Ready && offers::is_open(view, holding, query, Standing::Good, now)
    };
    // What nobody has told of a device is no reason to send it work.
    let known = model.holders.iter().filter(open).filter_map(|holding| {
        let load = view.device(holding)?.load?.record;
        Some((Offer::known(view, holding, query, now), load))
    });
    let sooner = known.filter(|(offer, _)| offer.node != own && offer.total_us() < limit_us);
    let (offer, load) = sooner.min_by_key(|(offer, _)| offer.total_us())?;
    Some(Alternative { node: offer.node, load })
}

/// Who should hold a model next, and what that is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Further {
    /// The device.
    pub place: Place,
    /// What the query would take there.
    pub worth: FurtherWorth,
}

/// Who should hold the model next, when a holder wants help: the device on which the query takes least in the mean, of the
/// first ones in rendezvous order that have it on disk only and could load it. All holders look at the same few, so that two that ask at once
/// mostly ask the same one.
#[must_use]
pub fn further_holder(view: &View, query: &Query<'_>, now: Instant) -> Option<Further> {
    let model = view.model(query.model)?;
    let may = |held: &&Holding| {
        let is_sound = held.state != ModelState::Failed && offers::fits(view, held);
        is_sound && offers::is_open(view, held, query, Standing::Good, now)
    };
    let known = |held: &Holding| {
        let place = Place { node: view.node(held.slot).id, device: held.device };
        let request_us = request_us(view, held, query)?;
        Some(Further { place, worth: FurtherWorth { request_us, price_us: price_us(view, held) } })
    };
    let candidates = model.storers.iter().filter(may).take(FURTHER_CANDIDATES_MAX);
    candidates.filter_map(known).min_by_key(|further| further.worth.request_us)
}

/// How a model stands beside one of its holders, among the nodes that are there and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// Another node holds it.
    Ready,
    /// Another node loads it.
    Loading,
    /// It is on disk where this names; that node would load it next.
    Stored(Place),
    /// Nobody else has it, or could load it.
    Nowhere,
}

/// What is left of a model once `own` is gone. Where its last load failed it counts as not there; nobody of `given_up` is
/// named as the one to load it.
#[must_use]
pub fn standing_elsewhere(
    view: &View,
    own: NodeId,
    given_up: &[NodeId],
    model: &str,
    now: Instant,
) -> Elsewhere {
    let excluded: Vec<NodeId> = given_up.iter().copied().chain([own]).collect();
    let (query, any) = (Query::of_any(model, &excluded), Query::of_any(model, &excluded[given_up.len()..]));
    let Some(model) = view.model(model) else {
        return Elsewhere::Nowhere;
    };
    let staying = model.holders.iter().filter(|held| offers::is_open(view, held, &any, Standing::Good, now));
    match staying.map(|holding| holding.state).max() {
        Some(ModelState::Ready) => Elsewhere::Ready,
        Some(_) => Elsewhere::Loading,
        None => match offers::owner(view, &model, &query, Standing::Good, now) {
            Some((holding, _)) if holding.state != ModelState::Failed => {
                Elsewhere::Stored(Place { node: view.node(holding.slot).id, device: holding.device })
            }
            _ => Elsewhere::Nowhere,
        },
    }
}

/// Who holds a model, as one of its holders counts them to judge whether there are enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Devices that have it ready.
    pub ready: usize,
    /// Devices that load it.
    pub loading: usize,
    /// Whether `own` has it ready.
    pub is_own_ready: bool,
    /// What the query takes on the device itself, once it runs.
    pub own_exec_us: u64,
    /// What it takes at the best of the others that have it ready, in the mean.
    pub others_us: Option<u64>,
    /// Whether `own` comes last of them in rendezvous order.
    pub is_own_last: bool,
}

/// Counts them.
#[must_use]
pub fn holders(view: &View, own: Place, query: &Query<'_>, now: Instant) -> Holders {
    let mut found = Holders::default();
    let Some(model) = view.model(query.model) else {
        return found;
    };
    // The index keeps holders in rendezvous order.
    for holding in model.holders {
        let node = view.node(holding.slot);
        if node.standing(now) > Standing::Doubted {
            continue;
        }
        if holding.state == ModelState::Loading {
            found.loading += 1;
            continue;
        }
        found.ready += 1;
        // A node has a model on one of its devices.
        found.is_own_last = node.id == own.node;
        if found.is_own_last {
            found.is_own_ready = true;
            found.own_exec_us = exec_us(view, holding, query);
        } else if let Some(took_us) = request_us(view, holding, query) {
            found.others_us = Some(found.others_us.map_or(took_us, |least_us| least_us.min(took_us)));
        }
    }
    found
}
