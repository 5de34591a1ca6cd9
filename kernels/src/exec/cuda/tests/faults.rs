//! What a lane says when its device does not do what it should, and that nothing of it panics.

use shoal_standin::{Planned, log, plan};

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
    let lane = lane(&device);
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
    let lane = lane(&device);
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
    let given_back = bench.device.memory_bytes().1 - free_bytes;
    assert_eq!(given_back, BATCHES_MAX as u64 * ROOM_BYTES, "and gives its memory back");
}

#[test]
fn a_model_that_does_not_fit_leaves_the_device_as_it_was() {
    let info = host::own_device();
    let device = CudaDevice::open(host::driver(), &info, Some(4096)).expect("it opens");
    let error = load(&device, &dir("bert", "mean"), Dtype::F16).expect_err("no room");
    assert!(matches!(&error, LoadError::Device(DeviceError::Memory { .. })), "{error}");
    assert_eq!(device.memory_bytes(), (4096, 4096));
}

/// A batch that is more than a lane has room for runs in parts, with the same bits; one text that is more is refused.
#[test]
fn a_batch_that_does_not_fit_runs_in_parts() {
    let info = host::own_device();
    let device = host::open(&info);
    let model = load(&device, &dir("bert", "mean"), Dtype::F16).expect("it loads");
    let (wanted, mut whole, mut cut) = (OutputSet::DENSE, Outputs::new(), Outputs::new());
    let mut large = PackedBatch::new();
    (1..40).for_each(|length| large.push(&(0..length).map(|at| 2 + at % 9).collect::<Vec<_>>()));
    let parts = lane(&device).run(&model, &large, wanted, &mut host::patient, &mut whole).expect("it runs");
    assert_eq!(parts, 1);
    for batches in [1, 2] {
        let mut narrow = CudaLane::new(&device, batches, 64 << 10).expect("a lane");
        let error = narrow.submit(&model, &large, wanted).expect_err("no room");
        assert!(matches!(error, ExecError::Room { room_bytes: 65_536, .. }), "{error}");
        drop(log(info.ordinal));
        let parts = narrow.run(&model, &large, wanted, &mut host::patient, &mut cut).expect("it runs");
        // A part's way: copied in, launches, copied out; done when somebody has waited for it.
        let order: Vec<char> = log(info.ordinal).chars().filter(|letter| "id".contains(*letter)).collect();
        let ahead = order.iter().take_while(|letter| **letter == 'i').count();
        assert_eq!(ahead, batches, "parts that were put in before any was waited for: {order:?}");
        assert!((3..39).contains(&parts), "{parts} parts");
        assert_eq!(cut, whole, "with {batches} on their way");
    }
    let mut narrow = CudaLane::new(&device, 2, 12 << 10).expect("a lane");
    let error = narrow.run(&model, &large, wanted, &mut host::patient, &mut cut).expect_err("a long text");
    assert!(matches!(error, ExecError::Room { .. }), "{error}");
    assert_eq!((&cut, narrow.in_flight()), (&Outputs::new(), 0), "short ones before it are dropped");
    let one = narrow.run(&model, &text(&[2, 9, 3]), wanted, &mut host::patient, &mut cut);
    assert_eq!(one.expect("a short one fits"), 1);
}

#[test]
fn a_lane_without_room_is_not_made() {
    let device = host::open(&host::own_device());
    let error = CudaLane::new(&device, 2, host::BUDGET_BYTES).expect_err("no room for two");
    assert!(matches!(error, DeviceError::Memory { .. }), "{error}");
    assert_eq!(device.memory_bytes(), (host::BUDGET_BYTES, host::BUDGET_BYTES));
}

/// A copy of a checkpoint, pipeline left out, in which one f32 tensor holds one value.
fn with_tensor(from: &Path, tensor: &str, value: f32) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    for file in std::fs::read_dir(from).expect("a checkpoint").map(|file| file.expect("a file").path()) {
        if file.is_file() && !file.ends_with("modules.json") {
            std::fs::copy(&file, to.path().join(file.file_name().expect("a name"))).expect("copied");
        }
    }
    let path = to.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("weights");
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_bytes]).expect("a header");
    let at = |index: usize| header[tensor]["data_offsets"][index].as_u64().expect("an offset") as usize;
    let data = 8 + header_bytes + at(0)..8 + header_bytes + at(1);
    bytes[data].chunks_exact_mut(4).for_each(|word| word.copy_from_slice(&value.to_le_bytes()));
    std::fs::write(&path, bytes).expect("written");
    to
}

#[test]
fn what_its_format_cannot_hold_is_an_error_that_names_it() {
    let device = host::open(&host::own_device());
    let bias = "encoder.layer.0.intermediate.dense.bias";
    let dir = with_tensor(&dir("bert", "mean"), bias, 1e6);
    let (wanted, mut out, mut lane) = (OutputSet::DENSE, Outputs::new(), lane(&device));
    for (dtype, overflows) in [(Dtype::F16, true), (Dtype::Bf16, false)] {
        let model = load(&device, dir.path(), dtype).expect("it loads");
        let ran = lane.run(&model, &text(&[2, 9, 3]), wanted, &mut host::patient, &mut out);
        assert_eq!(ran.err(), overflows.then_some(ExecError::NotFinite { dtype }));
        assert_eq!(out.dense.is_empty(), overflows);
    }
}

#[test]
fn what_devices_leave_out_is_said_without_loading() {
    let of = |name: &str, room_bytes| {
        let fit = CudaModel::fit(&describe(&dir("", name)), DtypePolicy::Auto, room_bytes);
        fit.map(|fit| (fit.dtype, fit.tokens_max)).map_err(|error| error.to_string())
    };
    assert_eq!(of("bert/mean", ROOM_BYTES), Ok((Dtype::F16, 48)));
    let (_, tokens_max) = of("bert/mean", 12 << 10).expect("there is room for some");
    assert!((2..40).contains(&tokens_max), "{tokens_max}");
    let error = of("bert/mean", 1024).expect_err("room for none");
    assert!(error.ends_with("1024 are set aside for one"), "{error}");
    assert_eq!(of("heads/bge-m3", ROOM_BYTES).expect("weights of its tokens").0, Dtype::F16);
    let error = of("heads/splade-log-6", ROOM_BYTES).expect_err("weights of all words");
    assert_eq!(error, "CUDA devices do not compute its sparse outputs; run the model on the CPU");
    assert_eq!(of("heads/colbert-pylate", ROOM_BYTES), Err(PlanError::CudaUnseen.to_string()));
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
