//! The real all-MiniLM-L6-v2 on 200 texts, against sentence-transformers in f32.

use shoal_kernels::{CpuIsa, CpuLane, Dtype};
use shoal_tests::{
    golden::{self, cosine},
    test_model,
};
use tokenizers::Tokenizer;

use super::{describe, devices, load, run};

/// The least cosine over all 200 texts that a format may have.
const fn cosine_min(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 0.99999,
        _ => 0.9995,
    }
}

#[test]
fn cosines_hold_in_every_format() {
    let golden = golden::minilm();
    assert_eq!(golden.len(), 200);
    let description = describe(test_model::all_minilm_l6_v2());
    // The slower sets take a part of the texts; each set sees every length.
    for device in devices() {
        let step = if device.0 >= CpuIsa::Avx512 { 1 } else { 7 };
        let (model, mut lane) = (load(&description, device), CpuLane::new(2));
        for batch in golden.iter().step_by(step).collect::<Vec<_>>().chunks(16) {
            let sequences = batch.iter().map(|(text, _)| text.ids.as_slice()).collect::<Vec<_>>();
            for ((text, truth), answer) in batch.iter().zip(run(&mut lane, &model, &sequences, 2)) {
                let cosine = cosine(&answer, truth);
                let (isa, dtype) = device;
                assert!(
                    cosine >= cosine_min(dtype),
                    "{isa} {dtype}: cosine {cosine} for {} {:?}",
                    text.note,
                    text.text
                );
            }
        }
    }
}

#[test]
fn the_description_is_the_models_own() {
    let description = describe(test_model::all_minilm_l6_v2());
    assert_eq!((description.dims, description.tokens_max), (384, 256));
    assert!(description.normalizes && !description.pooling_assumed && !description.lowercases);
    assert_eq!(description.spec.layer_count(), 6);
    assert_eq!(description.weight_bytes_estimate(Dtype::F32), 4 * 22_565_376);
}

/// tokenizer.json's own truncation and padding are not the model's: both are dropped, and the limit is the
/// description's.
#[test]
fn token_counts_are_those_of_the_reference() {
    let dir = test_model::all_minilm_l6_v2();
    let limit = describe(dir).tokens_max as usize;
    let mut tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).expect("the tokenizer is sound");
    tokenizer.with_truncation(None).expect("no truncation is always valid");
    tokenizer.with_padding(None);
    for (text, _) in golden::minilm() {
        let whole = tokenizer.encode_fast(text.text.as_str(), true).expect("any text has tokens");
        assert_eq!(whole.len(), text.tokens_untruncated, "{}", text.note);
        let mut ids = whole.get_ids().to_vec();
        if ids.len() > limit {
            ids.drain(limit - 1..ids.len() - 1);
        }
        assert_eq!(ids, text.ids, "{}", text.note);
    }
}
