//! What nodes tell each other: slow facts, written by their owner only, and load, asked for by datagram.

use rkyv::{Archive, Deserialize, Serialize};

use crate::header::Kind;
use crate::ids::{DeviceIndex, NodeId};
use crate::limits::{
    ADDRESS_BYTES_MAX, FACTS_ADDRESSES_MAX, FACTS_ALIASES_MAX, FACTS_DEVICES_MAX, FACTS_DIGEST_MAX,
    FACTS_MODELS_MAX, MODEL_NAME_BYTES_MAX,
};
use crate::message::rule;
use crate::message::status::{LoadRecord, ModelState};
use crate::message::task::Numerics;
use crate::units::{Bytes, Micros};
use crate::wire::{DecodeError, wire_message};

/// Where one model stands on one device of the record's owner. A model that the node could load is
/// [`ModelState::Stored`]; a model that it does not have is not listed.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ModelFact {
    /// Canonical name.
    pub name: String,
    /// Other names that reach it here.
    pub aliases: Vec<String>,
    /// The device.
    pub device: DeviceIndex,
    /// Where it stands.
    pub state: ModelState,
    /// The precision in which it runs there.
    pub numerics: Numerics,
    /// Resident bytes: measured once it was ready, estimated from its files before.
    pub bytes: Bytes,
    /// Time of a load from disk: measured once it was loaded, estimated before.
    pub load_us: Micros,
}

/// A device of the record's owner.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DeviceFact {
    /// Position in the owner's list.
    pub device: DeviceIndex,
    /// For example `cpu avx512-bf16`.
    pub name: String,
    /// The residency budget.
    pub budget_bytes: Bytes,
    /// Measured speed of its reference model, never a datasheet's.
    pub tokens_per_s: u32,
}

/// Everything slow about one node. Only the node itself writes it; (generation, version) orders its states.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// The owner.
    pub node: NodeId,
    /// Rises with every start of the owner.
    pub generation: u64,
    /// Rises with every change within a generation, from 1.
    pub version: u64,
    /// Where members reach it (`host:port`, in order of preference).
    pub peer_addresses: Vec<String>,
    /// Where clients reach it.
    pub client_addresses: Vec<String>,
    /// Whether it takes no new work because it is leaving.
    pub draining: bool,
    /// Its devices, by index.
    pub devices: Vec<DeviceFact>,
    /// Its models, by name and device.
    pub models: Vec<ModelFact>,
}

wire_message!(NodeFacts, Kind::Facts);

/// Names one [`ModelFact`] of a record.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelFactKey {
    /// Canonical name.
    pub name: String,
    /// The device.
    pub device: DeviceIndex,
}

/// The difference between two versions of a record. It applies only to `base_version` of the same generation; a
/// receiver that holds another asks for the whole record ([`FactsPull`]).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FactsDelta {
    /// The owner.
    pub node: NodeId,
    /// Its generation.
    pub generation: u64,
    /// The version that this changes.
    pub base_version: u64,
    /// The version that results.
    pub version: u64,
    /// The new value of `draining`, if it changed.
    pub draining: Option<bool>,
    /// Devices added or changed.
    pub devices_set: Vec<DeviceFact>,
    /// Devices gone.
    pub devices_unset: Vec<DeviceIndex>,
    /// Models added or changed.
    pub models_set: Vec<ModelFact>,
    /// Models gone.
    pub models_unset: Vec<ModelFactKey>,
}

wire_message!(FactsDelta, Kind::FactsDelta);

/// Which state of a node's record somebody holds.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FactsVersion {
    /// Whose record.
    pub node: NodeId,
    /// Its generation.
    pub generation: u64,
    /// Its version.
    pub version: u64,
}

/// What the sender holds of everybody. Between members a hint only: who finds itself behind pulls the record from its
/// owner, because nobody speaks for another node's facts. To a follower (a client) it is the list of who is there.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FactsDigest {
    /// One entry a node, by node.
    pub entries: Vec<FactsVersion>,
    /// Whether this answers a digest: it lists only what the receiver lacks, and is not answered.
    pub answer: bool,
}

