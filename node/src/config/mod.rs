//! The configuration: a versioned TOML file and flags (raw) become the one [`NodeConfig`] (resolved).
//!
//! Everything that can be wrong is found in [`resolve`], once, with the file, the line and the key; the rest of the
//! node handles values that are known to be in range. The environment and the machine are arguments, so that
//! resolving is a function of its inputs.

mod api_keys;
mod environment;
mod error;
mod gpu;
mod limits;
mod machine;
mod raw;
mod resolve;
mod resolved;
mod source;
#[cfg(test)]
mod tests;

pub use api_keys::{ApiKeyError, ApiKeys};
pub use environment::Environment;
pub use error::ConfigError;
pub use gpu::{DeviceKind, DeviceName, GpuConfig, ParseDeviceError, WithoutKernel, parse_bytes};
pub use machine::Machine;
pub use resolve::{Overrides, resolve};
pub use resolved::{
    DeviceConfig, HttpConfig, HubConfig, LocalModel, MeshConfig, ModelsConfig, NodeConfig, NoticeSource,
    NoticesConfig, QuicConfig, StoreConfig, TokenIdsPolicy,
};
pub(crate) use source::Source;
