//! When a member's certificate is renewed, and whom to ask: at half of its life, so that an outage of every issuer
//! for the other half harms nobody.

/// From when until when a certificate is valid, in seconds since the Unix epoch: certificates live in wall time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Not before this.
    pub from_unix_s: u64,
    /// Not after this.
    pub until_unix_s: u64,
}

impl Lease {
    /// When half of it is over.
    #[must_use]
    pub const fn half_unix_s(self) -> u64 {
        self.from_unix_s + self.life_s() / 2
    }

    const fn life_s(self) -> u64 {
        self.until_unix_s.saturating_sub(self.from_unix_s)
    }
}

/// How a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Valid, and nothing went wrong.
    Good,
    /// Valid, but no issuer renews it. The member works until it expires.
    Unrenewed {
        /// Requests that failed since the last certificate.
        failures: u32,
        /// When it expires.
        until_unix_s: u64,
    },
    /// No longer valid: new connections are refused, and only a new token helps.
    Expired {
        /// Since when.
        since_unix_s: u64,
    },
}

/// Members that were started together would ask together: each adds up to a tenth of the life.
const JITTER_SHARE: u64 = 10;
/// Wait after a round in which every issuer failed; doubled with every further round.
const RETRY_MIN_S: u64 = 10;
const RETRY_MAX_S: u64 = 600;
/// However long the wait, this many rounds fit into what is left of the life.
const ROUNDS_LEFT: u64 = 8;

/// Decides when to ask which issuer. Events: [`handle_granted`](Self::handle_granted),
/// [`handle_failed`](Self::handle_failed). Output: [`poll_request`](Self::poll_request), due at
/// [`poll_timeout`](Self::poll_timeout). Time is wall time; `chance` is uniform over all of `u64`.
#[derive(Clone, Debug)]
pub struct Renewal {
    lease: Lease,
    issuers: usize,
    /// The next issuer to ask.
    next: usize,
    due_unix_s: u64,
    /// A request is under way.
    asking: bool,
    /// Since the last certificate.
    failures: u32,
}

impl Renewal {
    /// For a certificate that `issuers` issuers may renew, in the order in which they are asked.
    #[must_use]
    pub fn new(lease: Lease, issuers: usize, chance: u64) -> Self {
        Self { lease, issuers, next: 0, due_unix_s: due(lease, chance), asking: false, failures: 0 }
    }

    /// The issuer to ask now, if one is due. An answer must follow.
    pub fn poll_request(&mut self, now_unix_s: u64) -> Option<usize> {
        let is_valid = now_unix_s < self.lease.until_unix_s;
        let is_due = is_valid && !self.asking && self.issuers > 0 && now_unix_s >= self.due_unix_s;
        self.asking |= is_due;
        is_due.then_some(self.next)
    }

    /// The issuer gave a certificate. It stays the first to ask.
    pub fn handle_granted(&mut self, lease: Lease, chance: u64) {
        *self = Self { next: self.next, ..Self::new(lease, self.issuers, chance) };
    }

    /// The issuer gave none: the next is asked at once, and after a whole round of failures there is a pause.
    pub fn handle_failed(&mut self, now_unix_s: u64, chance: u64) {
        self.asking = false;
        self.failures = self.failures.saturating_add(1);
        self.next = (self.next + 1) % self.issuers.max(1);
        let asked = u32::try_from(self.issuers.max(1)).unwrap_or(u32::MAX);
        if !self.failures.is_multiple_of(asked) {
            return;
        }
        let rounds = (self.failures / asked).min(16);
        let left = self.lease.until_unix_s.saturating_sub(now_unix_s);
        let wait = (RETRY_MIN_S << (rounds - 1)).min(RETRY_MAX_S).min(left / ROUNDS_LEFT).max(1);
        self.due_unix_s = now_unix_s + wait + chance % (wait / 2 + 1);
    }

    /// When to poll again, and why; `None` while an issuer is being asked, and once nothing can be done.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(u64, &'static str)> {
        if self.asking || self.issuers == 0 || self.due_unix_s >= self.lease.until_unix_s {
            return None;
        }
        let why =
            if self.failures > 0 { "ask for a certificate again" } else { "half of the certificate's life" };
        Some((self.due_unix_s, why))
    }

    /// How the certificate stands.
    #[must_use]
    pub fn standing(&self, now_unix_s: u64) -> Standing {
        let Lease { until_unix_s, .. } = self.lease;
        let is_late = self.failures > 0 || (self.issuers == 0 && now_unix_s >= self.lease.half_unix_s());
        if now_unix_s >= until_unix_s {
            Standing::Expired { since_unix_s: until_unix_s }
        } else if is_late {
            Standing::Unrenewed { failures: self.failures, until_unix_s }
        } else {
            Standing::Good
        }
    }
}

