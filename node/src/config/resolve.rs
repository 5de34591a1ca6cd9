//! Raw to resolved: the one place where defaults, ranges and contradictions are decided.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_kernels::cpu::CpuIsa;
use shoal_kernels::{CONFIG_FILES, DtypePolicy};
use shoal_mesh::Identity;

use super::error::ConfigError;
use super::gpu::{DeviceKind, DeviceName, GpuConfig, WithoutKernel};
use super::limits;
use super::raw::{RawConfig, RawDevice, RawGpu, RawHttp, RawMesh, RawModels, RawNotices, RawQuic};
use super::resolved::{
    DeviceConfig, HttpConfig, LocalModel, MeshConfig, ModelsConfig, NodeConfig, NoticeSource, NoticesConfig,
    QuicConfig, StoreConfig, TokenIdsPolicy,
};
use super::source::Source;
use super::{ApiKeys, Environment, Machine};

/// The schema that this build reads.
const VERSION: u64 = 1;
/// The word that closes a port.
const OFF: &str = "off";
/// The word that leaves a port to the node.
const AUTO: &str = "auto";
/// Where a node listens that has an identity and was told nothing: for callers; one port further for newcomers, if it is
/// an issuer; and one more for members.
const QUIC_ADDR: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 7000));

/// What the command line sets; each wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--data`
    pub data_dir: Option<PathBuf>,
    /// `--http`: an address or `off`.
    pub http: Option<String>,
    /// `--quic`: an address or `off`.
    pub quic: Option<String>,
    /// `--join`: there will be an identity.
    pub joins: bool,
    /// `--advertise`
    pub advertise: Option<String>,
    /// `--identity`
    pub identity_dir: Option<PathBuf>,
    /// `--api-key-file`
    pub api_key_file: Option<PathBuf>,
    /// `--preload`: names, or directories in Hugging Face layout.
    pub preload: Vec<String>,
    /// `--model`: as `--preload`, but loaded on first use.
    pub model: Option<String>,
    /// `--device`
    pub device: Option<DeviceKind>,
    /// `--cpu-isa`: a name or `auto`.
    pub cpu_isa: Option<String>,
    /// `--dtype`
    pub dtype: Option<DtypePolicy>,
    /// `--threads`
    pub threads: Option<usize>,
    /// `--require-gpu`
    pub require_gpu: bool,
    /// `--gpu-memory`
    pub gpu_memory_bytes: Option<u64>,
    /// `--offline`
    pub offline: bool,
}

/// Reads `file` (or takes the defaults), applies `flags` and checks everything.
///
/// # Errors
/// The first thing that is wrong, with file, line, key and what is allowed.
pub fn resolve(
    file: Option<&Path>,
    flags: &Overrides,
    environment: &Environment,
    machine: Machine,
) -> Result<NodeConfig, ConfigError> {
    let source = match file {
        Some(file) => Source::read(file)?,
        None => Source::default(),
    };
    let raw: RawConfig = source.parse()?;
    if let Some(file) = file {
        require_version(&source, &raw, file)?;
    }
    let resolver = Resolver { source: &source, flags, environment, machine };
    let data_dir = flags
        .data_dir
        .clone()
        .or_else(|| raw.node.data_dir.as_ref().map(|dir| source.path(dir.get_ref())))
        .unwrap_or_else(|| environment.data_dir());
    let quic = resolver.quic(&raw.quic, &data_dir)?;
    Ok(NodeConfig {
        drain: limits::DRAIN_S.seconds(&source, &raw.node.drain_s)?,
        http: resolver.http(&raw.http)?,
        mesh: resolver.mesh(&raw.mesh, quic.as_ref())?,
        quic,
        notices: resolver.notices(&raw.notices)?,
        device: resolver.device(&raw.device)?,
        gpu: resolver.gpu(&raw.gpu, &raw.models)?,
        models: resolver.models(&raw.models, &data_dir)?,
        data_dir,
    })
}

fn require_version(source: &Source, raw: &RawConfig, file: &Path) -> Result<(), ConfigError> {
    match &raw.version {
        Some(version) if u64::from(*version.get_ref()) == VERSION => Ok(()),
        Some(version) => Err(source.refuse(
            "version",
            Some(version.span()),
            version.get_ref(),
            format!("this build reads version {VERSION}"),
        )),
        None => Err(ConfigError::Syntax {
            file: file.to_owned(),
            line: 1,
            key: Some("version".to_owned()),
            message: format!("missing; write `version = {VERSION}` as the first line"),
        }),
    }
}

struct Resolver<'a> {
    source: &'a Source,
    flags: &'a Overrides,
    environment: &'a Environment,
    machine: Machine,
}

