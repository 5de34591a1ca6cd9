//! Every number of the protocol, with its reason.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// Time between two probes of one node. Every member is probed once in about this time by somebody, whatever the
/// size of the mesh (SWIM, section 3.1).
pub(super) const PROBE_PERIOD: Duration = Duration::from_millis(500);
/// Time for a direct answer before three others are asked to try: several round trips within a region.
pub(super) const PROBE_RTT: Duration = Duration::from_millis(200);
/// Members asked to probe on our behalf.
const INDIRECT_PROBES: usize = 3;
/// Time that a suspect has to refute. Long enough for two lost probes and their gossip, short enough that the
/// garbage is collected within seconds; failover does not wait for it.
const SUSPICION_MIN: Duration = Duration::from_secs(2);
/// The same in a mesh of [`SUSPICION_MEMBERS_HIGH`]: a rumour needs more rounds there, and so does its refutation.
const SUSPICION_MAX: Duration = Duration::from_secs(3);
const SUSPICION_MEMBERS_LOW: f64 = 100.0;
const SUSPICION_MEMBERS_HIGH: f64 = 1000.0;
/// How long the dead are remembered: until then nobody believes an old rumour about them, and they are asked
/// whether they live. A partition that lasts no longer than this heals without seeds.
pub const REMOVE_DOWN_AFTER: Duration = Duration::from_secs(3600);
/// Bytes of a datagram: QUIC's smallest path (1200, RFC 9000 section 14) less its headers and tag.
pub const DATAGRAM_BYTES_MAX: usize = 1150;
/// Members known at once, dead ones included: eight cells of 512. Beyond it, rumours about unknown nodes are not
/// believed.
pub(super) const MEMBERS_MAX: usize = 4096;
/// Datagrams that wait to be polled. Beyond it the newest is dropped, as the network would.
pub(super) const TRANSMITS_MAX: usize = 1024;
/// Seeds that are used; further ones are not.
pub(super) const SEEDS_MAX: usize = 64;

/// Suspicion and its end have no notification in foca: all members are read this long after there was reason for one; a
/// suspicion that is refuted by then is told to nobody ...
pub(super) const SUSPICION_SHOWS_AFTER: Duration = Duration::from_millis(500);
/// ... and this often, should there be reasons that we do not see.
pub(super) const ROSTER_PERIOD: Duration = Duration::from_secs(5);
/// A timer that fires later than this says that we were stopped or starved: as long as a whole probe.
pub(super) const LATE_MAX: Duration = PROBE_RTT;
/// After being late: time to read what arrived meanwhile, and to dial those who closed their connection, before anything is
/// concluded from silence.
pub(super) const LATE_GRACE: Duration = Duration::from_millis(500);

/// Announcements after a start or a renewal: one may be lost, and each answer lists only what fits a datagram.
pub(super) const JOIN_ROUNDS: u32 = 4;
/// Time between two of them, and between tries to find anybody while alone ...
pub(super) const JOIN_PERIOD: Duration = Duration::from_millis(500);
/// ... which double up to this.
pub(super) const JOIN_PERIOD_MAX: Duration = Duration::from_secs(5);
/// Peers that get each announcement.
pub(super) const JOIN_FANOUT: usize = 8;
/// After a partition everybody renews at once. A moment later the others are renewed as well, and one announcement
/// reaches them under their new generation.
pub(super) const REJOIN_AFTER: Duration = Duration::from_millis(100);
/// A member with company still offers its seeds for dialing, one at a time this often: where both sides of a long
/// partition forgot each other, only the seeds lead back.
pub(super) const SEED_PERIOD: Duration = Duration::from_secs(60);

