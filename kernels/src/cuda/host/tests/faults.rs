//! What goes wrong on a device, and that it can be opened again afterwards.

use shoal_standin::{Planned, plan};

use super::*;

/// A copy on the way, and the event behind it.
fn copy(device: &Arc<CudaDevice>) -> Result<(Stream, Event, Pinned, DeviceMemory), DeviceError> {
    let memory = device.allocate(64)?;
    let (stream, done) = (Stream::new(device)?, Event::new(device)?);
    let sent = upload(device, &[1.0; 4]);
    // SAFETY: the memory and the pinned buffer live as long as what this returns.
    unsafe { stream.copy_in(memory.address(), &sent, 16)? };
    stream.record(&done)?;
    Ok((stream, done, sent, memory))
}

fn works(device: &Arc<CudaDevice>) {
    let (_stream, done, _sent, _memory) = copy(device).expect("it works");
    done.wait(&mut patient).expect("it ends");
}

#[test]
fn a_lost_device_refuses_everything_until_it_is_opened_again() {
    let info = own_device();
    let device = open(&info);
    let in_flight = copy(&device).expect("a copy");
    plan(info.ordinal, "cuEventQuery", 1, Planned::IllegalAddress);
    let error = in_flight.1.wait(&mut patient).expect_err("it is lost");
    let code = "CUDA_ERROR_ILLEGAL_ADDRESS".to_owned();
    assert_eq!(error, DeviceError::Lost { call: "cuEventQuery", code });
    assert_eq!(device.lost(), Some(&error));
    assert_eq!(copy(&device).expect_err("still lost"), error);
    assert_eq!(Stream::new(&device).expect_err("still lost"), error);
    drop((in_flight, device));
    works(&open(&info));
}

#[test]
fn work_that_does_not_end_gives_the_device_up() {
    let info = own_device();
    let device = open(&info);
    plan(info.ordinal, "cuEventRecord", 0, Planned::Hang);
    let in_flight = copy(&device).expect("a copy");
    let mut patience = 5;
    let mut asks = || {
        patience -= 1;
        patience > 0
    };
    assert_eq!(in_flight.1.wait(&mut asks), Err(DeviceError::Hung));
    assert_eq!(device.lost(), Some(&DeviceError::Hung));
    drop((in_flight, device));
    works(&open(&info));
}

#[test]
fn a_device_without_memory_opens_nothing() {
    let info = own_device();
    plan(info.ordinal, "cuMemAlloc_v2", 0, Planned::NoMemory);
    let error = CudaDevice::open(driver(), &info, None).expect_err("no memory");
    assert!(matches!(error, DeviceError::Budget { .. }), "{error}");
    plan(info.ordinal, "cuMemHostAlloc", 0, Planned::NoMemory);
    let device = open(&info);
    let error = Pinned::for_results(&device, 64).expect_err("no pinned memory");
    let code = "CUDA_ERROR_OUT_OF_MEMORY".to_owned();
    assert_eq!(error, DeviceError::Refused { call: "cuMemHostAlloc", code });
    assert_eq!(device.lost(), None, "which is no reason to give it up");
    works(&device);
}

#[test]
fn a_context_that_is_not_made_leaves_nothing() {
    let info = own_device();
    plan(info.ordinal, "cuCtxCreate_v4", 0, Planned::IllegalAddress);
    let error = CudaDevice::open(driver(), &info, None).expect_err("no context");
    assert!(matches!(error, DeviceError::Lost { call: "cuCtxCreate_v4", .. }), "{error}");
    works(&open(&info));
}

/// Codes of a driver that is newer than this program are numbers, and the end of a context to be sure.
#[test]
fn a_code_that_nobody_knows_is_an_error_like_others() {
    let error = error::check("cuLaunchKernel", 9_999).expect_err("no success");
    let code = "CUDA error 9999".to_owned();
    assert_eq!(error, DeviceError::Lost { call: "cuLaunchKernel", code });
    assert!(error.is_end());
}

#[test]
fn a_device_older_than_the_kernels_is_refused() {
    let mut info = own_device();
    info.compute = (7, 5);
    let error = CudaDevice::open(driver(), &info, None).expect_err("too old");
    assert_eq!(error.to_string(), "Shoal stand-in is sm_75; kernels are built for sm_80 and newer");
}

/// Copies from memory that is not pinned would be ordered differently on every driver: there is no way to ask for one.
#[test]
fn a_copy_stays_within_what_was_pinned() {
    let device = open(&own_device());
    let memory = device.allocate(64).expect("room");
    let (sent, stream) = (upload(&device, &[1.0]), Stream::new(&device).expect("a stream"));
    // SAFETY: it is refused before anything is copied.
    let error = unsafe { stream.copy_in(memory.address(), &sent, 5) }.expect_err("one byte more than pinned");
    assert!(error.to_string().contains("5 bytes of 4 pinned ones"), "{error}");
}
