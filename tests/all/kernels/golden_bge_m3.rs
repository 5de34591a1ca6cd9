//! A tiny random model in BGE-M3's layout: three answers of one pass.

use serde::Deserialize;
use shoal_kernels::{CpuLane, CpuModel, Dtype, MultivectorText, OutputSet, Outputs, PackedBatch};
use shoal_tests::{
    changed,
    golden::{self, TinyHead, cosine, error_max},
};

use super::{bits, describe, devices, load};

/// A right f32 implementation stays within this many times the reference's own f32 error.
const F32_ERRORS_MAX: f64 = 4.0;
const BITS16_COSINE_MIN: f64 = 0.999;
const NAME: &str = "bge-m3";
const ALL: OutputSet = OutputSet { dense: true, sparse: true, multivector: true, ..OutputSet::NONE };

#[derive(Deserialize)]
struct Case {
    ids: Vec<u32>,
    dense: Vec<f64>,
    indices: Vec<u32>,
    values: Vec<f64>,
    vectors: Vec<f64>,
}

fn run(lane: &mut CpuLane, model: &CpuModel, cases: &[&Case], wanted: OutputSet) -> Outputs {
    let mut batch = PackedBatch::new();
    cases.iter().for_each(|case| batch.push(&case.ids));
    let mut out = Outputs::new();
    lane.run(model, &batch, wanted, 2, &mut out).unwrap_or_else(|error| panic!("{error}"));
    out
}

/// The weight of each token of a case, 0 without one: what was answered, and the truth.
fn weights(out: &Outputs, case: &Case) -> (Vec<f32>, Vec<f64>) {
    assert_eq!(out.sparse.indptr, [0, out.sparse.indices.len() as u32]);
    assert!(
        out.sparse.indices.is_sorted_by(|a, b| a < b) && out.sparse.values.iter().all(|value| *value > 0.0)
    );
    let at = |indices: &[u32], id: u32| indices.binary_search(&id).ok();
    let answer = |&id: &u32| at(&out.sparse.indices, id).map_or(0.0, |at| out.sparse.values[at]);
    let truth = |&id: &u32| at(&case.indices, id).map_or(0.0, |at| case.values[at]);
    (case.ids.iter().map(answer).collect(), case.ids.iter().map(truth).collect())
}

#[test]
fn one_pass_gives_all_three_as_the_reference_does() {
    let golden: TinyHead<Case> = golden::tiny_head(NAME);
    let description = describe(&golden::tiny_head_dir(NAME));
    assert_eq!((description.gives(), description.dims, description.normalizes), (ALL, 32, true));
    let texts = description.multivector.as_ref().expect("texts");
    assert_eq!(texts.query, MultivectorText { tokens_max: 72, ..MultivectorText::default() });
    for device in devices() {
        let (model, mut lane) = (load(&description, device), CpuLane::new(2));
        let close = |answer: &[f32], truth: &[f64], what: &str| {
            let what = format!("{what} on {} {}", device.0, device.1);
            if device.1 == Dtype::F32 {
                let (error, allowed) = (error_max(answer, truth), F32_ERRORS_MAX * golden.f32_error_max);
                assert!(error <= allowed, "{what}: off by {error:e}, allowed {allowed:e}");
            } else if truth.iter().any(|value| *value != 0.0) {
                let cosine = cosine(answer, truth);
                assert!(cosine >= BITS16_COSINE_MIN, "{what}: cosine {cosine}");
            }
        };
        for case in &golden.cases {
            let out = run(&mut lane, &model, &[case], ALL);
            close(&out.dense, &case.dense, "dense");
            assert_eq!(out.multivector_bounds, [0, case.ids.len() as u32 - 1]);
            close(&out.multivector, &case.vectors, "multivector");
            let (answer, truth) = weights(&out, case);
            close(&answer, &truth, "sparse");
        }
    }
}

/// The command that the refusal gives makes what is then read; the golden files were written by the same library.
#[test]
fn pickled_heads_are_refused_with_what_converts_them() {
    let dir = changed::copy_of(&golden::tiny_head_dir(NAME));
    let [safe, pickle] =
        ["safetensors", "pt"].map(|kind| dir.path().join("colbert_linear").with_extension(kind));
    std::fs::rename(&safe, &pickle).expect("renamed");
    let told = changed::told(dir.path());
    assert!(
        told.starts_with("DIR/colbert_linear.pt is a pickle of PyTorch, a program, which is not run"),
        "{told}"
    );
    assert!(told.ends_with("'DIR/colbert_linear.pt' 'DIR/colbert_linear.safetensors'"), "{told}");
    std::fs::remove_file(&pickle).expect("removed");
    let gives = describe(dir.path()).gives();
    assert_eq!(gives, OutputSet { multivector: false, ..ALL }, "without the file there is no such head");
    std::fs::rename(dir.path().join("model.safetensors"), dir.path().join("pytorch_model.bin"))
        .expect("renamed");
    let told = changed::told(dir.path());
    assert!(told.ends_with("'DIR/pytorch_model.bin' 'DIR/model.safetensors'"), "{told}");
}

#[test]
fn an_output_is_the_same_whatever_else_is_wanted() {
    let golden: TinyHead<Case> = golden::tiny_head(NAME);
    let cases = golden.cases.iter().collect::<Vec<_>>();
    let description = describe(&golden::tiny_head_dir(NAME));
    for device in devices() {
        let (model, mut lane) = (load(&description, device), CpuLane::new(2));
        let all = run(&mut lane, &model, &cases, ALL);
        let dense = run(&mut lane, &model, &cases, OutputSet::DENSE);
        assert_eq!(bits(&dense.dense), bits(&all.dense));
        assert!(dense.multivector.is_empty() && dense.sparse.indices.is_empty());
        let sparse = run(&mut lane, &model, &cases, OutputSet { sparse: true, ..OutputSet::NONE });
        assert_eq!((sparse.sparse, sparse.dense.len()), (all.sparse, 0));
    }
}
