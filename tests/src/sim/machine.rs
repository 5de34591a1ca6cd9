//! How fast a simulated machine is.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use shoal::core::{BatchRun, CoreConfig};
use shoal_protocol::Bytes;

/// Resident bytes of every model.
const MODEL_BYTES: u64 = 100 << 20;
/// What a team of threads gains from each thread beyond the first, against threads with work of their own: two
/// single-thread streams beat two cooperating threads by 19 %.
const TEAM_EXPONENT: f64 = 0.75;
/// Batches and loads take up to this much more or less than they should.
const NOISE: f64 = 0.05;

/// The hardware of one node: one device.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Threads, and so lanes.
    pub threads: u16,
    /// Speed of one thread once a batch is under way.
    pub tokens_per_s: f64,
    /// What a batch costs before its first token: reading the weights.
    pub batch_fixed: Duration,
    /// Models that fit into its memory.
    pub models_resident: u16,
    /// A load from disk.
    pub load: Duration,
    /// Tokens that may wait.
    pub queue_tokens_max: u64,
}

impl Machine {
    /// Four threads that need 50 ms for a request of the usual mix, room for six models, 0.7 s to load one.
    pub const USUAL: Self = Self {
        threads: 4,
        tokens_per_s: 2400.0,
        batch_fixed: Duration::from_millis(4),
        models_resident: 6,
        load: Duration::from_millis(700),
        queue_tokens_max: 300_000,
    };

    /// The same at `1 / factor` of its speed.
    #[must_use]
    pub fn slower(self, factor: f64) -> Self {
        Self {
            tokens_per_s: self.tokens_per_s / factor,
            batch_fixed: self.batch_fixed.mul_f64(factor),
            ..self
        }
    }

    /// Time of a batch.
    pub(super) fn batch_time(&self, run: &BatchRun, chance: &mut SmallRng) -> Duration {
        self.time(f64::from(run.tokens), run.threads).mul_f64(noise(chance))
    }

    fn time(&self, tokens: f64, threads: u16) -> Duration {
        let rate = self.tokens_per_s * f64::from(threads).powf(TEAM_EXPONENT);
        self.batch_fixed + Duration::from_secs_f64(tokens / rate)
    }

    /// Time of a request that runs alone: on all threads where the device is idle, else on one.
    pub(super) fn request_time(&self, tokens: u64, is_idle: bool) -> Duration {
        self.time(tokens as f64, if is_idle { self.threads } else { 1 })
    }

    /// Time of a load.
    pub(super) fn load_time(&self, chance: &mut SmallRng) -> Duration {
        self.load.mul_f64(noise(chance))
    }

    /// Requests per second that it can do at most where each is a batch of its own: what load factors refer to.
    #[must_use]
    pub fn requests_per_s(&self, tokens_mean: f64) -> f64 {
        f64::from(self.threads) / (self.batch_fixed.as_secs_f64() + tokens_mean / self.tokens_per_s)
    }

    /// Speed of all threads, as a node would measure and publish it.
    pub(super) fn device_tokens_per_s(&self) -> u32 {
        (self.tokens_per_s * f64::from(self.threads)) as u32
    }

    pub(super) fn core_config(&self) -> CoreConfig {
        CoreConfig {
            threads: self.threads,
            resident_bytes_max: MODEL_BYTES * u64::from(self.models_resident),
            queue_tokens_max: self.queue_tokens_max,
            ..CoreConfig::default()
        }
    }
}

/// The size of every model, as estimated and as measured.
pub(super) const fn model_bytes() -> Bytes {
    Bytes(MODEL_BYTES)
}

fn noise(chance: &mut SmallRng) -> f64 {
    chance.random_range(1.0 - NOISE..1.0 + NOISE)
}
