//! How often one source may knock: a bounded table of rate limits. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Connections of one source in the long run: one in this time.
const INTERVAL: Duration = Duration::from_millis(250);
/// Connections of one source at once: a rack that starts together behind one address.
const BURST: u32 = 32;
/// A refused request costs its source as much as this many connections: guessing is slow.
const REFUSED_COST: u32 = 8;
/// Sources remembered. When so many are active, those beyond share one limit.
const SOURCES_MAX: usize = 4096;

/// The generic cell rate algorithm (ITU-T I.371) for each source: the time at which its credit is whole again.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    whole_at: BTreeMap<IpAddr, Instant>,
    /// Of all sources for which there is no place.
    others_whole_at: Option<Instant>,
    /// When a full table is looked through again for sources to forget.
    sweep_at: Option<Instant>,
}

impl Sources {
    /// A source wants to connect; says whether it may.
    pub(crate) fn handle_connection(&mut self, source: IpAddr, now: Instant) -> bool {
        let whole_at = self.entry(source, now);
        let may = whole_at.saturating_duration_since(now) <= INTERVAL * (BURST - 1);
        if may {
            *whole_at = (*whole_at).max(now) + INTERVAL;
        }
        may
    }

    /// A request of the source was refused.
    pub(super) fn handle_refusal(&mut self, source: IpAddr, now: Instant) {
        let whole_at = self.entry(source, now);
        *whole_at = (*whole_at).max(now) + INTERVAL * (REFUSED_COST - 1);
    }

    fn entry(&mut self, source: IpAddr, now: Instant) -> &mut Instant {
        let source = network(source);
        if self.whole_at.len() >= SOURCES_MAX && !self.whole_at.contains_key(&source) {
            if self.sweep_at.is_none_or(|at| now >= at) {
                self.whole_at.retain(|_, whole_at| *whole_at > now);
                self.sweep_at = Some(now + INTERVAL);
            }
            if self.whole_at.len() >= SOURCES_MAX {
                return self.others_whole_at.get_or_insert(now);
            }
        }
        self.whole_at.entry(source).or_insert(now)
    }
}

/// An IPv6 host has a /64 of addresses to come from.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[expect(clippy::disallowed_methods, reason = "any instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_source_has_a_burst_and_then_a_rate() {
        let (mut sources, now) = (Sources::default(), start());
        let passed = (0..1000).filter(|_| sources.handle_connection(v4(1), now)).count();
        assert_eq!(passed, BURST as usize);
        assert!(sources.handle_connection(v4(2), now), "others are not touched");
        let later = now + 10 * INTERVAL;
        assert_eq!((0..1000).filter(|_| sources.handle_connection(v4(1), later)).count(), 10);
    }

    #[test]
    fn refused_requests_cost_more() {
        let (mut sources, now) = (Sources::default(), start());
        let mut passed = 0;
        while sources.handle_connection(v4(1), now) {
            sources.handle_refusal(v4(1), now);
            passed += 1;
        }
        assert_eq!(passed, BURST.div_ceil(REFUSED_COST));
    }

    #[test]
    fn a_network_is_one_source() {
        let (mut sources, now) = (Sources::default(), start());
        let host = |number: u128| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | number));
        let passed = (0..1000).filter(|number| sources.handle_connection(host(*number), now)).count();
        assert_eq!(passed, BURST as usize);
        let mapped = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        assert_eq!(network(mapped.into()), IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_idle() {
        let (mut sources, now) = (Sources::default(), start());
        let passed = (0..100_000).filter(|number| sources.handle_connection(v4(*number), now)).count();
        assert_eq!(sources.whole_at.len(), SOURCES_MAX);
        assert_eq!(passed, SOURCES_MAX + BURST as usize, "those beyond share one limit");
        let later = now + INTERVAL;
        assert!(sources.handle_connection(v4(200_000), later));
        assert_eq!(sources.whole_at.len(), 1);
    }
}
