//! The real all-MiniLM-L6-v2 as a CUDA device runs it, on the stand-in for the driver and the emulation of the kernels.

use std::sync::Arc;

use shoal_kernels::cuda::{CudaDevice, Driver};
use shoal_kernels::{CudaLane, CudaModel, Dtype, DtypePolicy, OutputSet, Outputs, PackedBatch};
use shoal_tests::golden::{self, cosine};
use shoal_tests::test_model;

use super::describe;

/// The model in f16, and room for small batches.
const BUDGET_BYTES: u64 = 96 << 20;
/// Tokens of a text: the emulation takes a second for a few of them.
const TOKENS_MAX: usize = 9;

#[test]
fn the_real_model_answers_on_a_cuda_device() {
    let driver =
        Driver::load_from(&[&shoal_standin::library()], None).expect("the stand-in is beside the tests");
    let info = driver.devices(None).expect("devices").swap_remove(0);
    let device = CudaDevice::open(driver, &info, Some(BUDGET_BYTES)).expect("it opens");
    let description = describe(test_model::all_minilm_l6_v2());
    let model = CudaModel::load(&description, &device, DtypePolicy::Auto, &mut || true, &mut |_, _| {});
    let model = Arc::new(model.expect("it loads"));
    assert_eq!((model.dtype(), model.device_name()), (Dtype::F16, "cuda:0 Shoal stand-in"));
    assert!((45_000_000..46_000_000).contains(&model.bytes()), "{} bytes", model.bytes());

    let golden = golden::minilm();
    let texts: Vec<_> = golden.iter().filter(|(text, _)| text.ids.len() <= TOKENS_MAX).take(4).collect();
    assert_eq!(texts.len(), 4);
    let mut batch = PackedBatch::new();
    texts.iter().for_each(|(text, _)| batch.push(&text.ids));
    let (mut lane, mut out) = (CudaLane::new(&device, 1, 16 << 20).expect("a lane"), Outputs::new());
    lane.run(&model, &batch, OutputSet::DENSE, &mut || true, &mut out).expect("it runs");
    for ((text, truth), answer) in texts.into_iter().zip(out.dense.chunks_exact(model.dims())) {
        let cosine = cosine(answer, truth);
        assert!(cosine >= 0.9999, "cosine {cosine} for {:?}", text.text);
    }
}
