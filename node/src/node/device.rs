//! What the configuration says about the device: why it is this one, and its limits.

use shoal_kernels::DtypePolicy;
use shoal_kernels::cuda::Driver;

use crate::actors::backend::Backend;
use crate::config::{DeviceConfig, Environment};
use crate::core::CoreConfig;

pub(super) fn device_reason(config: &DeviceConfig, backend: &dyn Backend) -> String {
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
    format!("{}: {chosen}; dtype {dtype}; CUDA not used: {}", backend.name(), cuda_reason())
}

/// Why no model runs on a GPU here: what keeps the driver from being used, or that nodes do not use it yet.
pub(crate) fn cuda_reason() -> String {
    let environment = Environment::of_process();
    let visible = environment.get("CUDA_VISIBLE_DEVICES");
    match Driver::load().and_then(|driver| driver.devices(visible)) {
        Err(error) => error.to_string(),
        Ok(devices) => {
            let names = devices.iter().map(|device| format!("cuda:{} {}", device.ordinal, device.name));
            let names = names.collect::<Vec<_>>().join(", ");
            format!("nodes run models on CPUs only so far, whatever there is: {names}")
        }
    }
}

pub(super) fn threads_of(config: &DeviceConfig) -> u16 {
    u16::try_from(config.threads).unwrap_or(u16::MAX).max(1)
}

pub(super) fn core_config(config: &DeviceConfig) -> CoreConfig {
    CoreConfig {
        threads: threads_of(config),
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
