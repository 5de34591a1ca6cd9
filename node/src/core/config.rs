//! The bounds and targets of one device.

use std::time::Duration;

use shoal_protocol::DeviceIndex;

/// Everything that a device decides by. Resolved by the shell; each field tells what a wrong value costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreConfig {
    /// Which device of the node this is; copied into its load records.
    pub device: DeviceIndex,
    /// Threads (CPU) or streams (GPU) that may compute at once, at least 1; also the number of lanes.
    /// Higher than the cores: batches slow each other down. Lower: cores idle.
    pub threads: u16,
    /// Whether these are shares of one processor: a single text may take several, and what waits is divided among those that
    /// are free. Otherwise each lane is a stream of its own: it takes as much as makes a batch, and the others what is left.
    pub shares_threads: bool,
    /// Upper bound of throughput, to share a machine. `None`: as fast as it goes.
    /// A low value makes every queue estimate longer, and admission sheds accordingly.
    pub tokens_per_s_max: Option<u32>,
    /// Time that one batch should take: the wait that an arriving request finds on a busy device.
    /// High: better throughput, worse latency. Low: small batches. Sensible: 10-50 ms.
    pub batch_target: Duration,
    /// Tokens of one batch at most, whatever the rate; bounds the workspace of a lane.
    /// A single longer item still runs, alone.
    pub batch_tokens_max: u32,
    /// Sequences of one batch at most.
    pub batch_sequences_max: u32,
    /// Tokens that may wait for a lane. High: long waits before shedding. Low: sheds in bursts.
    pub queue_tokens_max: u64,
    /// Requests admitted and not yet answered.
    pub requests_max: u32,
    /// Bytes of text admitted and not yet answered; bounds the memory that callers can take.
    pub admitted_bytes_max: u64,
    /// Budget of resident models, in bytes. Hard: a load that does not fit waits for an eviction.
    pub resident_bytes_max: u64,
    /// How long a model stays after its load, whatever else is wanted. High: a cold model waits longer for one
    /// that is in its way. Low: two models that do not fit together reload each other all the time; at zero, after
    /// every batch.
    pub residency_min: Duration,
    /// Unload a model that nobody asked for in this time. `None`: only when its bytes are needed.
    pub keep_alive: Option<Duration>,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            device: DeviceIndex(0),
            threads: 1,
            shares_threads: true,
            tokens_per_s_max: None,
            batch_target: Duration::from_millis(25),
            batch_tokens_max: 16_384,
            batch_sequences_max: 512,
            queue_tokens_max: 300_000,
            requests_max: 4096,
            admitted_bytes_max: 64 << 20,
            resident_bytes_max: 4 << 30,
            residency_min: Duration::from_secs(10),
            keep_alive: Some(Duration::from_mins(5)),
        }
    }
}