fn due(lease: Lease, chance: u64) -> u64 {
    lease.half_unix_s() + chance % (lease.life_s() / JITTER_SHARE + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;
    const LEASE: Lease = Lease { from_unix_s: 1_000_000, until_unix_s: 1_000_000 + DAY };

    #[test]
    fn half_of_the_life_with_jitter_is_when_members_ask() {
        for chance in [0, 1, u64::MAX / 2, u64::MAX] {
            let mut renewal = Renewal::new(LEASE, 2, chance);
            let (due, _) = renewal.poll_timeout().expect("will ask");
            assert!((LEASE.half_unix_s()..=LEASE.half_unix_s() + DAY / 10).contains(&due));
            assert_eq!(renewal.poll_request(due - 1), None);
            assert_eq!(renewal.poll_request(due), Some(0));
            assert_eq!(renewal.poll_request(due), None, "one at a time");
            let next = Lease { from_unix_s: due, until_unix_s: due + DAY };
            renewal.handle_granted(next, chance);
            assert_eq!(renewal.standing(due), Standing::Good);
            assert!(renewal.poll_timeout().expect("again").0 >= next.half_unix_s());
        }
        let (early, late) = (Renewal::new(LEASE, 1, 0), Renewal::new(LEASE, 1, DAY / 10));
        assert_ne!(early.poll_timeout(), late.poll_timeout());
    }

    #[test]
    fn issuers_are_asked_in_turn_and_the_one_that_answered_again() {
        let mut renewal = Renewal::new(LEASE, 3, 0);
        let now = LEASE.half_unix_s();
        assert_eq!(renewal.poll_request(now), Some(0));
        renewal.handle_failed(now, 0);
        assert_eq!(renewal.poll_request(now), Some(1), "the next at once");
        let until_unix_s = LEASE.until_unix_s;
        assert_eq!(renewal.standing(now), Standing::Unrenewed { failures: 1, until_unix_s });
        let next = Lease { from_unix_s: now, until_unix_s: now + DAY };
        renewal.handle_granted(next, 0);
        assert_eq!(renewal.poll_request(next.half_unix_s()), Some(1));
    }

    /// Every issuer down from half-life on: asked with growing pauses until the end, and never in a tight loop.
    #[test]
    fn an_outage_is_told_and_outlived_until_the_certificate_expires() {
        let mut renewal = Renewal::new(LEASE, 2, 0);
        let (mut asked, mut last) = (0, 0);
        while let Some((due, _)) = renewal.poll_timeout() {
            assert!(due >= last, "time goes forward");
            last = due;
            assert!(renewal.poll_request(due).is_some());
            renewal.handle_failed(due, asked);
            asked += 1;
        }
        assert!((100..400).contains(&asked), "{asked} requests in twelve hours");
        assert!(last > LEASE.until_unix_s - 60, "to the end: {last}");
        assert!(matches!(renewal.standing(last), Standing::Unrenewed { .. }));
        let since_unix_s = LEASE.until_unix_s;
        assert_eq!(renewal.standing(since_unix_s), Standing::Expired { since_unix_s });
        assert_eq!(renewal.poll_request(since_unix_s), None, "nobody renews an expired certificate");
    }

    #[test]
    fn a_clock_that_jumps_asks_at_once_or_waits() {
        let mut renewal = Renewal::new(LEASE, 1, 0);
        assert_eq!(renewal.poll_request(LEASE.until_unix_s - 1), Some(0), "slept through half of it");
        let mut renewal = Renewal::new(LEASE, 1, 0);
        assert_eq!(renewal.poll_request(0), None);
        assert_eq!(renewal.standing(0), Standing::Good);
    }

    #[test]
    fn without_an_issuer_it_only_warns() {
        let mut renewal = Renewal::new(LEASE, 0, 0);
        assert_eq!((renewal.poll_timeout(), renewal.poll_request(LEASE.half_unix_s())), (None, None));
        assert_eq!(renewal.standing(LEASE.half_unix_s() - 1), Standing::Good);
        let until_unix_s = LEASE.until_unix_s;
        let standing = renewal.standing(LEASE.half_unix_s());
        assert_eq!(standing, Standing::Unrenewed { failures: 0, until_unix_s });
    }
}
