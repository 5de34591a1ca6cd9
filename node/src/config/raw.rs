//! The file as it is written. Every field is optional; its meaning, range, default and the cost of high and low values
//! are told once, in `configs/node.toml`, and a test keeps that file, these fields and the defaults equal.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

/// A value with its place in the file, so that an error can name the line.
pub(super) type Field<T> = Option<Spanned<T>>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) version: Field<u32>,
    #[serde(default)]
    pub(super) node: RawNode,
    #[serde(default)]
    pub(super) http: RawHttp,
    #[serde(default)]
    pub(super) quic: RawQuic,
    #[serde(default)]
    pub(super) mesh: RawMesh,
    #[serde(default)]
    pub(super) notices: RawNotices,
    #[serde(default)]
    pub(super) device: RawDevice,
    #[serde(default)]
    pub(super) gpu: RawGpu,
    #[serde(default)]
    pub(super) models: RawModels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) data_dir: Field<String>,
    pub(super) drain_s: Field<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) addr: Field<String>,
    pub(super) api_key_file: Field<String>,
    pub(super) connections_max: Field<u64>,
    pub(super) requests_max: Field<u64>,
    pub(super) request_tokens_max: Field<u64>,
    pub(super) body_bytes_max: Field<u64>,
    pub(super) deadline_ms: Field<u64>,
    pub(super) tei_auto_truncate: Field<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuic {
    pub(super) addr: Field<String>,
    pub(super) advertise: Field<String>,
    pub(super) join_addr: Field<String>,
    pub(super) identity_dir: Field<String>,
    pub(super) connections_max: Field<u64>,
    pub(super) streams_max: Field<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMesh {
    pub(super) addr: Field<String>,
    pub(super) advertise: Field<String>,
    pub(super) seeds: Field<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNotices {
    pub(super) source: Field<String>,
    pub(super) base_url: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDevice {
    pub(super) kind: Field<String>,
    pub(super) cpu_isa: Field<String>,
    pub(super) dtype: Field<String>,
    pub(super) threads: Field<u64>,
    pub(super) tokenizer_threads: Field<u64>,
    pub(super) tokens_per_s_max: Field<u64>,
    pub(super) resident_bytes_max: Field<u64>,
    pub(super) queue_tokens_max: Field<u64>,
    pub(super) requests_max: Field<u64>,
    pub(super) admitted_bytes_max: Field<u64>,
    pub(super) batch_target_us: Field<u64>,
    pub(super) batch_tokens_max: Field<u64>,
    pub(super) batch_sequences_max: Field<u64>,
    pub(super) keep_alive_s: Field<u64>,
    pub(super) residency_min_s: Field<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGpu {
    pub(super) require: Field<bool>,
    pub(super) memory_bytes: Field<u64>,
    pub(super) batch_bytes: Field<u64>,
    pub(super) batch_tokens_max: Field<u64>,
    pub(super) without_kernel: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModels {
    pub(super) catalogue_dir: Field<String>,
    pub(super) preload: Field<Vec<String>>,
    pub(super) pin: Field<Vec<String>>,
    pub(super) devices: Field<BTreeMap<String, Spanned<String>>>,
    pub(super) token_ids: Field<String>,
    pub(super) offline: Field<bool>,
}
