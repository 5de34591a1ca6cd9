//! One node as seen from here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::message::{DeviceFact, LoadRecord};
use shoal_protocol::{DeviceIndex, NodeId};
use smallvec::SmallVec;

use super::doubt::Doubt;
use super::models::ModelIndex;
use crate::core::load_sequence;
use crate::core::member::{Life, MemberState};

/// Speed of a device that nobody has measured yet.
const TOKENS_PER_S_UNKNOWN: u32 = 1000;
/// Share of the time since a record by which the wait in it is shorter now, in per cent: a device works on, but what it
/// has done is made up for by what others send, all of it where it is fully loaded.
const DRAINED_PERCENT: u64 = 30;

/// The mean wait of a device follows its records by this part of the difference.
const MEAN_WAIT_PARTS: u64 = 8;

/// Whether a node may be given work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Yes.
    Good,
    /// Where nobody else has the model: it did not answer this process lately (see `doubt.rs`, as for the next).
    Quiet,
    /// Only where no other can: this process waited for it in vain a moment ago.
    Doubted,
    /// No: membership suspects it.
    Suspect,
    /// No: it is leaving.
    Draining,
    /// No: it is gone.
    Down,
}

/// The last record of a device's load, with what was sent there since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) record: LoadRecord,
    /// When it came: clocks of others are never compared.
    pub(crate) at: Instant,
    own_tokens: u64,
    own_requests: u32,
    /// The wait that its records told, in the mean over the last ones.
    pub(crate) mean_wait_us: u64,
}

impl Load {
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }

    /// The wait of a request that arrives now: what the record said, with our own sends added and a share of the time
    /// since then taken off.
    pub(crate) fn wait_us(&self, tokens_per_s: u32, now: Instant) -> u64 {
        let own_us = self.own_tokens.saturating_mul(1_000_000) / u64::from(tokens_per_s.max(1));
        let age_us = u64::try_from(self.age(now).as_micros()).unwrap_or(u64::MAX);
        self.record.wait_us.saturating_add(own_us).saturating_sub(age_us / 100 * DRAINED_PERCENT)
    }

    /// Requests in flight there, ours since the record included.
    pub(crate) fn requests(&self) -> u32 {
        self.record.requests.saturating_add(self.own_requests)
    }
}

/// A device of a node.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) index: DeviceIndex,
    pub(crate) budget_bytes: u64,
    /// As its facts say: the weight in rendezvous hashing. For estimates use [`Device::tokens_per_s`].
    pub(crate) tokens_per_s_facts: u32,
    pub(crate) load: Option<Load>,
}

impl Device {
    /// The measured speed, the newest that is known.
    pub(crate) fn tokens_per_s(&self) -> u32 {
        let measured = self.load.map_or(0, |load| load.record.tokens_per_s);
        let known = [measured, self.tokens_per_s_facts].into_iter().find(|rate| *rate > 0);
        known.unwrap_or(TOKENS_PER_S_UNKNOWN)
    }

    /// Room times speed: its weight in rendezvous hashing.
    pub(super) fn weight(&self) -> f64 {
        (self.budget_bytes as f64 / f64::from(1 << 20)).max(1.0) * f64::from(self.tokens_per_s_facts.max(1))
    }

    pub(super) fn handle_sent(&mut self, tokens: u64) {
        if let Some(load) = &mut self.load {
            load.own_tokens = load.own_tokens.saturating_add(tokens);
            load.own_requests = load.own_requests.saturating_add(1);
        }
    }
}

/// A node: one life of it. What a choice reads comes first and lies together: each choice reads two dozen nodes out of
/// hundreds, and waits for memory more than it computes.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(super) state: MemberState,
    pub(super) draining: bool,
    /// Whether it is reached through the entry node only.
    pub(super) is_indirect: bool,
    /// The least round trip of the last ones.
    round_trip: Option<Duration>,
    pub(super) doubt: Doubt,
    /// Most nodes have one.
    devices: SmallVec<[Device; 1]>,
    pub(crate) generation: u64,
    /// Of its facts; 0 while there are none.
    pub(super) version: u64,
    /// Since when it has the state.
    pub(super) since: Instant,
    /// When this process last began an attempt that is for it.
    pub(super) attempted_at: Option<Instant>,
    pub(super) client_addresses: Vec<String>,
    pub(super) listed: Listed,
}

