//! The exported calls about streams, events, modules and work.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use cudarc::driver::sys::{
    CUdeviceptr, CUevent, CUfunction, CUfunction_attribute, CUmodule, CUresult, CUstream,
};

use crate::context::{Event, Function, SHARED_BYTES, call, new_handle};
use crate::device::Answer;
use crate::image;
use crate::stream::{Launch, Stream, Work};
use crate::symbols::{code, give, handle_out};

/// What a block of any device since sm_80 can have.
const SHARED_BYTES_MAX: u32 = 99 << 10;

fn known<T>(found: Option<T>) -> Answer<T> {
    found.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
}

fn number<T>(handle: *mut T) -> u64 {
    handle.addr() as u64
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(to: *mut CUstream, _flags: c_uint) -> CUresult {
    let answer = call("cuStreamCreate", |context, _| {
        let handle = new_handle();
        context.streams.insert(handle, Stream::default());
        Ok(handle_out(handle))
    });
    // SAFETY: the driver's contract: room for one handle.
    unsafe { give(to, answer) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamDestroy_v2(stream: CUstream) -> CUresult {
    code(call("cuStreamDestroy_v2", |context, _| known(context.streams.remove(&number(stream))).map(drop)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamWaitEvent(stream: CUstream, event: CUevent, _flags: c_uint) -> CUresult {
    code(call("cuStreamWaitEvent", |context, device| {
        match known(context.events.get(&number(event)))?.recorded {
            Some((other, pieces)) => {
                context.give(device, number(stream), Work::Wait { stream: other, pieces })
            }
            None => Ok(()),
        }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(to: *mut CUevent, _flags: c_uint) -> CUresult {
    let answer = call("cuEventCreate", |context, _| {
        let handle = new_handle();
        context.events.insert(handle, Event::default());
        Ok(handle_out(handle))
    });
    // SAFETY: the driver's contract: room for one handle.
    unsafe { give(to, answer) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventDestroy_v2(event: CUevent) -> CUresult {
    code(call("cuEventDestroy_v2", |context, _| known(context.events.remove(&number(event))).map(drop)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventRecord(event: CUevent, stream: CUstream) -> CUresult {
    code(call("cuEventRecord", |context, _| {
        let pieces = context.stream(number(stream))?.given();
        let event = known(context.events.get_mut(&number(event)))?;
        *event = Event { recorded: Some((number(stream), pieces)), was_asked: false };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventQuery(event: CUevent) -> CUresult {
    code(call("cuEventQuery", |context, device| {
        let event = known(context.events.get_mut(&number(event)))?;
        let Some((stream, pieces)) = event.recorded else { return Ok(()) };
        let was_asked = std::mem::replace(&mut event.was_asked, true);
        if !was_asked || !context.run(stream, pieces) {
            return Err(CUresult::CUDA_ERROR_NOT_READY);
        }
        device.note(b'd');
        Ok(())
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    let from = from.addr() as u64;
    code(call("cuMemcpyHtoDAsync_v2", |context, device| {
        context.memory.check(to, bytes)?;
        context.pinned.check(from, bytes)?;
        device.note(b'i');
        context.give(device, number(stream), Work::Copy { to, from, bytes })
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    let to = to.addr() as u64;
    code(call("cuMemcpyDtoHAsync_v2", |context, device| {
        context.memory.check(from, bytes)?;
        context.pinned.check(to, bytes)?;
        device.note(b'o');
        context.give(device, number(stream), Work::Copy { to, from, bytes })
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(to: *mut CUmodule, image: *const c_void) -> CUresult {
    let answer = call("cuModuleLoadData", |context, _| {
        // SAFETY: the driver's contract: a whole module stands there.
        let kernels = unsafe { image::kernels(image.cast()) }?;
        let handle = new_handle();
        context.modules.insert(handle, kernels);
        Ok(handle_out(handle))
    });
    // SAFETY: the driver's contract: room for one handle.
    unsafe { give(to, answer) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    to: *mut CUfunction,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    // SAFETY: the driver's contract: a name that ends in zero.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let answer = call("cuModuleGetFunction", |context, _| {
        let kernels = known(context.modules.get(&number(module)))?;
        let kernel = kernels.iter().find(|kernel| kernel.as_bytes() == name);
        let kernel = *kernel.ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?;
        let handle = new_handle();
        context.functions.insert(handle, Function { kernel, shared_bytes_max: SHARED_BYTES });
        Ok(handle_out(handle))
    });
    // SAFETY: the driver's contract: room for one handle.
    unsafe { give(to, answer) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncSetAttribute(
    function: CUfunction,
    attribute: CUfunction_attribute,
    value: c_int,
) -> CUresult {
    code(call("cuFuncSetAttribute", |context, _| {
        let function = known(context.functions.get_mut(&number(function)))?;
        let is_shared = attribute == CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = u32::try_from(value).ok().filter(|bytes| is_shared && *bytes <= SHARED_BYTES_MAX);
        function.shared_bytes_max = bytes.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        Ok(())
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: CUstream,
    params: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> CUresult {
    code(call("cuLaunchKernel", |context, device| {
        let function = known(context.functions.get(&number(function)))?;
        if shared_bytes > function.shared_bytes_max || block_y != 1 || block_z != 1 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let kernel = function.kernel;
        let bytes = shoal_emu::args_bytes(kernel).ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?;
        // SAFETY: the driver's contract: as many pointers as the kernel has arguments, which is one, each to as many bytes as
        // the argument has.
        let args = unsafe { std::slice::from_raw_parts((*params).cast::<u8>(), bytes) }.to_vec();
        let grid = [grid_x, grid_y, grid_z];
        device.note(b'l');
        let launch = Box::new(Launch { kernel, grid, threads: block_x, shared_bytes, args });
        context.give(device, number(stream), Work::Launch(launch))
    }))
}
