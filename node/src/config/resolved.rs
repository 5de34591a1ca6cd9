//! The resolved configuration: plain values, in range, with nothing left to decide.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use shoal_kernels::DtypePolicy;
use shoal_kernels::cpu::CpuIsa;

use super::ApiKeys;
use super::gpu::{DeviceKind, GpuConfig};

/// Everything that a node needs to start. Made by [`super::resolve`] only.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where models and identities live (`SHOAL_HOME`, `node.data_dir`).
    pub data_dir: PathBuf,
    /// How long a leaving node finishes what is in flight before it ends what is left with `draining`.
    pub drain: Duration,
    /// The HTTP edge; `None`: no HTTP port is opened.
    pub http: Option<HttpConfig>,
    /// The QUIC endpoint; `None`: no UDP port is opened and only the process itself reaches the node.
    pub quic: Option<QuicConfig>,
    /// Its membership in the mesh; `None`: it works alone. Only beside `quic`, whose identity it shows.
    pub mesh: Option<MeshConfig>,
    /// Where the cloud says that it takes this machine away; `None`: nobody is asked.
    pub notices: Option<NoticesConfig>,
    /// The devices and their limits.
    pub device: DeviceConfig,
    /// The GPUs among them.
    pub gpu: GpuConfig,
    /// Which models there are and what happens to them at start.
    pub models: ModelsConfig,
}

/// The HTTP edge.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where it listens. Port 0 takes a free one.
    pub addr: SocketAddr,
    /// Who may call; `None` only on a loopback address. Probes and metrics are open either way.
    pub api_keys: Option<ApiKeys>,
    /// Connections open at once; a further one is answered with 503 and closed.
    pub connections_max: usize,
    /// Requests being answered at once, probes apart; a further one is refused with 429.
    pub requests_max: usize,
    /// Tokens of one request, over all its texts.
    pub request_tokens_max: u64,
    /// Bytes of a request's body; a larger one is refused with 413 before it is read.
    pub body_bytes_max: usize,
    /// Time that a request without a deadline of its own gets.
    pub deadline: Duration,
    /// Whether a TEI request that does not say `truncate` has its long texts cut.
    pub tei_auto_truncate: bool,
}

/// The QUIC endpoint.
#[derive(Clone, Debug)]
pub struct QuicConfig {
    /// Where it listens. Port 0 takes a free one.
    pub addr: SocketAddr,
    /// The address that others should dial where it differs (NAT, containers).
    pub advertise: Option<SocketAddr>,
    /// Where newcomers get their certificates, if the identity is an issuer's. Port 0 takes a free one.
    pub join_addr: SocketAddr,
    /// The node's identity as `shoal mesh init` wrote it, or as it got it when it joined.
    pub identity_dir: PathBuf,
    /// Connections open at once; a further one is refused.
    pub connections_max: u32,
    /// Attempts in flight on one connection; a further one waits at the caller.
    pub streams_max: u32,
}

/// Membership in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshConfig {
    /// Where it listens for members. Port 0 takes a free one.
    pub addr: SocketAddr,
    /// The address that members should dial where it differs; port 0: the one on which it listens.
    pub advertise: Option<SocketAddr>,
    /// Members to start from (`host:port`), beside those that the identity's directory names; the others are found
    /// through them.
    pub seeds: Vec<String>,
}

/// Whose machine this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeSource {
    /// Amazon EC2.
    Aws,
    /// Google Compute Engine.
    Gcp,
    /// Microsoft Azure.
    Azure,
}

impl NoticeSource {
    /// Where its machines find its metadata service.
    #[must_use]
    pub const fn base_url(self) -> &'static str {
        match self {
            Self::Aws | Self::Azure => "http://169.254.169.254",
            Self::Gcp => "http://metadata.google.internal",
        }
    }
}

/// Where the cloud says that it takes this machine away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoticesConfig {
    /// Whose metadata service it is.
    pub source: NoticeSource,
    /// Where it is asked, without a trailing slash.
    pub base_url: String,
}

