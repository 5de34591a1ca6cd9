//! A device in use: its context, its memory and the functions that were loaded into it.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::sys::{CUcontext, CUdeviceptr, CUfunc_st, CUfunction};

use super::arena::{Arena, Region};
use super::calls;
use super::driver::{CudaDeviceInfo, Driver, handle};
use super::error::{DeviceError, check};
use super::modules::Modules;
use crate::cuda::{DeviceAddress, Kernel};

/// The oldest architecture that kernels are compiled for.
const COMPUTE_MIN: (u32, u32) = (8, 0);
/// Kernels that are found without a lock, by their numbers: more than there are.
const FUNCTIONS_MAX: usize = 512;
/// What of the free memory is taken where no budget is set, in tenths: the rest is for the driver's own, such as modules.
const FREE_TENTHS: u64 = 9;

/// An open device. Shared by its lanes and its loader; whatever is on it holds it open.
pub struct CudaDevice {
    info: CudaDeviceInfo,
    arena: Mutex<Arena>,
    /// Where the arena's byte 0 is.
    memory: CUdeviceptr,
    modules: Mutex<Modules>,
    /// By their numbers: what was looked up once is found without a lock.
    functions: Box<[AtomicPtr<CUfunc_st>]>,
    /// Why nothing works any more.
    lost: OnceLock<DeviceError>,
    /// Last, so that it is destroyed when nothing needs it.
    context: Context,
}

/// A context of our own, so that its end takes nothing with it that is not ours.
struct Context(CUcontext);

// SAFETY: a context belongs to the process; any thread may make it current and use it (CUDA Driver API, "Context
// Management").
unsafe impl Send for Context {}
// SAFETY: as above; the driver's calls are safe to make from several threads at a time.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context was created and not destroyed; what it held is unreachable, since all of that holds the device.
        let _ = unsafe { calls::cuCtxDestroy_v2(self.0) };
    }
}

impl CudaDevice {
    /// Opens a device and takes `budget_bytes` of its memory, or most of what is free: all that is ever put on it.
    ///
    /// # Errors
    /// It is too old, has less memory free, or the driver refuses; nothing is open.
    pub fn open(
        _: Driver,
        info: &CudaDeviceInfo,
        budget_bytes: Option<u64>,
    ) -> Result<Arc<Self>, DeviceError> {
        if info.compute < COMPUTE_MIN {
            let (major, minor) = info.compute;
            return Err(DeviceError::Architecture { name: info.name.clone(), major, minor });
        }
        let gone =
            |error: super::DriverError| DeviceError::Lost { call: "cuDeviceGet", code: error.to_string() };
        let device = handle(info.ordinal as i32).map_err(gone)?;
        let mut context: CUcontext = ptr::null_mut();
        // SAFETY: `context` takes the one handle; no parameters are given; the new context is this thread's.
        check("cuCtxCreate_v4", unsafe {
            calls::cuCtxCreate_v4(&raw mut context, ptr::null_mut(), 0, device)
        })?;
        let context = Context(context);
        let (mut free_bytes, mut total_bytes) = (0, 0);
        // SAFETY: each takes one number; the context is current.
        check("cuMemGetInfo_v2", unsafe {
            calls::cuMemGetInfo_v2(&raw mut free_bytes, &raw mut total_bytes)
        })?;
        let free_bytes = free_bytes as u64;
        let wanted_bytes = budget_bytes.unwrap_or(free_bytes / 10 * FREE_TENTHS);
        let arena = Arena::new(wanted_bytes);
        if arena.budget_bytes() == 0 || arena.budget_bytes() > free_bytes {
            return Err(DeviceError::Budget { wanted_bytes, free_bytes });
        }
        let mut memory: CUdeviceptr = 0;
        // SAFETY: `memory` takes the one address; the context is current.
        let taken = check("cuMemAlloc_v2", unsafe {
            calls::cuMemAlloc_v2(&raw mut memory, arena.budget_bytes() as usize)
        });
        taken.map_err(|error| match error {
            DeviceError::Refused { .. } => DeviceError::Budget { wanted_bytes, free_bytes },
            other => other,
        })?;
        let (arena, modules, lost) = (Mutex::new(arena), Mutex::new(Modules::default()), OnceLock::new());
        let functions = (0..FUNCTIONS_MAX).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        Ok(Arc::new(Self { info: info.clone(), arena, memory, modules, functions, lost, context }))
    }