impl Resolver<'_> {
    fn http(&self, raw: &RawHttp) -> Result<Option<HttpConfig>, ConfigError> {
        let source = self.source;
        let addr = source.text("http.addr", raw.addr.as_ref(), self.flags.http.as_deref(), "127.0.0.1:8080");
        let connections_max = limits::HTTP_CONNECTIONS_MAX.of(source, &raw.connections_max)?;
        let requests_max = limits::HTTP_REQUESTS_MAX.of(source, &raw.requests_max)?;
        let request_tokens_max = limits::REQUEST_TOKENS_MAX.of(source, &raw.request_tokens_max)?;
        let body_bytes_max = limits::BODY_BYTES_MAX.of(source, &raw.body_bytes_max)?;
        let deadline = Duration::from_millis(limits::DEADLINE_MS.of(source, &raw.deadline_ms)?);
        let key_file = self.flags.api_key_file.clone().or_else(|| {
            let named = raw.api_key_file.as_ref().map(|file| file.get_ref().as_str());
            named.filter(|file| !file.is_empty()).map(|file| source.path(file))
        });
        let api_keys = key_file.map(|file| ApiKeys::read(&file)).transpose()?;
        if addr.value == OFF {
            return Ok(None);
        }
        let addr: SocketAddr = addr.parse("an IP address and a port such as 127.0.0.1:8080, or \"off\"")?;
        if !addr.ip().is_loopback() && api_keys.is_none() {
            return Err(ConfigError::PublicWithoutKeys { addr });
        }
        Ok(Some(HttpConfig {
            addr,
            api_keys,
            connections_max: to_usize(connections_max),
            requests_max: to_usize(requests_max),
            request_tokens_max,
            body_bytes_max: to_usize(body_bytes_max),
            deadline,
            tei_auto_truncate: raw.tei_auto_truncate.as_ref().is_some_and(|cut| *cut.get_ref()),
        }))
    }

    fn quic(&self, raw: &RawQuic, data_dir: &Path) -> Result<Option<QuicConfig>, ConfigError> {
        let source = self.source;
        let addr = source.text("quic.addr", raw.addr.as_ref(), self.flags.quic.as_deref(), AUTO);
        let advertise =
            source.text("quic.advertise", raw.advertise.as_ref(), self.flags.advertise.as_deref(), "");
        let connections_max = limits::QUIC_CONNECTIONS_MAX.of(source, &raw.connections_max)?;
        let streams_max = limits::STREAMS_MAX.of(source, &raw.streams_max)?;
        let identity_dir = self.flags.identity_dir.clone().or_else(|| {
            let named = raw.identity_dir.as_ref().map(|dir| dir.get_ref().as_str());
            named.filter(|dir| !dir.is_empty()).map(|dir| source.path(dir))
        });
        let identity_dir = identity_dir.unwrap_or_else(|| data_dir.join("identity"));
        let addr = match addr.value {
            OFF => return Ok(None),
            AUTO if self.flags.joins || Identity::is_in(&identity_dir) => QUIC_ADDR,
            AUTO => return Ok(None),
            _ => addr.parse("an IP address and a port such as 0.0.0.0:7000, \"auto\" or \"off\"")?,
        };
        let join_addr = source.text("quic.join_addr", raw.join_addr.as_ref(), None, "");
        Ok(Some(QuicConfig {
            addr,
            join_addr: match join_addr.value {
                "" => SocketAddr::new(addr.ip(), port_after(addr.port())),
                _ => join_addr.parse("an IP address and a port such as 0.0.0.0:7001, or empty")?,
            },
            advertise: match advertise.value {
                "" => None,
                _ => Some(advertise.parse("an IP address and a port such as 203.0.113.7:7000, or empty")?),
            },
            identity_dir,
            connections_max: to_u32(connections_max),
            streams_max: to_u32(streams_max),
        }))
    }

    fn mesh(&self, raw: &RawMesh, quic: Option<&QuicConfig>) -> Result<Option<MeshConfig>, ConfigError> {
        let source = self.source;
        let addr = source.text("mesh.addr", raw.addr.as_ref(), None, AUTO);
        let advertise = source.text("mesh.advertise", raw.advertise.as_ref(), None, "");
        let (listen, quic) = match (addr.value, quic) {
            (OFF, _) | (AUTO, None) => return Ok(None),
            (_, None) => {
                let why = "needs quic.addr, where the models of this node are reached";
                return Err(source.refuse("mesh.addr", addr.span.clone(), addr.value, why.to_owned()));
            }
            (AUTO, Some(quic)) => {
                (SocketAddr::new(quic.addr.ip(), port_after(port_after(quic.addr.port()))), quic)
            }
            (_, Some(quic)) => {
                (addr.parse("an IP address and a port such as 10.0.0.5:7002, \"auto\" or \"off\"")?, quic)
            }
        };
        let advertise = match advertise.value {
            "" => quic.advertise.map(|callers| SocketAddr::new(callers.ip(), 0)),
            _ => Some(advertise.parse("an IP address and a port such as 203.0.113.7:7002, or empty")?),
        };
        let seeds = raw.seeds.as_ref().map(|seeds| seeds.get_ref().clone()).unwrap_or_default();
        Ok(Some(MeshConfig { addr: listen, advertise, seeds }))
    }

    fn notices(&self, raw: &RawNotices) -> Result<Option<NoticesConfig>, ConfigError> {
        let source = self.source;
        let clouds = [
            (OFF, None),
            ("aws", Some(NoticeSource::Aws)),
            ("gcp", Some(NoticeSource::Gcp)),
            ("azure", Some(NoticeSource::Azure)),
        ];
        let cloud = source.choice("notices.source", raw.source.as_ref(), &clouds)?;
        let base_url = source.text("notices.base_url", raw.base_url.as_ref(), None, "");
        let known = ["http://", "https://"].iter().any(|scheme| base_url.value.starts_with(scheme));
        if !base_url.value.is_empty() && !known {
            let allowed = "must be a URL such as http://169.254.169.254, or empty".to_owned();
            return Err(source.refuse("notices.base_url", base_url.span.clone(), base_url.value, allowed));
        }
        Ok(cloud.map(|cloud| {
            let url = if base_url.value.is_empty() { cloud.base_url() } else { base_url.value };
            NoticesConfig { source: cloud, base_url: url.trim_end_matches('/').to_owned() }
        }))
    }

    fn device(&self, raw: &RawDevice) -> Result<DeviceConfig, ConfigError> {
        let (source, cores) = (self.source, self.machine.cores as u64);
        let kind = source.text("device.kind", raw.kind.as_ref(), None, AUTO);
        let kind: DeviceKind = kind.parse("auto, cpu, cuda (every GPU) or cuda:N (one of them)")?;
        let dtype = source.text("device.dtype", raw.dtype.as_ref(), None, "auto");
        let dtype = dtype.parse("one of auto, f32, f16, bf16, int8")?;
        let threads = limits::THREADS.or_auto(source, &raw.threads, cores)?;
        let tokenizers = limits::TOKENIZER_THREADS.or_auto(source, &raw.tokenizer_threads, cores.min(4))?;
        let speed = limits::TOKENS_PER_S_MAX.of(source, &raw.tokens_per_s_max)?;
        let batch_us = limits::BATCH_TARGET_US.of(source, &raw.batch_target_us)?;
        let keep_alive = limits::KEEP_ALIVE_S.seconds(source, &raw.keep_alive_s)?;
        let half_of_memory = self.machine.memory_bytes / 2;
        Ok(DeviceConfig {
            kind: self.flags.device.unwrap_or(kind),
            cpu_isa: self.cpu_isa(raw)?,
            dtype: self.flags.dtype.unwrap_or(dtype),
            threads: self.flags.threads.unwrap_or(to_usize(threads)),
            tokenizer_threads: to_usize(tokenizers),
            tokens_per_s_max: Some(to_u32(speed)).filter(|speed| *speed > 0),
            resident_bytes_max: limits::RESIDENT_BYTES_MAX.or_auto(
                source,
                &raw.resident_bytes_max,
                half_of_memory,
            )?,
            queue_tokens_max: limits::QUEUE_TOKENS_MAX.of(source, &raw.queue_tokens_max)?,
            requests_max: to_u32(limits::REQUESTS_MAX.of(source, &raw.requests_max)?),
            admitted_bytes_max: limits::ADMITTED_BYTES_MAX.of(source, &raw.admitted_bytes_max)?,
            batch_target: Duration::from_micros(batch_us),
            batch_tokens_max: to_u32(limits::BATCH_TOKENS_MAX.of(source, &raw.batch_tokens_max)?),
            batch_sequences_max: to_u32(limits::BATCH_SEQUENCES_MAX.of(source, &raw.batch_sequences_max)?),
            keep_alive: Some(keep_alive).filter(|keep_alive| !keep_alive.is_zero()),
            residency_min: limits::RESIDENCY_MIN_S.seconds(source, &raw.residency_min_s)?,
        })
    }

    fn gpu(&self, raw: &RawGpu, models: &RawModels) -> Result<GpuConfig, ConfigError> {
        let source = self.source;
        let words = [("refuse", WithoutKernel::Refuse), ("cpu", WithoutKernel::Cpu)];
        let memory_bytes = limits::GPU_MEMORY_BYTES.of(source, &raw.memory_bytes)?;
        let batch_bytes = limits::GPU_BATCH_BYTES.of(source, &raw.batch_bytes)?;
        let placed = models.devices.as_ref().map(toml::Spanned::get_ref).into_iter().flatten();
        let placed = placed.map(|(model, device)| {
            let device = source.text("models.devices", Some(device), None, "");
            Ok((model.clone(), device.parse::<DeviceName>("cpu or cuda:N")?))
        });
        Ok(GpuConfig {
            require: self.flags.require_gpu || raw.require.as_ref().is_some_and(|require| *require.get_ref()),
            memory_bytes: self.flags.gpu_memory_bytes.or(Some(memory_bytes)).filter(|bytes| *bytes > 0),
            batch_bytes: Some(batch_bytes).filter(|bytes| *bytes > 0),
            batch_tokens_max: to_u32(limits::GPU_BATCH_TOKENS_MAX.of(source, &raw.batch_tokens_max)?),
            without_kernel: source.choice("gpu.without_kernel", raw.without_kernel.as_ref(), &words)?,
            visible: self.environment.even_empty("CUDA_VISIBLE_DEVICES").map(str::to_owned),
            placed: placed.collect::<Result<_, ConfigError>>()?,
        })
    }

    fn cpu_isa(&self, raw: &RawDevice) -> Result<Option<CpuIsa>, ConfigError> {
        let flag = self.flags.cpu_isa.as_deref();
        let isa = self.source.text("device.cpu_isa", raw.cpu_isa.as_ref(), flag, "auto");
        if isa.value == "auto" {
            return Ok(None);
        }
        let names = CpuIsa::ALL.map(CpuIsa::name).join(", ");
        isa.parse(&format!("one of auto, {names}")).map(Some)
    }

    fn models(&self, raw: &RawModels, data_dir: &Path) -> Result<ModelsConfig, ConfigError> {
        let source = self.source;
        let mut hub = self.environment.hub();
        hub.offline |= self.flags.offline || raw.offline.as_ref().is_some_and(|offline| *offline.get_ref());
        let catalogue_dir = raw.catalogue_dir.as_ref().map(|dir| dir.get_ref().as_str());
        let in_file =
            |list: &Option<toml::Spanned<Vec<String>>>| list.as_ref().map(|list| list.get_ref().clone());
        let mut local = Vec::new();
        let mut preload = Vec::new();
        for name in in_file(&raw.preload).unwrap_or_default() {
            preload.push(name_or_directory("models.preload", &name, Some(source), &mut local)?);
        }
        for name in &self.flags.preload {
            preload.push(name_or_directory("--preload", name, None, &mut local)?);
        }
        if let Some(name) = &self.flags.model {
            name_or_directory("--model", name, None, &mut local)?;
        }
        Ok(ModelsConfig {
            store: StoreConfig {
                models_dir: data_dir.join("models"),
                catalogue_dir: catalogue_dir
                    .filter(|dir| !dir.is_empty())
                    .map_or_else(|| data_dir.join("catalogue"), |dir| source.path(dir)),
                local,
                hub,
            },
            preload,
            pin: in_file(&raw.pin).unwrap_or_default(),
            token_ids: source.choice(
                "models.token_ids",
                raw.token_ids.as_ref(),
                &[("refuse", TokenIdsPolicy::Refuse), ("model", TokenIdsPolicy::Model)],
            )?,
        })
    }
}

/// A name of the catalogue stays a name; a path becomes a local model that is called by its last component.
fn name_or_directory(
    key: &'static str,
    name: &str,
    source: Option<&Source>,
    local: &mut Vec<LocalModel>,
) -> Result<String, ConfigError> {
    let dir = source.map_or_else(|| PathBuf::from(name), |source| source.path(name));
    let written_as_path = name.starts_with(['.', '/', '~']) || name.ends_with('/');
    let is_model = CONFIG_FILES.iter().any(|name| dir.join(name).is_file());
    if written_as_path && !is_model {
        return Err(ConfigError::NotAModelDirectory { key, dir });
    }
    if !is_model {
        return Ok(name.to_owned());
    }
    let dir = fs::canonicalize(&dir).unwrap_or(dir);
    let last = dir.file_name().map(|last| last.to_string_lossy().into_owned());
    let called = last.unwrap_or_else(|| name.to_owned());
    local.push(LocalModel { name: called.clone(), aliases: vec![name.to_owned()], dir });
    Ok(called)
}

/// Values are checked against a range that fits before they come here.
fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Free ports stay free ones.
fn port_after(port: u16) -> u16 {
    if port == 0 { 0 } else { port.checked_add(1).unwrap_or(0) }
}

fn to_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
