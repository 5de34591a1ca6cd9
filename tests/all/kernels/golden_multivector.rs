//! Tiny random checkpoints that answer a vector per token, with texts prepared as their descriptions say.

use shoal_kernels::{
    CpuLane, CpuModel, Dtype, Expansion, ModelDescription, MultivectorText, OutputSet, Outputs, PackedBatch,
};
use shoal_tests::golden::{self, MultivectorCase, TINY_MULTIVECTOR, TinyHead, cosine, error_max};

use super::{bits, describe, devices, load};

/// A right f32 implementation stays within this many times the reference's own f32 error.
const F32_ERRORS_MAX: f64 = 4.0;
const BITS16_COSINE_MIN: f64 = 0.999;
const MULTIVECTOR: OutputSet = OutputSet { multivector: true, ..OutputSet::NONE };

fn text_of<'a>(description: &'a ModelDescription, case: &MultivectorCase) -> &'a MultivectorText {
    let texts = description.multivector.as_ref().expect("a description of texts");
    if case.task == "query" { &texts.query } else { &texts.document }
}

/// The vectors of each case, all run as one batch.
fn vectors(
    lane: &mut CpuLane,
    (description, model): (&ModelDescription, &CpuModel),
    cases: &[MultivectorCase],
    threads: usize,
) -> Vec<Vec<f32>> {
    let mut batch = PackedBatch::new();
    for case in cases {
        let text = text_of(description, case);
        batch.push_expanded(&case.ids, case.seen);
        batch.skip(|id| text.skipped.binary_search(&id).is_ok());
    }
    let mut out = Outputs::new();
    lane.run(model, &batch, MULTIVECTOR, threads, &mut out).unwrap_or_else(|error| panic!("{error}"));
    let rows = out.multivector_bounds.last().map_or(0, |&rows| rows as usize);
    let dims = out.multivector.len() / rows;
    let rows = |range: &[u32]| out.multivector[range[0] as usize * dims..range[1] as usize * dims].to_vec();
    out.multivector_bounds.windows(2).map(rows).collect()
}

#[test]
fn vectors_are_those_of_the_reference_in_any_company() {
    for name in TINY_MULTIVECTOR {
        let golden: TinyHead<MultivectorCase> = golden::tiny_head(name);
        let description = describe(&golden::tiny_head_dir(name));
        assert_eq!((description.gives(), description.tokens_max), (MULTIVECTOR, golden.tokens_max), "{name}");
        for device in devices() {
            let (model, mut lane) = (load(&description, device), CpuLane::new(2));
            let together = vectors(&mut lane, (&description, &model), &golden.cases, 2);
            for (case, together) in golden.cases.iter().zip(together) {
                let what = format!("{name} on {} {}: {} {:?}", device.0, device.1, case.task, case.ids);
                assert_eq!(together.len(), case.vectors.len(), "{what}: {} rows", case.rows);
                if device.1 == Dtype::F32 {
                    let (error, allowed) =
                        (error_max(&together, &case.vectors), F32_ERRORS_MAX * golden.f32_error_max);
                    assert!(error <= allowed, "{what}: off by {error:e}, allowed {allowed:e}");
                } else {
                    let cosine = cosine(&together, &case.vectors);
                    assert!(cosine >= BITS16_COSINE_MIN, "{what}: cosine {cosine}");
                }
                let alone = vectors(&mut lane, (&description, &model), std::slice::from_ref(case), 1);
                assert_eq!(bits(&alone[0]), bits(&together), "{what}: company changes nothing");
            }
        }
    }
}

#[test]
fn descriptions_say_what_texts_need() {
    for name in TINY_MULTIVECTOR {
        let golden: TinyHead<MultivectorCase> = golden::tiny_head(name);
        let description = describe(&golden::tiny_head_dir(name));
        for case in &golden.cases {
            let text = text_of(&description, case);
            let what = format!("{name}: {} {:?}", case.task, case.ids);
            assert!(case.ids.len() <= text.tokens_max as usize, "{what}");
            if let Some(marker) = text.marker {
                assert_eq!(case.ids[1], marker, "{what}");
            }
            let skipped = case.ids.iter().filter(|id| text.skipped.binary_search(id).is_ok()).count();
            assert_eq!(case.ids.len() - skipped, case.rows, "{what}");
            if let Some(Expansion { token, tokens, attended }) = text.expansion {
                assert_eq!(case.ids.len(), tokens as usize, "{what}");
                let text_ends = case.ids.iter().position(|id| *id == token).unwrap_or(case.ids.len());
                assert_eq!(case.seen, if attended { case.ids.len() } else { text_ends }, "{what}");
            }
        }
    }
    let texts = |name: &str| describe(&golden::tiny_head_dir(name)).multivector.expect("texts");
    let pylate = texts("colbert-pylate");
    assert_eq!((pylate.query.tokens_max, pylate.document.tokens_max), (24, 40));
    assert_eq!((pylate.query.skipped.len(), pylate.document.skipped.len()), (0, 32));
    assert!(pylate.query.marker.is_some() && pylate.document.marker != pylate.query.marker);
    let stanford = texts("colbert-stanford");
    assert_eq!((stanford.query.tokens_max, stanford.document.tokens_max), (20, 48));
    let native = texts("multivector-6");
    assert_eq!(
        (native.query.tokens_max, native.query.expansion, native.document.skipped.len()),
        (16, None, 2)
    );
}

#[test]
fn queries_that_attention_cannot_fill_up_are_refused_when_the_model_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let (encoder, head) = (golden::tiny_family_dir("mpnet"), golden::tiny_head_dir("colbert-pylate"));
    let of_head =
        ["modules.json", "config_sentence_transformers.json", "tokenizer.json", "tokenizer_config.json"];
    let files = of_head.map(|name| (&head, name)).into_iter();
    let of_encoder = ["config.json", "model.safetensors"].map(|name| (&encoder, name));
    let of_dense = ["1_Dense/config.json", "1_Dense/model.safetensors"].map(|name| (&head, name));
    std::fs::create_dir(dir.path().join("1_Dense")).expect("made");
    for (from, name) in files.chain(of_encoder).chain(of_dense) {
        std::fs::copy(from.join(name), dir.path().join(name)).expect("copied");
    }
    let refused =
        ModelDescription::from_dir(dir.path()).expect_err("its attention knows distances").to_string();
    assert!(
        refused.contains("a query filled up to 24 tokens that no other sees is not covered"),
        "{refused}"
    );
}

#[test]
fn tokens_that_nobody_sees_ask_for_attention_without_distances() {
    let description = describe(&golden::tiny_family_dir("mpnet"));
    let model = load(&description, (shoal_kernels::CpuIsa::Portable, Dtype::F32));
    let mut batch = PackedBatch::new();
    batch.push_expanded(&[5, 6, 7], 2);
    let refused = CpuLane::new(1).run(&model, &batch, OutputSet::DENSE, 1, &mut Outputs::new());
    assert_eq!(
        refused.expect_err("its attention knows distances").to_string(),
        "sequence 0 has 2 keys for 3 tokens; this model's attention takes all of them"
    );
}
