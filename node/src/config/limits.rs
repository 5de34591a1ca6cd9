//! Every number of the configuration: its key, its default and its range.

use std::time::Duration;

use super::error::ConfigError;
use super::raw::Field;
use super::source::Source;

/// A number and the values that it may take.
pub(super) struct Limit {
    key: &'static str,
    default: u64,
    min: u64,
    max: u64,
}

const fn limit(key: &'static str, default: u64, min: u64, max: u64) -> Limit {
    Limit { key, default, min, max }
}

pub(super) const DRAIN_S: Limit = limit("node.drain_s", 20, 0, 600);

pub(super) const HTTP_CONNECTIONS_MAX: Limit = limit("http.connections_max", 1024, 1, 65_536);
pub(super) const HTTP_REQUESTS_MAX: Limit = limit("http.requests_max", 512, 1, 65_536);
pub(super) const REQUEST_TOKENS_MAX: Limit = limit("http.request_tokens_max", 300_000, 1, 1 << 32);
pub(super) const BODY_BYTES_MAX: Limit = limit("http.body_bytes_max", 16 << 20, 1024, 1 << 30);
pub(super) const DEADLINE_MS: Limit = limit("http.deadline_ms", 30_000, 1, 3_600_000);

pub(super) const QUIC_CONNECTIONS_MAX: Limit = limit("quic.connections_max", 1024, 1, 65_536);
pub(super) const STREAMS_MAX: Limit = limit("quic.streams_max", 256, 1, 4096);

pub(super) const THREADS: Limit = limit("device.threads", 0, 0, 1024);
pub(super) const TOKENIZER_THREADS: Limit = limit("device.tokenizer_threads", 0, 0, 256);
pub(super) const TOKENS_PER_S_MAX: Limit = limit("device.tokens_per_s_max", 0, 0, 1 << 30);
pub(super) const RESIDENT_BYTES_MAX: Limit = limit("device.resident_bytes_max", 0, 0, 1 << 50);
pub(super) const QUEUE_TOKENS_MAX: Limit = limit("device.queue_tokens_max", 524_288, 1024, 1 << 32);
pub(super) const REQUESTS_MAX: Limit = limit("device.requests_max", 4096, 1, 1 << 20);
pub(super) const ADMITTED_BYTES_MAX: Limit = limit("device.admitted_bytes_max", 32 << 20, 64 << 10, 1 << 36);
pub(super) const BATCH_TARGET_US: Limit = limit("device.batch_target_us", 30_000, 1000, 10_000_000);
pub(super) const BATCH_TOKENS_MAX: Limit = limit("device.batch_tokens_max", 2048, 16, 1 << 20);
pub(super) const BATCH_SEQUENCES_MAX: Limit = limit("device.batch_sequences_max", 512, 1, 1 << 16);
pub(super) const KEEP_ALIVE_S: Limit = limit("device.keep_alive_s", 3600, 0, 365 * 24 * 3600);
pub(super) const RESIDENCY_MIN_S: Limit = limit("device.residency_min_s", 5, 0, 86_400);

pub(super) const GPU_MEMORY_BYTES: Limit = limit("gpu.memory_bytes", 0, 0, 1 << 50);
pub(super) const GPU_BATCH_BYTES: Limit = limit("gpu.batch_bytes", 0, 0, 1 << 50);
pub(super) const GPU_BATCH_TOKENS_MAX: Limit = limit("gpu.batch_tokens_max", 16_384, 16, 1 << 20);

impl Limit {
    /// The file's value, checked, or the default.
    pub(super) fn of(&self, source: &Source, field: &Field<u64>) -> Result<u64, ConfigError> {
        let Some(field) = field else {
            return Ok(self.default);
        };
        let value = *field.get_ref();
        if (self.min..=self.max).contains(&value) {
            return Ok(value);
        }
        let allowed = format!("must be {} to {}", self.min, self.max);
        Err(source.refuse(self.key, Some(field.span()), value, allowed))
    }

    /// As [`Limit::of`], where 0 stands for what the machine suggests.
    pub(super) fn or_auto(&self, source: &Source, field: &Field<u64>, auto: u64) -> Result<u64, ConfigError> {
        let value = self.of(source, field)?;
        Ok(if value == 0 { auto.max(1) } else { value })
    }

    pub(super) fn seconds(&self, source: &Source, field: &Field<u64>) -> Result<Duration, ConfigError> {
        self.of(source, field).map(Duration::from_secs)
    }
}
