//! Memory of the host that a device copies from and to by itself.

use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::calls;
use super::device::CudaDevice;
use super::error::DeviceError;

/// `CU_MEMHOSTALLOC_WRITECOMBINED`: fast for what is only written here; reading it is slow.
const WRITE_COMBINED: u32 = 4;

/// Pinned bytes, from the boundary of a page. What the device still copies is the business of who ordered the copy.
#[derive(Debug)]
pub struct Pinned {
    device: Arc<CudaDevice>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain memory of the process, owned.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Memory for what goes to the device: to be written in order, and not to be read.
    ///
    /// # Errors
    /// The driver has none.
    pub fn for_uploads(device: &Arc<CudaDevice>, bytes: usize) -> Result<Self, DeviceError> {
        Self::new(device, bytes, WRITE_COMBINED)
    }

    /// Memory for what comes from the device.
    ///
    /// # Errors
    /// The driver has none.
    pub fn for_results(device: &Arc<CudaDevice>, bytes: usize) -> Result<Self, DeviceError> {
        Self::new(device, bytes, 0)
    }

    fn new(device: &Arc<CudaDevice>, bytes: usize, flags: u32) -> Result<Self, DeviceError> {
        let (bytes, mut start) = (bytes.max(1), ptr::null_mut());
        device.enter()?;
        // SAFETY: `start` takes the one pointer; the context is current.
        device.done("cuMemHostAlloc", unsafe { calls::cuMemHostAlloc(&raw mut start, bytes, flags) })?;
        let start = NonNull::new(start.cast()).ok_or_else(|| DeviceError::Refused {
            call: "cuMemHostAlloc",
            code: "a null pointer".to_owned(),
        })?;
        Ok(Self { device: Arc::clone(device), start, bytes })
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are owned here, mapped and initialised by the operating system.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// All of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A lost device may still write here; the memory goes with its context.
        if self.device.enter().is_ok() {
            // SAFETY: the pointer is the driver's, freed once; whoever ordered copies has waited for them.
            let _ = self
                .device
                .done("cuMemFreeHost", unsafe { calls::cuMemFreeHost(self.start.as_ptr().cast()) });
        }
    }
}
