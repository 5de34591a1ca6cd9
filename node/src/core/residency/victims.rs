//! Which models go when another needs their bytes.

use std::time::Instant;

use super::super::ids::ModelKey;

/// A resident model that is not pinned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) key: ModelKey,
    pub(super) bytes: u64,
    /// End of its minimum residency.
    pub(super) evictable_at: Instant,
    /// Whether requests wait for it or run on it: to evict it is to load it again for certain.
    pub(super) in_use: bool,
    /// Whether others hold it as well: who wants it next need not wait for a load.
    pub(super) is_spare: bool,
    /// Expected cost of its absence: time of a reload x rate of requests.
    pub(super) cost: f64,
    pub(super) last_used: Instant,
}

impl Candidate {
    fn cost_per_byte(&self) -> f64 {
        self.cost / self.bytes.max(1) as f64
    }
}

/// The models to evict so that at least `bytes` come free: unused before used, then those that others hold, then the
/// cheapest per byte, then least recently used; a victim that the others make superfluous is spared, the dearest first.
///
/// # Errors
/// When to ask again: enough bytes will then have passed their minimum residency. `None` if all of them together
/// would not do.
pub(super) fn choose_victims(
    candidates: &[Candidate],
    bytes: u64,
    now: Instant,
) -> Result<Vec<ModelKey>, Option<Instant>> {
    let mut evictable: Vec<&Candidate> =
        candidates.iter().filter(|model| model.evictable_at <= now).collect();
    evictable.sort_by(|a, b| {
        a.in_use
            .cmp(&b.in_use)
            .then(b.is_spare.cmp(&a.is_spare))
            .then(a.cost_per_byte().total_cmp(&b.cost_per_byte()))
            .then(a.last_used.cmp(&b.last_used))
    });
    let mut freed = 0;
    let mut chosen = Vec::new();
    for model in evictable {
        if freed >= bytes {
            break;
        }
        freed += model.bytes;
        chosen.push(model);
    }
    if freed < bytes {
        return Err(enough_at(candidates, bytes));
    }
    for at in (0..chosen.len()).rev() {
        if freed - chosen[at].bytes >= bytes {
            freed -= chosen.remove(at).bytes;
        }
    }
    Ok(chosen.into_iter().map(|model| model.key).collect())
}

/// When the minimum residency of enough models will be over.
fn enough_at(candidates: &[Candidate], bytes: u64) -> Option<Instant> {
    let mut by_time: Vec<(Instant, u64)> =
        candidates.iter().map(|model| (model.evictable_at, model.bytes)).collect();
    by_time.sort_unstable();
    let mut freed = 0;
    by_time.into_iter().find_map(|(at, held)| {
        freed += held;
        (freed >= bytes).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::testing::origin;
    use super::*;

    fn candidate(key: u32, bytes: u64, cost: f64, now: Instant) -> Candidate {
        Candidate {
            key: ModelKey(key),
            bytes,
            evictable_at: now,
            in_use: false,
            is_spare: false,
            cost,
            last_used: now,
        }
    }

    fn keys(chosen: Result<Vec<ModelKey>, Option<Instant>>) -> Vec<u32> {
        chosen.expect("enough").into_iter().map(|key| key.0).collect()
    }

    #[test]
    fn the_cheapest_per_byte_goes_and_no_more_than_needed() {
        let now = origin();
        // 0 and 1 are the cheapest per byte, but 1 alone is enough.
        let models =
            [candidate(0, 100, 1.0, now), candidate(1, 500, 10.0, now), candidate(2, 500, 100.0, now)];
        assert_eq!(keys(choose_victims(&models, 450, now)), [1]);
        assert_eq!(keys(choose_victims(&models, 100, now)), [0]);
        assert_eq!(keys(choose_victims(&models, 600, now)), [0, 1]);
    }

    #[test]
    fn ties_fall_on_the_least_recently_used_and_used_models_go_last() {
        let now = origin();
        let mut models =
            [candidate(0, 100, 0.0, now), candidate(1, 100, 0.0, now), candidate(2, 100, 9.0, now)];
        models[1].last_used = now - Duration::from_secs(1);
        assert_eq!(keys(choose_victims(&models, 50, now)), [1]);
        models[0].in_use = true;
        models[1].in_use = true;
        assert_eq!(keys(choose_victims(&models, 50, now)), [2]);
    }

    #[test]
    fn a_sole_copy_goes_after_one_that_others_hold_and_before_one_in_use() {
        let now = origin();
        let mut models =
            [candidate(0, 100, 1.0, now), candidate(1, 100, 9.0, now), candidate(2, 100, 0.0, now)];
        models[1].is_spare = true;
        (models[2].is_spare, models[2].in_use) = (true, true);
        assert_eq!(keys(choose_victims(&models, 100, now)), [1]);
        assert_eq!(keys(choose_victims(&models, 200, now)), [1, 0]);
    }

    #[test]
    fn a_wait_ends_when_enough_bytes_have_served_their_time() {
        let now = origin();
        let mut models =
            [candidate(0, 100, 0.0, now), candidate(1, 100, 0.0, now), candidate(2, 100, 0.0, now)];
        models[1].evictable_at = now + Duration::from_secs(5);
        models[2].evictable_at = now + Duration::from_secs(9);
        assert_eq!(choose_victims(&models, 200, now), Err(Some(now + Duration::from_secs(5))));
        assert_eq!(choose_victims(&models, 300, now), Err(Some(now + Duration::from_secs(9))));
        assert_eq!(choose_victims(&models, 301, now), Err(None));
    }
}
