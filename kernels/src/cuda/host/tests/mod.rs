//! The host's side on the stand-in for the driver. Each test has a device of its own there.

mod faults;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::Dtype;
use crate::cpu::{Activation, Pooling};
use crate::cuda::{DenseArgs, DenseKernel, GemmArgs, GemmKernels, KernelModule, PoolArgs, PoolKernel};
use crate::cuda::{activation_code, pooling_code};

pub(crate) fn driver() -> Driver {
    let path = shoal_standin::library();
    Driver::load_from(&[&path], None).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A device that no other test has.
pub(crate) fn own_device() -> CudaDeviceInfo {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ordinal = NEXT.fetch_add(1, Ordering::Relaxed) as usize;
    let mut all = driver().devices(None).expect("devices");
    assert!(ordinal < all.len(), "the stand-in needs more devices");
    all.swap_remove(ordinal)
}

/// Enough for tiny models.
pub(crate) const BUDGET_BYTES: u64 = 32 << 20;

pub(crate) fn open(info: &CudaDeviceInfo) -> Arc<CudaDevice> {
    CudaDevice::open(driver(), info, Some(BUDGET_BYTES)).expect("it opens")
}

/// For waits that must end: never says no.
pub(crate) fn patient() -> bool {
    true
}

/// Pinned memory with these values.
fn upload(device: &Arc<CudaDevice>, values: &[f32]) -> Pinned {
    let mut pinned = Pinned::for_uploads(device, size_of_val(values)).expect("pinned memory");
    pinned.bytes_mut().copy_from_slice(bytemuck::cast_slice(values));
    pinned
}

fn floats(pinned: &Pinned) -> Vec<f32> {
    bytemuck::cast_slice(pinned.bytes()).to_vec()
}

#[test]
fn the_driver_lists_its_devices() {
    let driver = driver();
    assert_eq!(driver.version(), 13_000);
    let devices = driver.devices(None).expect("devices");
    assert_eq!(devices.len(), shoal_standin::DEVICES);
    assert_eq!((devices[3].ordinal, devices[3].compute), (3, (8, 0)));
    assert_eq!(devices[3].uuid, "GPU-03030303-0303-0303-0303-030303030303");
}

#[test]
fn streams_are_ordered_by_events_and_by_nothing_else() {
    let info = own_device();
    let device = open(&info);
    let memory = device.allocate(64).expect("room");
    let sent = upload(&device, &[1.0, 2.0, 3.0]);
    let [before, after] = [0, 1].map(|_| Pinned::for_results(&device, 12).expect("pinned memory"));
    let [copies, results] = [0, 1].map(|_| Stream::new(&device).expect("a stream"));
    let [arrived, early, late] = [0, 1, 2].map(|_| Event::new(&device).expect("an event"));
    // SAFETY: the memory is this test's, the pinned buffers live until both results were waited for.
    unsafe {
        copies.copy_in(memory.address(), &sent, 12).expect("a copy");
        copies.record(&arrived).expect("recorded");
        results.copy_out((&before, 0), memory.address(), 12).expect("a copy");
        results.record(&early).expect("recorded");
        results.wait(&arrived).expect("ordered");
        results.copy_out((&after, 0), memory.address(), 12).expect("a copy");
        results.record(&late).expect("recorded");
    }
    early.wait(&mut patient).expect("it ends");
    assert!(floats(&before).iter().all(|value| value.is_nan()), "it did not wait");
    late.wait(&mut patient).expect("it ends");
    assert_eq!(floats(&after), [1.0, 2.0, 3.0]);
}

/// Of two rows of eight with eight more.
fn two_by_eight(x: u64, out: u64) -> GemmArgs {
    GemmArgs {
        x,
        weight: x,
        bias: 0,
        residual: 0,
        out,
        rows: 2,
        columns: 8,
        inner: 8,
        x_stride: 8,
        residual_stride: 8,
        out_stride: 8,
        activation: activation_code(Activation::Identity),
        is_gated: 0,
    }
}

/// A pooling of two rows, then a dense layer, and a product whose tile needs more shared memory than blocks have unasked.
#[test]
fn launches_run_in_their_stream() {
    let info = own_device();
    let device = open(&info);
    let stream = Stream::new(&device).expect("a stream");
    let memory = device.allocate(4096).expect("room");
    let [x, bounds, pooled, weight, out] = [0, 512, 1024, 2048, 3072].map(|at| memory.address() + at);
    let rows: Vec<u16> = (0..16).map(|value| half::f16::from_f32(value as f32).to_bits()).collect();
    let mut sent = Pinned::for_uploads(&device, 3072).expect("pinned memory");
    sent.bytes_mut()[..32].copy_from_slice(bytemuck::cast_slice(&rows));
    sent.bytes_mut()[512..520].copy_from_slice(bytemuck::cast_slice(&[0u32, 2]));
    sent.bytes_mut()[2048..2080].copy_from_slice(bytemuck::cast_slice(&[0.5f32; 8]));
    let pool = PoolKernel::select(Dtype::F16).expect("a kernel");
    let mean = pooling_code(Pooling::Mean);
    let pool_args =
        PoolArgs { x, cu_seqlens: bounds, out: pooled, sequences: 1, dims: 8, out_stride: 8, pooling: mean };
    let dense = DenseKernel::select(Dtype::F32).expect("a kernel");
    let dense_args = DenseArgs {
        x: pooled,
        weight,
        bias: 0,
        out,
        rows: 1,
        columns: 1,
        inner: 8,
        x_stride: 8,
        out_stride: 1,
        activation: activation_code(Activation::Identity),
    };
    let gemm = GemmKernels::select(Dtype::F16).expect("a kernel");
    let large = gemm.launch_tile(two_by_eight(x, out + 256), 0).expect("a launch");
    assert!(large.kernel.shared_bytes > 48 << 10);
    let result = Pinned::for_results(&device, 4).expect("pinned memory");
    let done = Event::new(&device).expect("an event");
    // SAFETY: all addresses are in `memory`, whose parts are as long as the arguments say (the weights of the product are
    // rows of zeros and poison, whose results nobody reads); buffers live until the event.
    unsafe {
        stream.copy_in(memory.address(), &sent, 3072).expect("a copy");
        stream.launch(&pool.launch(pool_args).expect("a launch")).expect("it is put in");
        stream.launch(&dense.launch(dense_args).expect("a launch")).expect("it is put in");
        stream.launch(&large).expect("it is put in");
        stream.copy_out((&result, 0), out, 4).expect("a copy");
        stream.record(&done).expect("recorded");
    }
    done.wait(&mut patient).expect("it ends");
    assert_eq!(floats(&result), [(0..8).map(|value| 0.5 * (value as f32 + 4.0)).sum::<f32>()]);
}

#[test]
fn every_module_is_whole() {
    let device = open(&own_device());
    for &module in KernelModule::ALL {
        let kernel = crate::cuda::Kernel::new(module, "none".to_owned(), 32, 0);
        let error = device.prepare(&kernel).expect_err("the module has no such kernel");
        assert!(error.to_string().starts_with("cuModuleGetFunction"), "{module:?} loads: {error}");
    }
}

#[test]
fn the_budget_is_all_that_a_device_gives() {
    let info = own_device();
    let device = open(&info);
    let half = device.allocate(BUDGET_BYTES / 2).expect("room");
    let quarter = device.allocate(BUDGET_BYTES / 4).expect("room");
    let error = device.allocate(BUDGET_BYTES / 2).expect_err("no room");
    let (budget_bytes, free_bytes) = (BUDGET_BYTES, BUDGET_BYTES / 4);
    let wanted_bytes = BUDGET_BYTES / 2;
    let full = DeviceError::Memory { wanted_bytes, free_bytes, largest_bytes: free_bytes, budget_bytes };
    assert_eq!(error, full);
    drop(half);
    assert_eq!(device.memory_bytes(), (BUDGET_BYTES, BUDGET_BYTES / 4 * 3));
    device.allocate(BUDGET_BYTES / 2).expect("room again");
    drop(quarter);
    let all_bytes = shoal_standin::DEVICE_BYTES as u64;
    let other = CudaDevice::open(driver(), &info, Some(all_bytes)).expect_err("more than is free");
    let free_bytes = all_bytes - BUDGET_BYTES;
    assert_eq!(other, DeviceError::Budget { wanted_bytes: all_bytes, free_bytes });
}