wire_message!(FactsDigest, Kind::FactsDigest);

/// Asks for a whole record: a member asks its owner, a follower the node that it follows.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactsPull {
    /// Whose record, and what the sender holds of it (version 0: nothing).
    pub have: FactsVersion,
}

wire_message!(FactsPull, Kind::FactsPull);

/// Asks a device for its load now. Travels as a datagram: a lost one is a node that is not in the sample.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LoadProbe {
    /// Comes back in the reply.
    pub nonce: u64,
    /// Which device.
    pub device: DeviceIndex,
    /// The model that the caller wants; the reply says where it stands.
    pub model: String,
}

wire_message!(LoadProbe, Kind::LoadProbe);

/// The answer to a [`LoadProbe`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadReply {
    /// From the probe.
    pub nonce: u64,
    /// The load at the moment of the answer.
    pub load: LoadRecord,
    /// Where the model stands on the device now; `None` where the node does not have it.
    pub model: Option<ModelState>,
    /// While the model loads: time until it is ready.
    pub ready_in_us: Micros,
}

wire_message!(LoadReply, Kind::LoadReply);

/// Asks a member to load a model: a holder that wants help, or one that leaves. There is no answer: whether it loads is in
/// its owner's facts, and an owner that has no room, or leaves itself, does nothing.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LoadRequest {
    /// Canonical name.
    pub model: String,
    /// On which device of the receiver.
    pub device: DeviceIndex,
}

wire_message!(LoadRequest, Kind::LoadRequest);

fn check_entries(kind: Kind, devices: &[DeviceFact], models: &[ModelFact]) -> Result<(), DecodeError> {
    let name = |name: &String| name.len() <= MODEL_NAME_BYTES_MAX;
    rule(kind, devices.len() <= FACTS_DEVICES_MAX, "too many devices")?;
    rule(kind, devices.iter().all(|device| name(&device.name)), "device name too long")?;
    rule(kind, models.len() <= FACTS_MODELS_MAX, "too many models")?;
    rule(kind, models.iter().all(|model| name(&model.name)), "model name too long")?;
    let aliases =
        |model: &ModelFact| model.aliases.len() <= FACTS_ALIASES_MAX && model.aliases.iter().all(name);
    rule(kind, models.iter().all(aliases), "too many aliases, or one too long")
}

impl NodeFacts {
    /// The limits that the archive's validation does not know.
    ///
    /// # Errors
    /// [`DecodeError::Limit`] with the rule that is broken.
    pub fn check(&self) -> Result<(), DecodeError> {
        let kind = Kind::Facts;
        for addresses in [&self.peer_addresses, &self.client_addresses] {
            rule(kind, addresses.len() <= FACTS_ADDRESSES_MAX, "too many addresses")?;
            let short = addresses.iter().all(|address| address.len() <= ADDRESS_BYTES_MAX);
            rule(kind, short, "address too long")?;
        }
        check_entries(kind, &self.devices, &self.models)
    }
}

impl FactsDelta {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let kind = Kind::FactsDelta;
        rule(kind, self.version > self.base_version, "a delta that does not go forward")?;
        rule(kind, self.devices_unset.len() <= FACTS_DEVICES_MAX, "too many devices")?;
        rule(kind, self.models_unset.len() <= FACTS_MODELS_MAX, "too many models")?;
        check_entries(kind, &self.devices_set, &self.models_set)
    }
}

impl FactsDigest {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        rule(Kind::FactsDigest, self.entries.len() <= FACTS_DIGEST_MAX, "too many entries")
    }
}

impl LoadProbe {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        rule(Kind::LoadProbe, self.model.len() <= MODEL_NAME_BYTES_MAX, "model name too long")
    }
}

impl LoadRequest {
    /// The limits that the archive's validation does not know.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        rule(Kind::LoadRequest, self.model.len() <= MODEL_NAME_BYTES_MAX, "model name too long")
    }
}
