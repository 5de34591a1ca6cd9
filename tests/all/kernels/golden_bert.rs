//! Tiny random checkpoints in every layout that BERT models are published in.

use std::fs;

use shoal_kernels::{
    CpuIsa, CpuLane, CpuModel, CpuOptions, Dtype, OutputSet, Outputs, PackedBatch, spec::Pooling,
};
use shoal_tests::{
    changed,
    golden::{self, Case, TINY_BERTS, TinyBert, cosine, error_max},
};

use super::{describe, devices, load, run};

/// A right f32 implementation stays within this many times the reference's own f32 error.
const F32_ERRORS_MAX: f64 = 4.0;
/// bf16 keeps 8 bits; these models are random and peaked, so errors grow faster than in trained ones.
const BF16_COSINE_MIN: f64 = 0.999;

fn assert_close(answer: &[f32], truth: &[f64], dtype: Dtype, f32_error: f64, what: &str) {
    if dtype == Dtype::F32 {
        let error = error_max(answer, truth);
        assert!(
            error <= F32_ERRORS_MAX * f32_error,
            "{what}: off by {error:e}, the reference by {f32_error:e}"
        );
    } else {
        let cosine = cosine(answer, truth);
        assert!(cosine >= BF16_COSINE_MIN, "{what}: cosine {cosine}");
    }
}

/// Cases one by one, and all in one batch.
fn assert_cases(model: &CpuModel, lane: &mut CpuLane, cases: &[Case], f32_error: f64, what: &str) {
    let sequences = cases.iter().map(|case| case.ids.as_slice()).collect::<Vec<_>>();
    let together = run(lane, model, &sequences, 2);
    for ((case, ids), together) in cases.iter().zip(sequences).zip(together) {
        let what = format!("{what}: {:?}", case.text);
        assert_close(&run(lane, model, &[ids], 1)[0], &case.vector, model.dtype(), f32_error, &what);
        assert_close(&together, &case.vector, model.dtype(), f32_error, &what);
    }
}

#[test]
fn answers_are_those_of_the_reference() {
    for name in TINY_BERTS {
        let golden = golden::tiny_bert(name);
        let description = describe(&golden::tiny_bert_dir(name));
        for device in devices() {
            let what = format!("{name} on {} {}", device.0, device.1);
            let model = load(&description, device);
            let mut lane = CpuLane::new(2);
            let error = golden.f32_error_max;
            assert_cases(&model, &mut lane, &golden.cases, error, &what);
            assert_cases(&model, &mut lane, &golden.prompts, error, &what);
            assert_segments(&model, &mut lane, &golden, &what);
        }
    }
}

fn assert_segments(model: &CpuModel, lane: &mut CpuLane, golden: &TinyBert, what: &str) {
    let Case { ids, type_ids, vector, .. } = &golden.type_ids_case;
    let mut batch = PackedBatch::new();
    batch.push(ids);
    batch.type_ids.clone_from(type_ids);
    let mut out = Outputs::new();
    lane.run(model, &batch, OutputSet::DENSE, 1, &mut out).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_close(&out.dense, vector, model.dtype(), golden.f32_error_max, &format!("{what}: two segments"));
}

#[test]
fn descriptions_are_what_the_files_say() {
    for name in TINY_BERTS {
        let golden = golden::tiny_bert(name);
        let description = describe(&golden::tiny_bert_dir(name));
        assert_eq!((description.dims, description.tokens_max), (golden.dims, golden.tokens_max), "{name}");
        let pooling = (description.pooling.to_string(), description.pooling_assumed);
        assert_eq!(pooling, (golden.pooling, golden.pooling_assumed), "{name}");
        assert_eq!(description.normalizes, golden.normalizes, "{name}");
    }
    let prompts = describe(&golden::tiny_bert_dir("mean")).prompts;
    assert_eq!((prompts.by_name["query"].as_str(), prompts.default_name), ("query: ", None));
}

/// A copy of `mean` that pools as told and does not normalise.
fn pooled_by(mode: &str) -> tempfile::TempDir {
    let dir = changed::copy_of(&golden::tiny_bert_dir("mean"));
    let module = |path: &str, class: &str| serde_json::json!({"path": path, "type": class});
    let modules = serde_json::json!([
        module("", "sentence_transformers.models.Transformer"),
        module("1_Pooling", "sentence_transformers.models.Pooling"),
    ]);
    let pooling = serde_json::json!({"pooling_mode": mode});
    fs::write(dir.path().join("modules.json"), modules.to_string()).expect("written");
    fs::write(dir.path().join("1_Pooling/config.json"), pooling.to_string()).expect("written");
    dir
}

#[test]
fn every_pooling_is_that_of_the_reference() {
    let mut golden = golden::tiny_bert("mean");
    let ids = golden.poolings.remove("ids").expect("the ids that were pooled");
    let ids = ids.iter().map(|&id| id as u32).collect::<Vec<_>>();
    assert_eq!(golden.poolings.len(), 6, "cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken");
    for (mode, truth) in &golden.poolings {
        let dir = pooled_by(mode);
        let description = describe(dir.path());
        assert_eq!(description.pooling.0 == [Pooling::Mean], mode == "mean");
        // The vectors are not normalised, so the error grows with their length.
        let scale = truth.iter().map(|x| x * x).sum::<f64>().sqrt().max(1.0);
        for isa in CpuIsa::available() {
            let model = load(&description, (isa, Dtype::F32));
            let answer = &run(&mut CpuLane::new(1), &model, &[&ids], 1)[0];
            assert_close(
                answer,
                truth,
                Dtype::F32,
                scale * golden.f32_error_max,
                &format!("{mode} on {isa}"),
            );
        }
    }
}

#[test]
fn the_default_device_runs_what_it_says() {
    let description = describe(&golden::tiny_bert_dir("mean"));
    let mut told = Vec::new();
    let model =
        CpuModel::load(&description, &CpuOptions::default(), &mut |done, total| told.push((done, total)))
            .expect("the default options load everywhere");
    assert_eq!(model.device_name(), format!("cpu {}", CpuIsa::detect()));
    assert!(told.is_sorted() && told.last().is_some_and(|(done, total)| done == total), "{told:?}");
    assert!(model.bytes() >= description.weight_bytes_estimate(model.dtype()));
}
