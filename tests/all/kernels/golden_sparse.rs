//! Tiny random checkpoints that answer weights of words.

use serde_json::json;
use shoal_kernels::{CpuLane, CpuModel, Dtype, ModelTask, OutputSet, Outputs, PackedBatch};
use shoal_tests::{
    changed::refusal,
    golden::{self, SparseCase, TINY_SPARSE, TinyHead, cosine},
};

use super::{bits, describe, devices, load};

/// A right f32 implementation stays within this many times the reference's own f32 error.
const F32_ERRORS_MAX: f64 = 4.0;
const BITS16_COSINE_MIN: f64 = 0.999;
const SPARSE: OutputSet = OutputSet { sparse: true, ..OutputSet::NONE };

/// The rows of sequences run as one batch, each with its words.
fn rows(
    lane: &mut CpuLane,
    model: &CpuModel,
    cases: &[SparseCase],
    threads: usize,
) -> Vec<(Vec<u32>, Vec<f32>)> {
    let mut batch = PackedBatch::new();
    cases.iter().for_each(|case| batch.push(&case.ids));
    let mut out = Outputs::new();
    lane.run(model, &batch, SPARSE, threads, &mut out).unwrap_or_else(|error| panic!("{error}"));
    let row = |range: &[u32]| {
        let range = range[0] as usize..range[1] as usize;
        (out.sparse.indices[range.clone()].to_vec(), out.sparse.values[range].to_vec())
    };
    out.sparse.indptr.windows(2).map(row).collect()
}

/// All words side by side, those without a weight too.
fn spread(indices: &[u32], values: impl Iterator<Item = f64>, words: usize) -> Vec<f64> {
    let mut row = vec![0.0; words];
    indices.iter().zip(values).for_each(|(&index, value)| row[index as usize] = value);
    row
}

fn assert_close(answer: &(Vec<u32>, Vec<f32>), truth: &SparseCase, f32_error: Option<f64>, what: &str) {
    let (indices, values) = answer;
    assert!(indices.is_sorted_by(|a, b| a < b) && values.iter().all(|value| *value > 0.0), "{what}");
    let words = 1 + indices.iter().chain(&truth.indices).copied().max().unwrap_or(0) as usize;
    let answer = spread(indices, values.iter().map(|value| f64::from(*value)), words);
    let truth = spread(&truth.indices, truth.values.iter().copied(), words);
    if let Some(error) = f32_error {
        let off = answer.iter().zip(&truth).map(|(a, t)| (a - t).abs()).fold(0.0, f64::max);
        assert!(off <= F32_ERRORS_MAX * error, "{what}: off by {off:e}, the reference by {error:e}");
    } else {
        let answer: Vec<f32> = answer.iter().map(|value| *value as f32).collect();
        let cosine = cosine(&answer, &truth);
        assert!(cosine >= BITS16_COSINE_MIN, "{what}: cosine {cosine}");
    }
}

#[test]
fn weights_are_those_of_the_reference_in_any_company() {
    for name in TINY_SPARSE {
        let golden: TinyHead<SparseCase> = golden::tiny_head(name);
        let description = describe(&golden::tiny_head_dir(name));
        assert_eq!((description.gives(), description.task()), (SPARSE, ModelTask::Encode), "{name}");
        assert_eq!((description.dims, description.tokens_max), (0, golden.tokens_max), "{name}");
        for device in devices() {
            let (model, mut lane) = (load(&description, device), CpuLane::new(2));
            let error = (device.1 == Dtype::F32).then_some(golden.f32_error_max);
            let together = rows(&mut lane, &model, &golden.cases, 2);
            for (case, together) in golden.cases.iter().zip(together) {
                let what = format!("{name} on {} {}, {} tokens", device.0, device.1, case.ids.len());
                assert_close(&together, case, error, &what);
                let alone = rows(&mut lane, &model, std::slice::from_ref(case), 1).remove(0);
                assert_eq!((alone.0, bits(&alone.1)), (together.0, bits(&together.1)), "{what}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let told = |file: &str, change: &dyn Fn(&mut serde_json::Value)| {
        refusal(&golden::tiny_head_dir("splade-max"), file, change)
    };
    let pooling = "1_SpladePooling/config.json";
    let mean = told(pooling, &|config| config["pooling_strategy"] = "mean".into());
    assert_eq!(
        mean,
        "DIR/1_SpladePooling/config.json: pooling by \"mean\" is not covered; covered: max, sum"
    );
    let gelu = told(pooling, &|config| config["activation_function"] = "gelu".into());
    assert!(gelu.ends_with("the activation \"gelu\" is not covered; covered: relu, log1p_relu"), "{gelu}");
    let bare = told("config.json", &|config| config["architectures"] = json!(["BertModel"]));
    assert!(bare.ends_with("asks for logits of words, but the architecture has no such head"), "{bare}");
    let untied = told("config.json", &|config| config["tie_word_embeddings"] = false.into());
    assert_eq!(untied, "DIR/config.json: tensor \"cls.predictions.decoder.weight\": not in the checkpoint");
}
