//! What a lane says when its device does not do what it should, and that nothing of it panics.

use shoal_standin::{Planned, plan};

use super::*;
use crate::{
    cuda::{CudaDeviceInfo, DeviceError, KernelError},
    exec::ExecError,
    plan::PlanError,
    spec::LayerPattern,
};

struct Bench {
    info: CudaDeviceInfo,
    device: Arc<CudaDevice>,
    model: Arc<CudaModel>,
    lane: CudaLane,
}

/// More than half of a device: it can be opened again only once all of it was given back.
const MOST_BYTES: u64 = shoal_standin::DEVICE_BYTES as u64 / 5 * 3;

fn open_most(info: &CudaDeviceInfo) -> Arc<CudaDevice> {
    CudaDevice::open(host::driver(), info, Some(MOST_BYTES)).expect("it opens")
}

fn bench() -> Bench {
    let info = host::own_device();
    let device = open_most(&info);
    let model = load(&device, &dir("bert", "mean"), Dtype::F16).expect("it loads");
    let lane = CudaLane::new(&device).expect("a lane");
    Bench { info, device, model, lane }
}

fn text(ids: &[u32]) -> PackedBatch {
    let mut batch = PackedBatch::new();
    batch.push(ids);
    batch
}

impl Bench {
    fn submit(&mut self, ids: &[u32]) -> Result<(), ExecError> {
        self.lane.submit(&self.model, &text(ids), OutputSet::DENSE)
    }

    fn finish(&mut self) -> Result<Vec<f32>, ExecError> {
        let mut out = Outputs::new();
        self.lane.finish(&mut host::patient, &mut out).map(|()| out.dense)
    }

    fn answer(&mut self, ids: &[u32]) -> Vec<f32> {
        self.submit(ids).expect("it is put in");
        self.finish().expect("it ends")
    }
}

#[test]
fn two_batches_are_on_their_way_and_end_in_order() {
    for seed in [0, 3, 8, 21] {
        let mut bench = bench();
        let [first, second] = [&[2, 9, 8, 3][..], &[2, 7, 3]].map(|ids| bench.answer(ids));
        hurry(bench.info.ordinal, seed);
        assert_eq!(bench.finish(), Err(ExecError::Idle));
        bench.submit(&[2, 9, 8, 3]).expect("room for one");
        bench.submit(&[2, 7, 3]).expect("and another");
        assert_eq!(bench.submit(&[2, 3]), Err(ExecError::Busy));
        assert_eq!(bench.finish().expect("it ends"), first);
        bench.submit(&[2, 9, 8, 3]).expect("room again");
        assert_eq!(bench.finish().expect("it ends"), second);
        assert_eq!(bench.finish().expect("it ends"), first);
        assert_eq!(bench.lane.in_flight(), 0);
    }
}

#[test]
fn a_device_that_is_lost_under_a_batch_says_so_until_it_is_opened_again() {
    let mut bench = bench();
    let before = bench.answer(&[2, 9, 3]);
    plan(bench.info.ordinal, "cuLaunchKernel", 5, Planned::IllegalAddress);
    let error = bench.submit(&[2, 9, 3]).expect_err("lost on the way");
    assert!(matches!(&error, ExecError::Device(DeviceError::Lost { .. })), "{error}");
    assert_eq!(bench.submit(&[2, 9, 3]), Err(error));
    drop((bench.lane, bench.model, bench.device));
    let device = open_most(&bench.info);
    let model = load(&device, &dir("bert", "mean"), Dtype::F16).expect("it loads again");
    let lane = CudaLane::new(&device).expect("a lane");
    let mut again = Bench { info: bench.info, device, model, lane };
    assert_eq!(again.answer(&[2, 9, 3]), before);
}

#[test]
fn a_batch_that_does_not_end_gives_the_device_up() {
    let mut bench = bench();
    bench.submit(&[2, 9, 3]).expect("it is put in");
    plan(bench.info.ordinal, "cuEventQuery", 0, Planned::Hang);
    let (mut out, mut patience) = (Outputs::new(), 3);
    let mut goes_on = || {
        patience -= 1;
        patience > 0
    };
    let error = bench.lane.finish(&mut goes_on, &mut out).expect_err("it hangs");
    assert_eq!(error, ExecError::Device(DeviceError::Hung));
    assert_eq!(bench.device.lost(), Some(&DeviceError::Hung));
    assert_eq!(bench.submit(&[2, 3]), Err(error));
    drop((bench.lane, bench.model, bench.device));
    open_most(&bench.info);
}

/// A lane that goes before its batches have ended waits for them: they use its memory.
#[test]
fn a_lane_may_go_with_batches_on_their_way() {
    let mut bench = bench();
    let (_, free_bytes) = bench.device.memory_bytes();
    bench.submit(&[2, 9, 3]).expect("it is put in");
    bench.submit(&[2, 3]).expect("it is put in");
    drop(bench.lane);
    assert_eq!(bench.device.lost(), None);
    assert_eq!(bench.device.memory_bytes().1, free_bytes, "and gives its memory back");
}

#[test]
fn a_model_that_does_not_fit_leaves_the_device_as_it_was() {
    let info = host::own_device();
    let device = CudaDevice::open(host::driver(), &info, Some(4096)).expect("it opens");
    let error = load(&device, &dir("bert", "mean"), Dtype::F16).expect_err("no room");
    assert!(matches!(&error, LoadError::Device(DeviceError::Memory { .. })), "{error}");
    assert_eq!(device.memory_bytes(), (4096, 4096));
}

#[test]
fn a_batch_that_does_not_fit_is_refused_and_a_smaller_one_runs() {
    let info = host::own_device();
    let model_bytes = load(&host::open(&info), &dir("bert", "mean"), Dtype::F16).expect("it loads").bytes();
    let device = CudaDevice::open(host::driver(), &info, Some(model_bytes + (32 << 10))).expect("it opens");
    let model = load(&device, &dir("bert", "mean"), Dtype::F16).expect("it loads");
    let mut lane = CudaLane::new(&device).expect("a lane");
    let mut large = PackedBatch::new();
    (0..40).for_each(|_| large.push(&[2, 9, 8, 7, 3]));
    let error = lane.submit(&model, &large, OutputSet::DENSE).expect_err("no room");
    assert!(matches!(&error, ExecError::Device(DeviceError::Memory { .. })), "{error}");
    let mut out = Outputs::new();
    let small = text(&[2, 9, 3]);
    lane.run(&model, &small, OutputSet::DENSE, &mut host::patient, &mut out).expect("a smaller one fits");
    assert_eq!(out.dense.len(), model.dims());
}

#[test]
fn what_no_kernel_computes_is_refused_before_anything_is_loaded() {
    let info = host::own_device();
    let device = host::open(&info);
    let error = load(&device, &dir("bert", "mean"), Dtype::F32).expect_err("no kernel");
    assert!(matches!(error, LoadError::Plan(PlanError::Kernel(KernelError::Dtype(Dtype::F32)))), "{error}");
    let mut spec = describe(&dir("bert", "mean")).spec;
    let LayerPattern::Uniform { layer, .. } = &mut spec.layers else { panic!("all layers are alike") };
    layer.attention.head_dim = 512;
    let error = crate::plan::CudaPlan::new(&spec, DtypePolicy::Auto).expect_err("no kernel");
    assert!(error.to_string().ends_with("run the model on the CPU"), "{error}");
}