    /// What it is.
    pub fn info(&self) -> &CudaDeviceInfo {
        &self.info
    }

    /// Where answers come from, such as `cuda:0 NVIDIA H200`.
    pub fn name(&self) -> String {
        format!("cuda:{} {}", self.info.ordinal, self.info.name)
    }

    /// The bytes that may be allocated, and those of them that are free.
    pub fn memory_bytes(&self) -> (u64, u64) {
        let arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        (arena.budget_bytes(), arena.free_bytes())
    }

    /// Why nothing works any more, or nothing where it does.
    pub fn lost(&self) -> Option<&DeviceError> {
        self.lost.get()
    }

    /// Gives the device up because its work does not end: every later call answers this.
    pub fn give_up(&self) -> DeviceError {
        self.lost.get_or_init(|| DeviceError::Hung).clone()
    }

    /// Takes memory, of unknown content.
    ///
    /// # Errors
    /// [`DeviceError::Memory`]: it does not fit beside what is there.
    pub fn allocate(self: &Arc<Self>, bytes: u64) -> Result<DeviceMemory, DeviceError> {
        let mut arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        let region = arena.take(bytes).ok_or_else(|| DeviceError::Memory {
            wanted_bytes: bytes,
            free_bytes: arena.free_bytes(),
            largest_bytes: arena.largest_bytes(),
            budget_bytes: arena.budget_bytes(),
        })?;
        drop(arena);
        Ok(DeviceMemory { device: Arc::clone(self), region })
    }

    /// Makes the context that of this thread: before every call that needs one.
    pub(super) fn enter(&self) -> Result<(), DeviceError> {
        if let Some(lost) = self.lost.get() {
            return Err(lost.clone());
        }
        // SAFETY: the context lives as long as `self`.
        self.done("cuCtxSetCurrent", unsafe { calls::cuCtxSetCurrent(self.context.0) })
    }

    /// What the driver answered; remembers where it was the end.
    pub(super) fn done(&self, call: &'static str, code: calls::Code) -> Result<(), DeviceError> {
        check(call, code).map_err(|error| match error {
            DeviceError::Lost { .. } => self.lost.get_or_init(|| error).clone(),
            other => other,
        })
    }

    /// The kernel's function, loaded with its whole module on first use.
    pub(super) fn function(&self, kernel: &Kernel) -> Result<CUfunction, DeviceError> {
        self.enter()?;
        let known = self.functions.get(kernel.number());
        if let Some(function) =
            known.map(|known| known.load(Ordering::Acquire)).filter(|known| !known.is_null())
        {
            return Ok(function);
        }
        let function = self.modules.lock().unwrap_or_else(PoisonError::into_inner).function(self, kernel)?;
        if let Some(known) = known {
            known.store(function, Ordering::Release);
        }
        Ok(function)
    }

    /// Loads what the kernel needs, so that its first launch does not wait for it.
    ///
    /// # Errors
    /// The device takes no module of this program.
    pub fn prepare(&self, kernel: &Kernel) -> Result<(), DeviceError> {
        self.function(kernel).map(drop)
    }
}

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDevice").field("info", &self.info).field("lost", &self.lost.get()).finish()
    }
}

/// Bytes of a device's memory, from a boundary of 256. When it is dropped, others get them: work that reads or writes there
/// must have ended.
#[derive(Debug)]
pub struct DeviceMemory {
    device: Arc<CudaDevice>,
    region: Region,
}

impl DeviceMemory {
    /// Of the first byte.
    pub fn address(&self) -> DeviceAddress {
        self.device.memory + self.region.start
    }

    /// At least as many as were asked for.
    pub fn bytes(&self) -> u64 {
        self.region.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        self.device.arena.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.region);
    }
}
