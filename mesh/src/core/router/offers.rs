//! Who could take a query: filtered by facts, drawn by chance, priced by what is known.

use std::time::Instant;

use shoal_protocol::NodeId;
use shoal_protocol::message::Numerics;

use super::estimate::{Estimate, estimate};
use super::{NoRoute, Query, Source};
use crate::core::chance::Chance;
use crate::core::view::{Holding, ModelView, Standing, View};

/// Holders drawn for a shortlist: twelve cost 11 ms of p99 at 85 % load, where a model had twenty.
const SAMPLE_MAX: usize = 24;
/// A list up to this long is gone through; of a longer one that many places are drawn, so that the time of a choice does
/// not grow with the mesh.
const DRAWS_MAX: usize = 24;
/// The wait at an owner from which the second owner loads in its place.
const OWNER_WAIT_MAX_US: u64 = 2_000_000;

/// A place that could take the query, and what it would cost there.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) holding: Holding,
    pub(super) node: NodeId,
    pub(super) source: Source,
    pub(super) age_ms: u16,
    /// Requests in flight there.
    pub(super) requests: u32,
    pub(super) estimate: Estimate,
}

impl Offer {
    /// By what the view knows.
    pub(super) fn known(view: &View, holding: &Holding, query: &Query<'_>, now: Instant) -> Self {
        Self::priced(view, holding, None, query, now)
    }

    /// By the device's own answer, which the view knows already.
    pub(super) fn answered(
        view: &View,
        holding: &Holding,
        ready_in_us: u64,
        query: &Query<'_>,
        now: Instant,
    ) -> Self {
        Self { source: Source::Probe, ..Self::priced(view, holding, Some(ready_in_us), query, now) }
    }

    fn priced(
        view: &View,
        holding: &Holding,
        ready_in_us: Option<u64>,
        query: &Query<'_>,
        now: Instant,
    ) -> Self {
        let load = view.device(holding).and_then(|device| device.load);
        let age_ms = load.map_or(u128::MAX, |load| load.age(now).as_millis());
        Self {
            holding: *holding,
            node: view.node(holding.slot).id,
            source: if load.is_some() { Source::Gossip } else { Source::Facts },
            age_ms: u16::try_from(age_ms).unwrap_or(u16::MAX),
            requests: load.map_or(0, |load| load.requests()),
            estimate: estimate(view, holding, ready_in_us, query, now),
        }
    }

    pub(super) fn total_us(&self) -> u64 {
        self.estimate.total_us()
    }
}

/// Who could take a query.
#[derive(Debug)]
pub(super) enum Found {
    /// Some that have the model, and the one that would load it next.
    Holders { holders: Vec<Offer>, owner: Option<Offer> },
    /// Nobody has the model: this one loads it.
    Owner { owner: Offer, is_second: bool },
}

/// Finds who could take the query, and who of those that have the model is passed over because this process doubts it. A
/// quiet node comes after others that have the model; a doubted one after whoever can serve.
pub(super) fn find(
    view: &View,
    model: &ModelView<'_>,
    query: &Query<'_>,
    chance: &mut Chance,
    now: Instant,
) -> Result<(Found, Vec<Offer>), NoRoute> {
    let is_open = |holding: &Holding| is_open(view, holding, query, Standing::Doubted, now);
    let standing = |holding: &Holding| view.node(holding.slot).standing(now);
    let offer = |holding: &Holding| Offer::known(view, holding, query, now);
    let drawn = draw(model.holders, is_open, chance);
    let best = drawn.iter().map(standing).min();
    let (chosen, doubted): (Vec<_>, Vec<_>) =
        drawn.iter().map(offer).partition(|offer| Some(standing(&offer.holding)) == best);
    for worst in [Standing::Quiet, Standing::Doubted] {
        let owner = owner(view, model, query, worst, now);
        match owner.map(|(holding, is_second)| (offer(&holding), is_second)) {
            owner if best.is_some_and(|best| best <= worst) => {
                let owner = owner.map(|(owner, _)| owner);
                return Ok((Found::Holders { holders: chosen, owner }, doubted));
            }
            Some((owner, is_second)) => {
                let passed_over = chosen.into_iter().chain(doubted).collect();
                return Ok((Found::Owner { owner, is_second }, passed_over));
            }
            None => {}
        }
    }
    Err(why_none(view, model, query, now))
}