/// Between two renewals at least, so that two processes with one key do not argue at the speed of the network.
pub(super) const RENEW_PERIOD_MIN: Duration = Duration::from_millis(100);
/// Renewals closer together than this double their step: a clock that was set back leaves a node with generations
/// below its former life's, and nobody tells it by how much.
pub(super) const RENEW_RECENT: Duration = Duration::from_secs(10);
/// A generation further ahead of our own clock (in milliseconds: a year) is refused. Without a bound one lie about a
/// node, at the largest generation there is, would keep it out for good.
pub(super) const GENERATION_AHEAD_MAX: u64 = 365 * 24 * 3600 * 1000;
/// Generations are milliseconds since 1970 in 48 bits, which lasts until the year 10889.
pub const GENERATION_MAX: u64 = (1 << 48) - 1;

const GOSSIP_PERIOD: Duration = Duration::from_millis(200);
const GOSSIP_FANOUT: usize = 3;
/// Times that a change is passed on: 4 log10(N + 1) reach everybody with high probability (SWIM, section 4.1) ...
const TRANSMISSIONS_FACTOR: f64 = 4.0;
/// ... but a small mesh on a lossy network needs more than that gives.
const TRANSMISSIONS_MIN: u8 = 6;
/// Asks one member for more names: repairs what gossip lost.
const ANNOUNCE_PERIOD: Duration = Duration::from_secs(30);
/// Asks two of the dead whether they live, which heals partitions. A node does so every N/4 s, so that a mesh does it
/// about eight times a second at any size, and no node dials corpses all day.
const ANNOUNCE_DOWN_PERIOD_MIN: Duration = Duration::from_secs(2);
const ANNOUNCE_DOWN_PERIOD_MAX: Duration = Duration::from_secs(30);
const ANNOUNCE_DOWN_FANOUT: usize = 2;

const ONE: NonZeroUsize = NonZeroUsize::MIN;

/// The protocol's parameters for a mesh of about `members`.
pub(super) fn config(members: usize) -> foca::Config {
    let size = f64::from(u32::try_from(members.max(1)).unwrap_or(u32::MAX));
    let decades = (SUSPICION_MEMBERS_HIGH / SUSPICION_MEMBERS_LOW).log10();
    let grown = ((size / SUSPICION_MEMBERS_LOW).log10() / decades).clamp(0.0, 1.0);
    // At most 4 log10(2^32) = 39, so the conversion loses the fraction only.
    let transmissions = ((size + 1.0).log10() * TRANSMISSIONS_FACTOR) as u8;
    let announce_down = Duration::from_millis(250).saturating_mul(size as u32);
    let periodic = |frequency, members| {
        Some(foca::PeriodicParams { frequency, num_members: NonZeroUsize::new(members).unwrap_or(ONE) })
    };
    foca::Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: NonZeroUsize::new(INDIRECT_PROBES).unwrap_or(ONE),
        max_transmissions: NonZeroU8::new(transmissions.max(TRANSMISSIONS_MIN)).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: SUSPICION_MIN + (SUSPICION_MAX - SUSPICION_MIN).mul_f64(grown),
        remove_down_after: Some(REMOVE_DOWN_AFTER),
        max_packet_size: NonZeroUsize::new(DATAGRAM_BYTES_MAX).unwrap_or(ONE),
        notify_down_members: true,
        periodic_announce: periodic(ANNOUNCE_PERIOD, 1),
        periodic_announce_to_down_members: periodic(
            announce_down.clamp(ANNOUNCE_DOWN_PERIOD_MIN, ANNOUNCE_DOWN_PERIOD_MAX),
            ANNOUNCE_DOWN_FANOUT,
        ),
        periodic_gossip: periodic(GOSSIP_PERIOD, GOSSIP_FANOUT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspicion_and_gossip_grow_with_the_mesh() {
        let of = |members| {
            let config = config(members);
            (config.suspect_to_down_after.as_millis(), config.max_transmissions.get())
        };
        assert_eq!(of(0), (2000, 6));
        assert_eq!(of(100), (2000, 8));
        assert_eq!(of(512), (2709, 10));
        assert_eq!(of(1000), (3000, 12));
        assert_eq!(of(usize::MAX), (3000, 38));
    }
}