/// The devices and the limits of each; what GPUs have of their own is in [`GpuConfig`].
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceConfig {
    /// Which devices.
    pub kind: DeviceKind,
    /// The CPU's instruction set; `None`: the fastest that this machine has.
    pub cpu_isa: Option<CpuIsa>,
    /// The number format of models whose catalogue entry names none.
    pub dtype: DtypePolicy,
    /// Threads that compute, over all lanes.
    pub threads: usize,
    /// Threads that tokenize, beside the compute threads.
    pub tokenizer_threads: usize,
    /// Ceiling on the device's speed, in tokens per second; `None`: as fast as it goes.
    pub tokens_per_s_max: Option<u32>,
    /// Bytes of models in memory.
    pub resident_bytes_max: u64,
    /// Tokens admitted and not yet in a batch.
    pub queue_tokens_max: u64,
    /// Requests admitted and not yet answered.
    pub requests_max: u32,
    /// Bytes of text admitted and not yet answered.
    pub admitted_bytes_max: u64,
    /// Time that one batch should take.
    pub batch_target: Duration,
    /// Tokens of one batch, whatever the speed; one longer text still runs, alone.
    pub batch_tokens_max: u32,
    /// Texts of one batch.
    pub batch_sequences_max: u32,
    /// An unpinned model that nobody used for so long is unloaded; `None`: only memory pressure unloads.
    pub keep_alive: Option<Duration>,
    /// A loaded model is not evicted before it has been resident for so long.
    pub residency_min: Duration,
}

impl DeviceConfig {
    /// The CPU's instruction set: the configured one, or else the fastest that this machine has.
    #[must_use]
    pub fn isa(&self) -> CpuIsa {
        self.cpu_isa.unwrap_or_else(CpuIsa::detect)
    }
}

/// Whether callers may send token ids instead of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TokenIdsPolicy {
    /// Refused with an error that names the client's setting.
    #[default]
    Refuse,
    /// Taken as ids of the model's own vocabulary, checked against its range.
    Model,
}

/// Which models there are and what happens to them at start.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelsConfig {
    /// Where models come from.
    pub store: StoreConfig,
    /// Names of the models to load before the node says that it is ready.
    pub preload: Vec<String>,
    /// Names of the models that are never unloaded.
    pub pin: Vec<String>,
    /// Whether callers may send token ids.
    pub token_ids: TokenIdsPolicy,
}

/// A directory in Hugging Face layout that is served without a catalogue entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalModel {
    /// The name that callers use.
    pub name: String,
    /// Further names.
    pub aliases: Vec<String>,
    /// The directory.
    pub dir: PathBuf,
}

/// Where models come from and where they are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    /// Installed models: `<models_dir>/<name>/<digest>/`, immutable.
    pub models_dir: PathBuf,
    /// The user's own catalogue entries (`*.toml`); read if it exists.
    pub catalogue_dir: PathBuf,
    /// Directories served under a name of their own.
    pub local: Vec<LocalModel>,
    /// The Hugging Face hub and its cache.
    pub hub: HubConfig,
}

/// The Hugging Face hub and its cache, as its own tools are configured.
#[derive(Clone, PartialEq)]
pub struct HubConfig {
    /// `HF_ENDPOINT`, without a trailing slash.
    pub endpoint: String,
    /// `HF_TOKEN`, or the token file of `hf auth login`.
    pub token: Option<String>,
    /// `HF_HUB_CACHE`, or `HF_HOME/hub`.
    pub cache_dir: PathBuf,
    /// `REQUESTS_CA_BUNDLE` or `SSL_CERT_FILE`: authorities trusted in place of Mozilla's, for networks that
    /// intercept TLS.
    pub ca_file: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`, or `--offline`: nothing is fetched.
    pub offline: bool,
}

impl std::fmt::Debug for HubConfig {
    /// Never prints the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .field("cache_dir", &self.cache_dir)
            .field("ca_file", &self.ca_file)
            .field("offline", &self.offline)
            .finish()
    }
}
