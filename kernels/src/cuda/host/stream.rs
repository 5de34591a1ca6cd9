//! Work in order, and what one stream waits for of another.

use std::ptr;
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, CUstream, CUstream_flags};

use super::calls;
use super::device::CudaDevice;
use super::error::DeviceError;
use super::pinned::Pinned;
use crate::cuda::{DeviceAddress, Launch};

/// Copies and launches, one after another; independent of all other streams.
#[derive(Debug)]
pub struct Stream {
    device: Arc<CudaDevice>,
    raw: CUstream,
}

/// A place in a stream that was recorded.
#[derive(Debug)]
pub struct Event {
    device: Arc<CudaDevice>,
    raw: CUevent,
}

// SAFETY: streams belong to a context, which any thread may use.
unsafe impl Send for Stream {}
// SAFETY: as streams do.
unsafe impl Send for Event {}

impl Stream {
    /// An empty stream.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn new(device: &Arc<CudaDevice>) -> Result<Self, DeviceError> {
        let mut raw: CUstream = ptr::null_mut();
        device.enter()?;
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `raw` takes the one handle; the context is current.
        device.done("cuStreamCreate", unsafe { calls::cuStreamCreate(&raw mut raw, flags) })?;
        Ok(Self { device: Arc::clone(device), raw })
    }

    /// The device that it is on.
    pub fn device(&self) -> &Arc<CudaDevice> {
        &self.device
    }

    /// Has the event stand for all work that was put in so far.
    ///
    /// # Errors
    /// The device was lost.
    pub fn record(&self, event: &Event) -> Result<(), DeviceError> {
        self.device.enter()?;
        // SAFETY: both handles live and are of this device's context.
        self.device.done("cuEventRecord", unsafe { calls::cuEventRecord(event.raw, self.raw) })
    }

    /// Has what is put in from here on wait for what the event stands for.
    ///
    /// # Errors
    /// The device was lost.
    pub fn wait(&self, event: &Event) -> Result<(), DeviceError> {
        self.device.enter()?;
        // SAFETY: both handles live and are of this device's context.
        self.device.done("cuStreamWaitEvent", unsafe { calls::cuStreamWaitEvent(self.raw, event.raw, 0) })
    }

    /// Puts in a copy of the first `bytes` of pinned memory to a device address.
    ///
    /// # Safety
    /// So many bytes at `to` are this device's and nothing else's business until the copy has ended; until then `from` lives
    /// and is not written.
    ///
    /// # Errors
    /// More bytes than `from` has, or the device was lost.
    pub unsafe fn copy_in(&self, to: DeviceAddress, from: &Pinned, bytes: usize) -> Result<(), DeviceError> {
        let call = "cuMemcpyHtoDAsync_v2";
        self.check_len(call, from, bytes)?;
        // SAFETY: the range of `from` was checked; the rest is the caller's promise.
        self.device.done(call, unsafe {
            calls::cuMemcpyHtoDAsync_v2(to, from.start().cast_const().cast(), bytes, self.raw)
        })
    }

    /// Puts in a copy from a device address to a place in pinned memory.
    ///
    /// # Safety
    /// So many bytes at `from` are this device's; until the copy has ended, `to` lives and is neither read nor written.
    ///
    /// # Errors
    /// More bytes than `to` has, or the device was lost.
    pub unsafe fn copy_out(
        &self,
        (to, at): (&Pinned, usize),
        from: DeviceAddress,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        let call = "cuMemcpyDtoHAsync_v2";
        self.check_len(call, to, at.saturating_add(bytes))?;
        // SAFETY: the range of `to` was checked; the rest is the caller's promise.
        self.device.done(call, unsafe {
            calls::cuMemcpyDtoHAsync_v2(to.start().wrapping_add(at).cast(), from, bytes, self.raw)
        })
    }

    fn check_len(&self, call: &'static str, pinned: &Pinned, bytes: usize) -> Result<(), DeviceError> {
        let held = pinned.bytes().len();
        if bytes > held {
            let code = format!("{bytes} bytes of {held} pinned ones");
            return Err(DeviceError::Refused { call, code });
        }
        self.device.enter()
    }

    /// Puts in a launch.
    ///
    /// # Safety
    /// Every address in the argument is of this device, and what the kernel reads and writes there is nobody else's business
    /// until it has ended.
    ///
    /// # Errors
    /// The device takes no module of this program, refuses the launch, or was lost.
    pub unsafe fn launch<A: Pod>(&self, launch: &Launch<'_, A>) -> Result<(), DeviceError> {
        let function = self.device.function(launch.kernel)?;
        let mut args = launch.args;
        let mut params = [(&raw mut args).cast()];
        let ([x, y, z], kernel) = (launch.grid, launch.kernel);
        // SAFETY: the function takes one argument of the type `A`, whose layout is that of the kernel's (tests hold their
        // sizes against each other); the driver copies it during the call. The addresses in it are the caller's promise.
        self.device.done("cuLaunchKernel", unsafe {
            calls::cuLaunchKernel(
                function,
                x,
                y,
                z,
                kernel.threads,
                1,
                1,
                kernel.shared_bytes,
                self.raw,
                params.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: the handle lives; work that is still in the stream runs to its end.
            let _ = self.device.done("cuStreamDestroy_v2", unsafe { calls::cuStreamDestroy_v2(self.raw) });
        }
    }
}

impl Event {
    /// An event that stands for nothing yet, and so is done.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn new(device: &Arc<CudaDevice>) -> Result<Self, DeviceError> {
        let mut raw: CUevent = ptr::null_mut();
        device.enter()?;
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: `raw` takes the one handle; the context is current.
        device.done("cuEventCreate", unsafe { calls::cuEventCreate(&raw mut raw, flags) })?;
        Ok(Self { device: Arc::clone(device), raw })
    }

    /// Whether all that it stands for has ended. Never waits.
    ///
    /// # Errors
    /// The device was lost, perhaps by what it stands for.
    pub fn is_done(&self) -> Result<bool, DeviceError> {
        self.device.enter()?;
        // SAFETY: the handle lives and is of this device's context.
        match unsafe { calls::cuEventQuery(self.raw) } {
            code if code == CUresult::CUDA_ERROR_NOT_READY as calls::Code => Ok(false),
            code => self.device.done("cuEventQuery", code).map(|()| true),
        }
    }

    /// Asks until it is done, or until `goes_on`, which may pause, says no: then the device is given up, because what does
    /// not end cannot be taken back.
    ///
    /// # Errors
    /// The device was lost, or given up.
    pub fn wait(&self, goes_on: &mut dyn FnMut() -> bool) -> Result<(), DeviceError> {
        while !self.is_done()? {
            if !goes_on() {
                return Err(self.device.give_up());
            }
        }
        Ok(())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: the handle lives; the driver keeps what a stream still waits for.
            let _ = self.device.done("cuEventDestroy_v2", unsafe { calls::cuEventDestroy_v2(self.raw) });
        }
    }
}
