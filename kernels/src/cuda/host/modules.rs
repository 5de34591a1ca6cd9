//! The binaries that come with this program, loaded into a device when they are first needed.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ptr;

use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUmodule};

use super::calls;
use super::device::CudaDevice;
use super::error::DeviceError;
use crate::cuda::{Kernel, KernelModule};

/// What a block has without asking for more.
const SHARED_BYTES: u32 = 48 << 10;

/// Loaded modules, and functions by their kernels' names. They end with their context.
#[derive(Default)]
pub(super) struct Modules {
    loaded: BTreeMap<KernelModule, CUmodule>,
    functions: BTreeMap<String, CUfunction>,
}

// SAFETY: modules and functions belong to a context, which any thread may use; access is behind a lock.
unsafe impl Send for Modules {}

impl Modules {
    /// The device's context is current.
    pub(super) fn function(
        &mut self,
        device: &CudaDevice,
        kernel: &Kernel,
    ) -> Result<CUfunction, DeviceError> {
        if let Some(&known) = self.functions.get(&kernel.name) {
            return Ok(known);
        }
        let module = self.module(device, kernel.module)?;
        let name =
            CString::new(kernel.name.as_str()).expect("kernels' names are made of letters and numbers");
        let mut function: CUfunction = ptr::null_mut();
        // SAFETY: `function` takes the one handle, the name ends in zero, the module is of the current context.
        device.done("cuModuleGetFunction", unsafe {
            calls::cuModuleGetFunction(&raw mut function, module, name.as_ptr())
        })?;
        if kernel.shared_bytes > SHARED_BYTES {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of the current context.
            device.done("cuFuncSetAttribute", unsafe {
                calls::cuFuncSetAttribute(function, attribute, kernel.shared_bytes as i32)
            })?;
        }
        self.functions.insert(kernel.name.clone(), function);
        Ok(function)
    }

    fn module(&mut self, device: &CudaDevice, of: KernelModule) -> Result<CUmodule, DeviceError> {
        if let Some(&known) = self.loaded.get(&of) {
            return Ok(known);
        }
        let mut module: CUmodule = ptr::null_mut();
        // SAFETY: `module` takes the one handle; the image is a whole binary with its sizes in its header, as `build.py` left
        // it, and lives as long as the process.
        device.done("cuModuleLoadData", unsafe {
            calls::cuModuleLoadData(&raw mut module, of.image().as_ptr().cast())
        })?;
        self.loaded.insert(of, module);
        Ok(module)
    }
}
