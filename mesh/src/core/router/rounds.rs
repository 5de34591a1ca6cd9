//! Whom to ask before a request is sent, and whether the answers so far are good enough.

use super::Query;
use super::offers::Offer;
use super::pool::Pool;

/// Holders asked in one round where the load of some was not heard of lately ...
pub(super) const PROBES_UNKNOWN: usize = 3;
/// ... and where gossip made a good shortlist: a fifth fewer probes for a p99 that is 1 % higher.
pub(super) const PROBES_KNOWN: usize = 2;
/// A load is known up to this age, in milliseconds: the period of gossip in a mesh of up to 64 nodes, and some.
const KNOWN_AGE_MS_MAX: u16 = 1500;
/// Holders asked for a long request: its run takes many times as long as a probe, so that where it runs decides the
/// slowest hundredth of all requests. It is also never bound by answers that others asked for.
pub(super) const PROBES_LONG: usize = 8;
/// Tokens from which a request is long.
pub(super) const TOKENS_LONG: u64 = 256;
/// Rounds that a request waits for at most. The second finds most of what asking all would: simulated at 85 % load, p99
/// was 333 ms with one, 322 ms with two, and 322 ms where every holder was asked.
pub(super) const ROUNDS_MAX: u8 = 2;
/// The wait at the best place so far up to which nobody else is asked, in microseconds: it is about what asking costs.
const WAIT_SHORT_US: u64 = 3_000;

/// The holders to ask next, cheapest first by what is known; nobody where the answers so far are good enough.
pub(super) fn next(
    pool: &Pool,
    model: &str,
    query: &Query<'_>,
    holders: &[Offer],
    fresh: &[Offer],
) -> Vec<Offer> {
    let rounds = query.rounds();
    let is_long = rounds == 0 && query.tokens >= TOKENS_LONG && holders.len() > 1;
    let best = fresh.iter().min_by_key(|offer| offer.total_us());
    let is_enough = match best {
        Some(best) => best.estimate.wait_us <= WAIT_SHORT_US,
        // Nobody answered in time: nobody will.
        None => rounds > 0,
    };
    if rounds >= ROUNDS_MAX || (is_enough && !is_long) {
        return Vec::new();
    }
    let is_new = |offer: &&Offer| {
        let is_known = fresh.iter().any(|answer| answer.holding.is_at(&offer.holding));
        is_long || !(is_known || (rounds > 0 && pool.was_asked(model, &offer.holding)))
    };
    let mut asked: Vec<_> = holders.iter().filter(is_new).cloned().collect();
    asked.sort_by_key(Offer::total_us);
    asked.truncate(match asked.iter().all(|offer| offer.age_ms <= KNOWN_AGE_MS_MAX) {
        _ if is_long => PROBES_LONG,
        true => PROBES_KNOWN,
        false => PROBES_UNKNOWN,
    });
    asked
}
