//! What a node tells about itself: load for routing, status for people.

use rkyv::{Archive, Deserialize, Serialize};

use crate::header::Kind;
use crate::ids::{DeviceIndex, NodeId};
use crate::message::task::Numerics;
use crate::units::{Bytes, Micros, Tokens};
use crate::wire::wire_message;

/// Load of one device at one moment: 48 bytes, sent when its class changes and as keep-alive.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadRecord {
    /// Tokens admitted and not yet in a batch.
    pub queue_tokens: u64,
    /// Finished batches since start.
    pub batches_done: u64,
    /// Estimated wait of a request that arrives now.
    pub wait_us: u64,
    /// Bytes of the residency budget that are free.
    pub free_bytes: u64,
    /// Measured speed.
    pub tokens_per_s: u32,
    /// Requests admitted and not yet answered.
    pub requests: u32,
    /// Batches on the device now.
    pub running: u16,
    /// Which device of the sender.
    pub device: DeviceIndex,
    /// 0: takes everything; 1: sheds bulk; 2: sheds everything.
    pub shed_level: u8,
    /// Whether the node takes no new work.
    pub draining: bool,
    /// Rises with the sender's time, a step in two milliseconds, so that a late record is told from a new one.
    pub sequence: u16,
}

wire_message!(LoadRecord, Kind::Load);

const _: () = assert!(size_of::<ArchivedLoadRecord>() == 48, "the load record rides in small datagrams");

/// Where a model stands on a device.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ModelState {
    /// On disk, not in memory.
    Stored = 0,
    /// Being loaded.
    Loading = 1,
    /// Ready to serve.
    Ready = 2,
    /// The last load failed.
    Failed = 3,
}

/// A model as one node sees it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ModelStatus {
    /// Canonical name.
    pub name: String,
    /// Other names that reach it.
    pub aliases: Vec<String>,
    /// Where it stands.
    pub state: ModelState,
    /// Measured resident bytes (0 unless ready).
    pub bytes: Bytes,
    /// The device that holds it.
    pub device: Option<DeviceIndex>,
    /// Whether it is never evicted.
    pub pinned: bool,
    /// The precision in which it runs here.
    pub numerics: Numerics,
    /// Tokens that it accepts in one text (0 while unknown).
    pub tokens_max: u32,
    /// Values of its vectors (0 while unknown).
    pub dims: u32,
    /// Whether its vectors may be cut to fewer values (trained with Matryoshka representation learning).
    pub matryoshka: bool,
    /// How token vectors become one: `mean`, `cls`, … (empty while unknown).
    pub pooling: String,
    /// Storage type of its weights here: `f32`, `bf16`, … (empty while unknown).
    pub dtype: String,
    /// Why it is on its device and on no other (empty while unknown, and where there is no other).
    pub placed: String,
    /// Why the last load failed.
    pub error: Option<String>,
    /// Requests answered since start.
    pub requests: u64,
    /// Tokens computed since start.
    pub tokens: u64,
}

/// A device and its gauges.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Position in the node's list.
    pub device: DeviceIndex,
    /// For example `cpu avx512-bf16`.
    pub name: String,
    /// Why this device and not a better one, behind what is wrong with it if anything is.
    pub reason: String,
    /// Whether it works; else its load and its gauges are zeros.
    pub is_up: bool,
    /// Lanes that may run at once.
    pub lanes: u16,
    /// Threads of the device in all.
    pub threads: u16,
    /// Its load now.
    pub load: LoadRecord,
    /// Its other gauges.
    pub gauges: GaugeSet,
}

/// Gauges and counters of one device, taken from the machines themselves.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GaugeSet {
    /// Bytes of text admitted and not yet answered.
    pub admitted_bytes: Bytes,
    /// The bound of `admitted_bytes`.
    pub admitted_bytes_max: Bytes,
    /// The bound of the queue.
    pub queue_tokens_max: Tokens,
    /// Age of the oldest queued item.
    pub queue_oldest_us: Micros,
    /// Bytes of resident models.
    pub resident_bytes: Bytes,
    /// The residency budget.
    pub resident_bytes_max: Bytes,
    /// Loads since start.
    pub loads: u64,
    /// Evictions since start.
    pub evictions: u64,
    /// Requests refused by admission since start.
    pub shed: u64,
    /// Requests whose caller cancelled or vanished since start.
    pub cancelled: u64,
    /// Requests dropped at their deadline since start.
    pub expired: u64,
    /// Device restarts since start.
    pub restarts: u64,
    /// Batches that ran in parts for want of device memory, since start.
    pub batches_cut: u64,
    /// Times that captured graphs were dropped for want of device memory, since start.
    pub graphs_dropped: u64,
    /// Models evicted since start because a load found no piece of memory that was large enough.
    pub memory_evictions: u64,
    /// Loads and batches refused for want of device memory, since start.
    pub memory_refusals: u64,
}

/// Latencies of one (model, operation, stage): a hdrhistogram, mergeable exactly across nodes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StageHistogram {
    /// The model.
    pub model: String,
    /// The operation: `encode`.
    pub operation: String,
    /// The stage: `tokenize`, `load`, `queue`, `compute`, `post`, `total`.
    pub stage: String,
    /// HdrHistogram V2 serialisation, values in microseconds.
    pub v2: Vec<u8>,
}

/// How a member is seen. The names are SWIM's (Das, Gupta, Motivala 2002).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MemberState {
    /// Answers, or somebody says so.
    Alive = 0,
    /// Did not answer lately: gets no new work, may still refute.
    Suspect = 1,
    /// Gone. It comes back only as a higher generation.
    Down = 2,
}

/// A member of the mesh as one node sees it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The member.
    pub node: NodeId,
    /// Rises with every start of it.
    pub generation: u64,
    /// Where members reach it.
    pub address: String,
    /// How it is seen.
    pub state: MemberState,
    /// Whether it said that it is leaving.
    pub draining: bool,
    /// Its models in memory.
    pub models_ready: u32,
}

/// Asks for [`Status`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusRequest {
    /// Whether to send histograms, the bulk of the reply.
    pub histograms: bool,
    /// The node that is asked, where the question may be forwarded to it; `None`: whoever gets it.
    pub to: Option<NodeId>,
}

wire_message!(StatusRequest, Kind::StatusRequest);

/// Asks a node to leave: it takes no new work, hands over what only it holds, finishes, and ends. For operators, and for
/// the node's own identity. Answered with its [`Status`], which says that it is draining.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainRequest {
    /// Time to finish in, where that is less than the node is configured to take.
    pub grace_us: Option<Micros>,
}

wire_message!(DrainRequest, Kind::DrainRequest);

/// A node as it sees itself.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The node.
    pub node: NodeId,
    /// Its generation.
    pub generation: u64,
    /// Software and version.
    pub software: String,
    /// Time since start.
    pub uptime_us: Micros,
    /// Whether it takes no new work.
    pub draining: bool,
    /// Whether it is warm and self-tested.
    pub ready: bool,
    /// What an operator should look at, in words; empty when all is well.
    pub warnings: Vec<String>,
    /// Its devices.
    pub devices: Vec<DeviceStatus>,
    /// The models that it knows.
    pub models: Vec<ModelStatus>,
    /// Latencies, if asked for.
    pub histograms: Vec<StageHistogram>,
    /// The members of its mesh, itself included; empty where it is none.
    pub members: Vec<MemberStatus>,
}

wire_message!(Status, Kind::Status);