/// What the index says of a node, so that it can be taken out again.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// In the order of their digests.
    pub(super) places: Vec<ListedFact>,
    pub(super) aliases: Vec<(Arc<str>, ModelIndex, DeviceIndex)>,
}

/// A place in the index, and a digest of the fact that put it there: as long as that stays, so does the place.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListedFact {
    pub(super) digest: u64,
    pub(super) model: ModelIndex,
    pub(super) device: DeviceIndex,
}

impl ListedFact {
    pub(super) fn at(&self) -> (ModelIndex, DeviceIndex) {
        (self.model, self.device)
    }
}

impl Node {
    pub(super) fn new(life: Life, now: Instant) -> Self {
        Self {
            id: life.node,
            generation: life.generation,
            version: 0,
            state: MemberState::Alive,
            since: now,
            draining: false,
            is_indirect: false,
            doubt: Doubt::default(),
            attempted_at: None,
            round_trip: None,
            devices: SmallVec::new(),
            client_addresses: Vec::new(),
            listed: Listed::default(),
        }
    }

    /// Whether it may be given work.
    pub(crate) fn standing(&self, now: Instant) -> Standing {
        match self.state {
            MemberState::Down => Standing::Down,
            _ if self.draining => Standing::Draining,
            MemberState::Suspect => Standing::Suspect,
            MemberState::Alive => self.doubt.standing(now),
        }
    }

    /// Whether it should be asked if it is there, beside those that are asked for a choice.
    pub(crate) fn wants_probe(&self, now: Instant) -> bool {
        self.state == MemberState::Alive && !self.is_indirect && self.doubt.wants_probe(now)
    }

    /// Whether it lives and has said what it has.
    pub(super) fn has_facts(&self) -> bool {
        self.version > 0 && self.state != MemberState::Down
    }

    /// The round trip to it; `None` while it was not measured.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    pub(crate) fn device(&self, index: DeviceIndex) -> Option<&Device> {
        self.devices.iter().find(|device| device.index == index)
    }

    pub(super) fn device_mut(&mut self, index: DeviceIndex) -> Option<&mut Device> {
        self.devices.iter_mut().find(|device| device.index == index)
    }

    /// Its share in the hash that decides who owns a model. Ids are hashes already.
    pub(super) fn hash(&self) -> u64 {
        let (low, high) = self.id.0.split_at(8);
        let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        word(low) ^ word(high).rotate_left(32)
    }

    pub(super) fn set_devices(&mut self, facts: &[DeviceFact]) {
        let loads: Vec<_> = self.devices.iter().map(|device| (device.index, device.load)).collect();
        let load = |index| loads.iter().find(|(known, _)| *known == index).and_then(|(_, load)| *load);
        let device = |fact: &DeviceFact| Device {
            index: fact.device,
            budget_bytes: fact.budget_bytes.0,
            tokens_per_s_facts: fact.tokens_per_s,
            load: load(fact.device),
        };
        self.devices = facts.iter().map(device).collect();
    }

    /// Takes a record that is newer than the last one of its device, or as new where it is the answer to a question: a
    /// repeated record says nothing, a repeated answer says that nothing changed.
    pub(super) fn set_load(&mut self, record: &LoadRecord, is_answer: bool, now: Instant) -> bool {
        let Some(device) = self.device_mut(record.device) else {
            return false;
        };
        let is_late = device.load.is_some_and(|load| {
            let order = load_sequence::order(record.sequence, load.record.sequence, load.age(now));
            order.is_lt() || (order.is_eq() && !is_answer)
        });
        if !is_late {
            let former_us = device.load.map_or(record.wait_us, |load| load.mean_wait_us);
            let mean_wait_us = former_us - former_us / MEAN_WAIT_PARTS + record.wait_us / MEAN_WAIT_PARTS;
            device.load =
                Some(Load { record: *record, at: now, own_tokens: 0, own_requests: 0, mean_wait_us });
        }
        !is_late
    }

    /// The round trip of a probe that was answered.
    pub(super) fn set_round_trip(&mut self, measured: Duration) {
        // Falls at once, rises by an eighth: the least of a path that changes slowly.
        let before = self.round_trip.unwrap_or(measured);
        self.round_trip = Some(measured.min(before + before / 8 + Duration::from_micros(1)));
    }

    /// Empties it; what the index says of it must be taken out by the caller.
    pub(super) fn clear(&mut self) -> Listed {
        self.version = 0;
        self.devices.clear();
        self.client_addresses = Vec::new();
        std::mem::take(&mut self.listed)
    }
}
