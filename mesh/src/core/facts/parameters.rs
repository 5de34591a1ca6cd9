//! Bounds and periods, with their reasons.

use std::time::Duration;

use shoal_protocol::limits::FACTS_DIGEST_MAX;

/// Between two publications of the own record: a burst of loads and evictions travels as one change, and a router
/// hears of it before a person could notice.
pub(super) const PUBLISH_PERIOD_MIN: Duration = Duration::from_millis(100);
/// Each node compares notes with one random member this often: the bound on how long a lost change stays lost.
pub(super) const DIGEST_PERIOD: Duration = Duration::from_secs(30);
/// The same after a connection to a member was made: a partition may have healed.
pub(super) const DIGEST_SOON: Duration = Duration::from_secs(1);
/// A pull that was not answered by then may be repeated. Until then there is one a node.
pub(super) const PULL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pulls of one peer that are answered at once ...
pub(super) const PULLS_BURST: u32 = 64;
/// ... and after that one in this time; further ones are dropped, and the asker repeats them.
pub(super) const PULL_PERIOD: Duration = Duration::from_millis(100);
/// The dead are remembered for twice as long as membership remembers them: no rumour outlives that.
pub(super) const TOMBSTONE_TTL: Duration = Duration::from_secs(2 * 3600);
/// Dead lives remembered; the one nearest its end makes room for a new one.
pub(super) const TOMBSTONES_MAX: usize = 4096;
/// Nodes whose records are held, as many as a digest lists. A further node's record is refused.
pub(super) const RECORDS_MAX: usize = FACTS_DIGEST_MAX;
/// Bytes of all records together, about: 512 nodes of 64 models take 10 MB. What does not fit is refused.
pub(super) const RECORDS_BYTES_MAX: usize = 256 << 20;
/// Members that are told of changes; a further connection is refused.
pub(super) const PEERS_MAX: usize = 8192;
/// Sends that wait to be polled. Beyond it a peer is sent the own record again once there is room.
pub(super) const SENDS_MAX: usize = 4096;

const _: () = assert!(
    TOMBSTONE_TTL.as_secs() >= super::super::membership::REMOVE_DOWN_AFTER.as_secs(),
    "a rumour must not outlive the tombstone"
);
