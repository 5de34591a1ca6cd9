//! How loaded each device is: what this node tells the others, and what it heard from them. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use shoal_protocol::limits::FACTS_DEVICES_MAX;
use shoal_protocol::message::LoadRecord;
use shoal_protocol::{DeviceIndex, NodeId};

use super::interface::HeardLoad;
use crate::core::{LoadGossip, LoadSequence, load_order};

/// Loads change all the time, and whoever follows the state looks at all of it: news of loads alone waits this long. What
/// binds a choice is asked for anew anyway.
const TELL_PERIOD: Duration = Duration::from_millis(50);
/// The own load changes with every batch, and is told for those who follow this node: news of it alone waits this long.
const TELL_OWN_PERIOD: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Loads {
    pub(crate) gossip: LoadGossip,
    /// A record of each device comes every few seconds, so it is found by hash; listed in the order in which they came first.
    heard: IndexMap<(NodeId, DeviceIndex), HeardLoad, RandomState>,
    /// When what was heard is told, if there is any news.
    tell_at: Option<Instant>,
    told_at: Option<Instant>,
}

impl Loads {
    pub(super) fn new(sequence: LoadSequence, chance: u64) -> Self {
        let gossip = LoadGossip::new(sequence, chance);
        Self { gossip, heard: IndexMap::default(), tell_at: None, told_at: None }
    }

    /// A device of this node's own is loaded so now.
    pub(super) fn handle_own(&mut self, own: NodeId, record: LoadRecord, now: Instant) {
        self.gossip.handle_load(record, now);
        self.heard.insert((own, record.device), HeardLoad { record, at: now });
        self.tell_after(TELL_OWN_PERIOD, now);
    }

    /// A member told the load of one of its devices. Devices beyond those that its facts can list are not remembered.
    pub(super) fn handle_heard(&mut self, from: NodeId, record: LoadRecord, now: Instant) {
        let place = (from, record.device);
        let heard = HeardLoad { record, at: now };
        if let Some(known) = self.heard.get_mut(&place) {
            let age = now.saturating_duration_since(known.at);
            if load_order(record.sequence, known.record.sequence, age).is_le() {
                return;
            }
            *known = heard;
        } else if self.heard.keys().filter(|(node, _)| *node == from).count() < FACTS_DEVICES_MAX {
            self.heard.insert(place, heard);
        } else {
            return;
        }
        self.tell_after(TELL_PERIOD, now);
    }

    fn tell_after(&mut self, period: Duration, now: Instant) {
        let soonest = self.told_at.map_or(now, |told| (told + period).max(now));
        self.tell_at = Some(self.tell_at.map_or(soonest, |at| at.min(soonest)));
    }

    /// The node is gone, or it is another life of it from which we hear now.
    pub(super) fn handle_gone(&mut self, node: NodeId, now: Instant) {
        let known = self.heard.len();
        self.heard.retain(|(of, _), _| *of != node);
        if self.heard.len() < known {
            self.tell_at.get_or_insert(now);
        }
    }

    /// The last that was heard of each device, with whose it is.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn heard(&self) -> impl Iterator<Item = (NodeId, &HeardLoad)> {
        self.heard.iter().map(|((node, _), heard)| (*node, heard))
    }

    /// Whether it is time to tell what was heard.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.tell_at.is_some_and(|at| at <= now)
    }

    /// All that was heard, told now.
    pub(super) fn tell(&mut self, now: Instant) -> BTreeMap<(NodeId, DeviceIndex), HeardLoad> {
        (self.tell_at, self.told_at) = (None, Some(now));
        self.heard.iter().map(|(place, heard)| (*place, *heard)).collect()
    }

    /// When [`LoadGossip::handle_timeout`] or the telling is due, and why.
    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let tell = self.tell_at.map(|at| (at, "tell loads"));
        [self.gossip.poll_timeout(), tell].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}
