//! Which devices a node has: what the configuration asks for and the machine can give, with the reasons.

use std::panic::catch_unwind;
use std::sync::Arc;

use shoal_kernels::cuda::{CudaDeviceInfo, Driver};
use shoal_kernels::{DtypePolicy, Plan};
use shoal_protocol::{Bytes, DeviceIndex};

use super::StartError;
use crate::actors::backend::{Backend, CUDA_LANES, CpuBackend, CudaBackend};
use crate::actors::front::Site;
use crate::config::{DeviceConfig, DeviceKind, DeviceName, GpuConfig, NodeConfig};
use crate::core::CoreConfig;

/// A device that was found and can be used.
pub(super) struct Found {
    pub(super) name: DeviceName,
    pub(super) reason: String,
    pub(super) backend: Arc<dyn Backend>,
    /// What it decides by; its place in the list is not known yet.
    pub(super) core: CoreConfig,
}

impl Found {
    pub(super) fn site(&self) -> Site {
        let CoreConfig { device, resident_bytes_max, .. } = self.core;
        Site { device, name: self.name, budget_bytes: resident_bytes_max }
    }

    pub(super) fn resident_bytes_max(&self) -> Bytes {
        Bytes(self.core.resident_bytes_max)
    }
}

/// Finds and opens the devices; at least one. Takes about a second where there are GPUs, and blocks.
///
/// # Errors
/// What was asked for is not there, or cannot be used.
pub(super) fn find(config: &NodeConfig) -> Result<Vec<Found>, StartError> {
    let mut found = Vec::new();
    let gpus = if config.device.kind == DeviceKind::Cpu {
        Err("the CPU was asked for".to_owned())
    } else {
        gpus(config)
    };
    let is_asked_for = config.gpu.require || matches!(config.device.kind, DeviceKind::Cuda(_));
    let (gpus, why_not) = match gpus {
        Ok(gpus) => gpus,
        Err(reason) if is_asked_for => return Err(StartError::NoGpu { reason }),
        Err(reason) => (Vec::new(), vec![reason]),
    };
    if !matches!(config.device.kind, DeviceKind::Cuda(_)) {
        found.push(cpu(&config.device, !gpus.is_empty(), &why_not)?);
    }
    if config.device.kind != DeviceKind::Cpu {
        found.extend(gpus);
    }
    for (index, found) in (0..).zip(&mut found) {
        found.core.device = DeviceIndex(index);
    }
    Ok(found)
}

/// One that serves models which are given to it.
pub(super) fn around(config: &DeviceConfig, backend: Arc<dyn Backend>) -> Found {
    let reason = cpu_reason(config, &backend.name());
    Found { name: DeviceName::Cpu, reason, backend, core: core_config(config) }
}

fn cpu(config: &DeviceConfig, is_beside_gpus: bool, why_not: &[String]) -> Result<Found, StartError> {
    let isa = config.isa();
    if !isa.is_available() {
        return Err(StartError::Isa { wanted: isa });
    }
    // Beside GPUs a format that the CPU lacks is for them; a model that is put here anyway is refused with the reason.
    if !is_beside_gpus {
        Plan::dtype_on(isa, config.dtype)?;
    }
    let mut found = around(config, Arc::new(CpuBackend::new(isa, config.threads)));
    if is_beside_gpus {
        found.reason.push_str("; beside GPUs, for models that are put here");
    }
    if !why_not.is_empty() {
        found.reason.push_str(&format!("; CUDA not used: {}", why_not.join(", ")));
    }
    Ok(found)
}

fn cpu_reason(config: &DeviceConfig, name: &str) -> String {
    let chosen = if config.cpu_isa.is_some() {
        "as configured"
    } else {
        "the fastest instruction set of this processor"
    };
    let dtype = match config.dtype {
        DtypePolicy::Auto => {
            format!("auto is {}, the format that it multiplies fastest", config.isa().fastest_dtype())
        }
        DtypePolicy::Exact(dtype) => format!("{dtype} as configured"),
    };
    format!("{name}: {chosen}; dtype {dtype}")
}

/// The GPUs that are asked for and can be used, and why others are not; at least one.
fn gpus(config: &NodeConfig) -> Result<(Vec<Found>, Vec<String>), String> {
    let visible = config.gpu.visible.as_deref();
    // The driver's library is somebody else's code, loaded at run time: what it does must not end the node.
    let found = catch_unwind(|| {
        let driver = Driver::load(visible)?;
        driver.devices(visible).map(|devices| (driver, devices))
    });
    let (driver, devices) =
        found.map_err(|_| "the driver panicked; the log says where")?.map_err(|error| error.to_string())?;
    let devices = asked_for(config.device.kind, devices)?;
    let (mut usable, mut why_not) = (Vec::new(), Vec::new());
    for info in devices {
        let called = DeviceName::Cuda(info.ordinal);
        match gpu(config, driver, info) {
            Ok(found) => usable.push(found),
            Err(reason) => {
                tracing::warn!(device = %called, reason, "a GPU is not used");
                why_not.push(format!("{called}: {reason}"));
            }
        }
    }
    if usable.is_empty() { Err(why_not.join(", ")) } else { Ok((usable, why_not)) }
}

fn asked_for(kind: DeviceKind, devices: Vec<CudaDeviceInfo>) -> Result<Vec<CudaDeviceInfo>, String> {
    let DeviceKind::Cuda(Some(number)) = kind else { return Ok(devices) };
    let names: Vec<_> = devices.iter().map(|info| format!("cuda:{} {}", info.ordinal, info.name)).collect();
    let asked_for: Vec<_> = devices.into_iter().filter(|info| info.ordinal == number).collect();
    if asked_for.is_empty() {
        Err(format!("there is no cuda:{number}, only {}", names.join(", ")))
    } else {
        Ok(asked_for)
    }
}

fn gpu(config: &NodeConfig, driver: Driver, info: CudaDeviceInfo) -> Result<Found, String> {
    let GpuConfig { memory_bytes, batch_bytes, batch_tokens_max, .. } = config.gpu;
    let name = DeviceName::Cuda(info.ordinal);
    let opened = catch_unwind(|| CudaBackend::new(driver, info, memory_bytes, batch_bytes));
    let backend = opened
        .map_err(|_| "opening it panicked; the log says where".to_owned())?
        .map_err(|error| error.to_string())?;
    let core = CoreConfig {
        threads: CUDA_LANES,
        shares_threads: false,
        batch_tokens_max,
        resident_bytes_max: backend.resident_bytes_max(),
        ..core_config(&config.device)
    };
    Ok(Found { name, reason: backend.described(), backend: Arc::new(backend), core })
}

fn core_config(config: &DeviceConfig) -> CoreConfig {
    CoreConfig {
        threads: u16::try_from(config.threads).unwrap_or(u16::MAX).max(1),
        tokens_per_s_max: config.tokens_per_s_max,
        batch_target: config.batch_target,
        batch_tokens_max: config.batch_tokens_max,
        batch_sequences_max: config.batch_sequences_max,
        requests_max: config.requests_max,
        queue_tokens_max: config.queue_tokens_max,
        admitted_bytes_max: config.admitted_bytes_max,
        resident_bytes_max: config.resident_bytes_max,
        residency_min: config.residency_min,
        keep_alive: config.keep_alive,
        ..CoreConfig::default()
    }
}
