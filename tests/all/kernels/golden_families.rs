//! Tiny random checkpoints of every family but BERT.

use shoal_kernels::{CpuLane, Dtype};
use shoal_tests::golden::{self, TINY_FAMILIES, cosine, distance};

use super::{bits, describe, devices, load, run};

/// A right f32 implementation stays within this many times the reference's own f32 error.
const F32_ERRORS_MAX: f64 = 2.0;
const F32_COSINE_MIN: f64 = 0.999_99;
/// These models are random and peaked, so errors grow faster than in trained ones.
const BITS16_COSINE_MIN: f64 = 0.999;

#[test]
fn answers_are_those_of_the_reference() {
    for name in TINY_FAMILIES {
        let golden = golden::tiny_family(name);
        let description = describe(&golden::tiny_family_dir(name));
        assert_eq!(description.tokens_max, golden.tokens_max, "{name}");
        for device in devices() {
            let model = load(&description, device);
            let mut lane = CpuLane::new(2);
            let sequences = golden.cases.iter().map(|case| case.ids.as_slice()).collect::<Vec<_>>();
            let together = run(&mut lane, &model, &sequences, 2);
            for (case, together) in golden.cases.iter().zip(together) {
                let what = format!("{name}, {} tokens on {} {}", case.ids.len(), device.0, device.1);
                let alone = &run(&mut lane, &model, &[&case.ids], 1)[0];
                assert_eq!(bits(alone), bits(&together), "{what}: other bits in company");
                let (cosine, distance) = (cosine(alone, &case.vector), distance(alone, &case.vector));
                if device.1 == Dtype::F32 {
                    let allowed = F32_ERRORS_MAX * golden.f32_error_max;
                    assert!(distance <= allowed, "{what}: off by {distance:e}, allowed {allowed:e}");
                    assert!(cosine >= F32_COSINE_MIN, "{what}: cosine {cosine}");
                } else {
                    assert!(cosine >= BITS16_COSINE_MIN, "{what}: cosine {cosine}");
                }
            }
        }
    }
}

/// What tells them from BERT shows in the printed description.
#[test]
fn descriptions_tell_the_families_apart() {
    let printed = |name| describe(&golden::tiny_family_dir(name)).spec.to_string();
    assert!(printed("roberta").contains("position[180, offset 2] + type[1]"));
    assert!(!printed("distilbert").contains("type["));
    assert!(printed("mpnet").contains("position bias: 32 buckets up to distance 128"));
    assert!(printed("electra").contains(" -> linear 24 -> 32\n"));
}
