//! The exported calls about devices, contexts and memory, and the two that plan what goes wrong.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{
    CUcontext, CUctxCreateParams, CUdevice, CUdevice_attribute, CUdeviceptr, CUresult, CUuuid,
};

use crate::context::{self, call};
use crate::device::{Answer, Fault, device};
use crate::{DEVICE_BYTES, DEVICES};

/// As a driver of the toolkit that compiled the modules.
const VERSION: c_int = 13_000;

/// Writes a result where the caller wants it.
///
/// # Safety
/// `to` takes a `T`.
pub(crate) unsafe fn give<T>(to: *mut T, answer: Answer<T>) -> CUresult {
    match answer {
        Ok(value) => {
            // SAFETY: the caller's promise.
            unsafe { to.write(value) };
            CUresult::CUDA_SUCCESS
        }
        Err(code) => code,
    }
}

pub(crate) fn code(answer: Answer<()>) -> CUresult {
    answer.err().unwrap_or(CUresult::CUDA_SUCCESS)
}

/// The devices that the process may see, in its order: numbers and identifiers of `CUDA_VISIBLE_DEVICES` up to the first that
/// is neither, as NVIDIA's driver has it (CUDA C++ Programming Guide, "CUDA Environment Variables").
fn visible() -> &'static [usize] {
    static VISIBLE: OnceLock<Vec<usize>> = OnceLock::new();
    VISIBLE.get_or_init(|| {
        let Ok(listed) = std::env::var("CUDA_VISIBLE_DEVICES") else { return (0..DEVICES).collect() };
        let device = |name: &str| {
            let name = name.trim();
            let by_number = name.parse().ok().filter(|number| *number < DEVICES);
            by_number.or_else(|| {
                let is_called = |number: &usize| name.len() > 4 && uuid_text(*number).starts_with(name);
                (0..DEVICES).find(is_called)
            })
        };
        listed.split(',').map_while(device).collect()
    })
}

/// As tools print it.
fn uuid_text(device: usize) -> String {
    let pair = format!("{device:02x}");
    let group = |pairs: usize| pair.repeat(pairs);
    format!("GPU-{}-{}-{}-{}-{}", group(4), group(2), group(2), group(2), group(6))
}

fn ordinal(of: CUdevice) -> Answer<usize> {
    let ordinal = usize::try_from(of).ok().filter(|ordinal| *ordinal < DEVICES);
    ordinal.ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE)
}

/// Plans a fault: the call of this name on device `ordinal`, after so many that succeed, answers `code`; the context is lost
/// with it where `is_sticky`, and with [`HANG`](crate::HANG) whatever waits from then on waits for ever.
#[unsafe(no_mangle)]
unsafe extern "C" fn shoal_standin_fault(
    ordinal: c_uint,
    call: *const c_char,
    after: u64,
    code: u32,
    is_sticky: bool,
) {
    // SAFETY: tests pass a name that ends in zero.
    let call = unsafe { CStr::from_ptr(call) }.to_string_lossy().into_owned();
    if let Ok(mut device) = device(ordinal as usize) {
        device.plan(Fault { call, after, code, is_sticky });
    }
}

/// Has work on this device run at once now and then, as the seed has it; 0: only when it is waited for.
#[unsafe(no_mangle)]
extern "C" fn shoal_standin_seed(ordinal: c_uint, seed: u64) {
    if let Ok(mut device) = device(ordinal as usize) {
        device.chance = seed;
    }
}

/// Moves what the device remembers to `to`, and says how much that is.
#[unsafe(no_mangle)]
unsafe extern "C" fn shoal_standin_log(ordinal: c_uint, to: *mut u8, room: usize) -> usize {
    let log = device(ordinal as usize).map(|mut device| std::mem::take(&mut device.log)).unwrap_or_default();
    let log = &log[..log.len().min(room)];
    // SAFETY: tests pass so much room.
    unsafe { std::ptr::copy_nonoverlapping(log.as_ptr(), to, log.len()) };
    log.len()
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: c_uint) -> CUresult {
    match (flags, visible().is_empty()) {
        (0, false) => CUresult::CUDA_SUCCESS,
        (0, true) => CUresult::CUDA_ERROR_NO_DEVICE,
        _ => CUresult::CUDA_ERROR_INVALID_VALUE,
    }
}

