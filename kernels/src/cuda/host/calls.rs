//! The driver's calls that are made: no others, so that a driver that lacks one is known before the first.
//!
//! They are declared here and found in the library by name. The bindings' own declarations answer an `enum`, of which a newer
//! driver may answer what it does not list; and they panic where a library or a call is missing.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use cudarc::driver::sys::{
    CUcontext, CUctxCreateParams, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction,
    CUfunction_attribute, CUmodule, CUresult, CUstream, CUuuid,
};
use libloading::Library;

/// What the driver answers: a `CUresult`, or what a newer one has beside those.
pub(super) type Code = c_uint;

macro_rules! calls {
    ($($(#[$attribute:meta])* $name:ident($($argument:ident: $type:ty),* $(,)?);)*) => {
        /// The calls of one driver.
        #[expect(non_snake_case, reason = "the driver's own names")]
        struct Table { $($name: unsafe extern "C" fn($($type),*) -> Code,)* }

        impl Table {
            fn find(library: &Library) -> Result<Self, &'static str> {
                Ok(Self {
                    $($name: {
                        // SAFETY: the declaration is that of `cuda.h`; nothing is called before all of them are there.
                        let found = unsafe { library.get(stringify!($name).as_bytes()) };
                        *found.map_err(|_| stringify!($name))?
                    },)*
                })
            }

            /// Where its calls are.
            fn addresses(&self) -> Vec<usize> {
                vec![$(self.$name as usize),*]
            }
        }

        $(
            /// # Safety
            /// As the driver's documentation has it.
            #[expect(non_snake_case, reason = "the driver's own names")]
            $(#[$attribute])*
            pub(super) unsafe fn $name($($argument: $type),*) -> Code {
                match TABLE.get() {
                    // SAFETY: the caller's promise; the library is never closed.
                    Some(table) => unsafe { (table.$name)($($argument),*) },
                    None => CUresult::CUDA_ERROR_NOT_INITIALIZED as Code,
                }
            }
        )*
    };
}

calls! {
    cuInit(flags: c_uint);
    cuGetErrorName(code: Code, text: *mut *const c_char);
    cuDriverGetVersion(version: *mut c_int);
    cuDeviceGetCount(count: *mut c_int);
    cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice);
    cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: CUdevice);
    cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: CUdevice);
    cuCtxCreate_v4(context: *mut CUcontext, params: *mut CUctxCreateParams, flags: c_uint, device: CUdevice);
    cuCtxDestroy_v2(context: CUcontext);
    cuCtxSetCurrent(context: CUcontext);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
    cuMemHostAlloc(start: *mut *mut c_void, bytes: usize, flags: c_uint);
    cuMemFreeHost(start: *mut c_void);
    cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    cuStreamDestroy_v2(stream: CUstream);
    cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
    cuEventCreate(event: *mut CUevent, flags: c_uint);
    cuEventDestroy_v2(event: CUevent);
    cuEventRecord(event: CUevent, stream: CUstream);
    cuEventQuery(event: CUevent);
    cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    cuFuncSetAttribute(function: CUfunction, attribute: CUfunction_attribute, value: c_int);
    #[expect(clippy::too_many_arguments, reason = "the driver's own")]
    cuLaunchKernel(function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint, shared_bytes: c_uint, stream: CUstream, params: *mut *mut c_void, extra: *mut *mut c_void);
}

/// Of the one driver that the process uses.
static TABLE: OnceLock<Table> = OnceLock::new();

/// Why a library's calls are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It lacks this one.
    Missing(&'static str),
    /// Another library's are in use.
    Another,
}

/// Has the calls be those of this library, which is never closed.
pub(super) fn use_calls_of(library: &Library) -> Result<(), Unusable> {
    let found = Table::find(library).map_err(Unusable::Missing)?;
    let addresses = found.addresses();
    let is_same = TABLE.get_or_init(|| found).addresses() == addresses;
    if is_same { Ok(()) } else { Err(Unusable::Another) }
}

/// What a code is called, such as `CUDA_ERROR_ILLEGAL_ADDRESS`.
pub(super) fn name(code: Code) -> String {
    let mut text: *const c_char = ptr::null();
    // SAFETY: `text` takes one pointer.
    let found = unsafe { cuGetErrorName(code, &raw mut text) } == CUresult::CUDA_SUCCESS as Code;
    if !found || text.is_null() {
        return format!("CUDA error {code}");
    }
    // SAFETY: the driver's texts end in zero and live as long as it does.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