/// Whether the place may take the query, as far as facts and membership say.
pub(super) fn is_open(
    view: &View,
    holding: &Holding,
    query: &Query<'_>,
    standing: Standing,
    now: Instant,
) -> bool {
    let node = view.node(holding.slot);
    runs_in(holding, query.numerics) && !query.excluded.contains(&node.id) && node.standing(now) <= standing
}

/// A node that has not looked at the model yet does not say in which precision it would run: it may be this one.
fn runs_in(holding: &Holding, numerics: Numerics) -> bool {
    [numerics, holding.numerics].contains(&Numerics::Any) || holding.numerics == numerics
}

/// Whether the model can be in the device's memory at all.
pub(super) fn fits(view: &View, holding: &Holding) -> bool {
    view.device(holding).is_none_or(|device| holding.bytes() <= device.budget_bytes)
}

/// The device that loads the model when it must be loaded: the first in rendezvous order that may take the query, or the
/// next one while the first is overloaded. The order is the same for everybody, so that at most these two load.
pub(super) fn owner(
    view: &View,
    model: &ModelView<'_>,
    query: &Query<'_>,
    standing: Standing,
    now: Instant,
) -> Option<(Holding, bool)> {
    let mut owners = model
        .storers
        .iter()
        .filter(|holding| is_open(view, holding, query, standing, now) && fits(view, holding));
    let first = owners.next()?;
    if !is_overloaded(view, first, now) {
        return Some((*first, false));
    }
    let second = owners.next().filter(|second| !is_overloaded(view, second, now));
    Some(second.map_or((*first, false), |second| (*second, true)))
}

fn is_overloaded(view: &View, holding: &Holding, now: Instant) -> bool {
    let device = view.device(holding);
    let Some((device, load)) = device.and_then(|device| Some((device, device.load?))) else {
        return false;
    };
    load.record.shed_level > 0 || load.wait_us(device.tokens_per_s(), now) > OWNER_WAIT_MAX_US
}

/// Some of the places that are open, by chance alone.
fn draw(places: &[Holding], is_open: impl Fn(&Holding) -> bool, chance: &mut Chance) -> Vec<Holding> {
    let mut drawn: Vec<Holding> = Vec::with_capacity(SAMPLE_MAX);
    if places.len() > DRAWS_MAX {
        for _ in 0..DRAWS_MAX {
            let place = places[chance.below(places.len() as u64) as usize];
            let is_new = !drawn.iter().any(|known| known.is_at(&place));
            if is_new && is_open(&place) {
                drawn.push(place);
            }
            if drawn.len() == SAMPLE_MAX {
                return drawn;
            }
        }
        if drawn.len() > SAMPLE_MAX / 2 {
            return drawn;
        }
        drawn.clear(); // few are open: look at all
    }
    // Reservoir sampling (Vitter 1985, algorithm R).
    for (seen, place) in places.iter().filter(|place| is_open(place)).enumerate() {
        if drawn.len() < SAMPLE_MAX {
            drawn.push(*place);
        } else if let Some(slot) = drawn.get_mut(chance.below(seen as u64 + 1) as usize) {
            *slot = *place;
        }
    }
    drawn
}

/// Why nobody can take the query: the reason that a caller can do most about.
fn why_none(view: &View, model: &ModelView<'_>, query: &Query<'_>, now: Instant) -> NoRoute {
    let all = || model.holders.iter().chain(model.storers);
    let runs: Vec<_> = all().filter(|holding| runs_in(holding, query.numerics)).collect();
    if runs.is_empty() {
        return NoRoute::Numerics;
    }
    let roomy = runs.iter().filter(|holding| holding.is_held() || fits(view, holding));
    let standings: Vec<_> = roomy
        .map(|holding| {
            let node = view.node(holding.slot);
            (query.excluded.contains(&node.id), node.standing(now))
        })
        .collect();
    if standings.is_empty() {
        let budget = |holding: &&&Holding| view.device(holding).map_or(0, |device| device.budget_bytes);
        return NoRoute::FitsNowhere {
            bytes: runs.iter().map(|holding| holding.bytes()).min().unwrap_or(0),
            budget_bytes: runs.iter().map(|holding| budget(&holding)).max().unwrap_or(0),
        };
    }
    let alive = |(_, standing): &&(bool, Standing)| *standing <= Standing::Doubted;
    if standings.iter().any(|at| at.0 && alive(&at)) {
        NoRoute::Excluded
    } else if standings.iter().all(|(_, standing)| *standing == Standing::Draining) {
        NoRoute::AllDraining
    } else {
        NoRoute::NoneAlive
    }
}