/// Names of the codes that it answers; others it does not know, as a driver does not know those of a newer one.
const NAMES: [(CUresult, &CStr); 11] = [
    (CUresult::CUDA_ERROR_INVALID_VALUE, c"CUDA_ERROR_INVALID_VALUE"),
    (CUresult::CUDA_ERROR_OUT_OF_MEMORY, c"CUDA_ERROR_OUT_OF_MEMORY"),
    (CUresult::CUDA_ERROR_NO_DEVICE, c"CUDA_ERROR_NO_DEVICE"),
    (CUresult::CUDA_ERROR_INVALID_DEVICE, c"CUDA_ERROR_INVALID_DEVICE"),
    (CUresult::CUDA_ERROR_INVALID_CONTEXT, c"CUDA_ERROR_INVALID_CONTEXT"),
    (CUresult::CUDA_ERROR_INVALID_HANDLE, c"CUDA_ERROR_INVALID_HANDLE"),
    (CUresult::CUDA_ERROR_NOT_FOUND, c"CUDA_ERROR_NOT_FOUND"),
    (CUresult::CUDA_ERROR_NOT_READY, c"CUDA_ERROR_NOT_READY"),
    (CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, c"CUDA_ERROR_ILLEGAL_ADDRESS"),
    (CUresult::CUDA_ERROR_LAUNCH_FAILED, c"CUDA_ERROR_LAUNCH_FAILED"),
    (CUresult::CUDA_ERROR_NOT_SUPPORTED, c"CUDA_ERROR_NOT_SUPPORTED"),
];

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(of: c_uint, to: *mut *const c_char) -> CUresult {
    let name = NAMES.iter().find(|(code, _)| *code as c_uint == of);
    let name = name.map(|(_, name)| name.as_ptr()).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE);
    // SAFETY: the driver's contract: room for one pointer.
    unsafe { give(to, name) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    // SAFETY: the driver's contract: room for one number.
    unsafe { give(version, Ok(VERSION)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    // SAFETY: the driver's contract: room for one number.
    unsafe { give(count, Ok(visible().len() as c_int)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(to: *mut CUdevice, of: c_int) -> CUresult {
    let place = usize::try_from(of).ok().and_then(|place| visible().get(place));
    let device = place.map(|device| *device as CUdevice).ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE);
    // SAFETY: the driver's contract: room for one device.
    unsafe { give(to, device) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(to: *mut c_char, len: c_int, of: CUdevice) -> CUresult {
    let name = ordinal(of).map(|_| c"Shoal stand-in");
    let answer = name.and_then(|name| {
        let bytes = name.to_bytes_with_nul();
        let fits = usize::try_from(len).is_ok_and(|len| bytes.len() <= len);
        if fits { Ok(bytes) } else { Err(CUresult::CUDA_ERROR_INVALID_VALUE) }
    });
    code(answer.map(|bytes| {
        // SAFETY: the driver's contract: room for `len` characters, and these are no more.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, bytes.len()) };
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(
    to: *mut c_int,
    attribute: CUdevice_attribute,
    of: CUdevice,
) -> CUresult {
    use CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
    };
    let value = match attribute {
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => Ok(8),
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => Ok(0),
        // Few, so that tiny models take large tiles, too.
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => Ok(4),
        _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    };
    // SAFETY: the driver's contract: room for one number.
    unsafe { give(to, ordinal(of).and(value)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(to: *mut usize, of: CUdevice) -> CUresult {
    // SAFETY: the driver's contract: room for one number.
    unsafe { give(to, ordinal(of).map(|_| DEVICE_BYTES)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid_v2(to: *mut CUuuid, of: CUdevice) -> CUresult {
    let uuid = ordinal(of).map(|ordinal| CUuuid { bytes: [ordinal as c_char; 16] });
    // SAFETY: the driver's contract: room for one identifier.
    unsafe { give(to, uuid) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxCreate_v4(
    to: *mut CUcontext,
    params: *mut CUctxCreateParams,
    _flags: c_uint,
    of: CUdevice,
) -> CUresult {
    let allowed = if params.is_null() { Ok(()) } else { Err(CUresult::CUDA_ERROR_NOT_SUPPORTED) };
    let handle = allowed.and(ordinal(of)).and_then(context::create);
    // SAFETY: the driver's contract: room for one handle.
    unsafe { give(to, handle.map(handle_out)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxDestroy_v2(context: CUcontext) -> CUresult {
    code(context::destroy(context.addr() as u64))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxSetCurrent(context: CUcontext) -> CUresult {
    code(context::set_current(context.addr() as u64))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    let answer = call("cuMemGetInfo_v2", |_, device| Ok(DEVICE_BYTES - device.taken_bytes));
    // SAFETY: the driver's contract: room for two numbers.
    unsafe {
        total.write(DEVICE_BYTES);
        give(free, answer)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(to: *mut CUdeviceptr, bytes: usize) -> CUresult {
    let answer = call("cuMemAlloc_v2", |context, device| context.allocate(device, bytes));
    // SAFETY: the driver's contract: room for one address.
    unsafe { give(to, answer) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(to: *mut *mut c_void, bytes: usize, _flags: c_uint) -> CUresult {
    let answer = call("cuMemHostAlloc", |context, _| context.pinned.allocate(bytes));
    // SAFETY: the driver's contract: room for one pointer.
    unsafe { give(to, answer.map(|at| std::ptr::with_exposed_provenance_mut(at as usize))) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeHost(at: *mut c_void) -> CUresult {
    let address = at.addr() as u64;
    code(call("cuMemFreeHost", |context, _| {
        let block = context.pinned.block_of(address).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        context.check_idle(block);
        context.pinned.free(address).map(drop)
    }))
}

/// A handle as the driver's types have it: a pointer to nothing.
pub(crate) fn handle_out<T>(handle: u64) -> *mut T {
    std::ptr::without_provenance_mut(handle as usize)
}
