//! The host's side of a device: the driver, memory, streams and modules. Nothing here knows a model.
//!
//! Every call of the driver is in this folder. A call that fails is a [`DeviceError`]; one after which the context is of no
//! more use says so, and from then on the device refuses everything until it is closed and opened again.

mod arena;
mod calls;
mod device;
mod driver;
mod error;
mod modules;
mod pinned;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

pub use device::{CudaDevice, DeviceMemory};
pub use driver::{CudaDeviceInfo, Driver, DriverError};
pub use error::DeviceError;
pub use pinned::Pinned;
pub use stream::{Event, Stream};
