//! Tiny random checkpoints of every family.

use std::{env, fs, path::Path};

use shoal_kernels::{CpuIsa, CpuLane, Dtype, OutputSet, Outputs, PackedBatch};
use shoal_tests::golden::{self, TINY_FAMILIES, cosine, distance};

use super::{bits, describe, devices, load, run};

/// A right f32 implementation stays within this many times the reference's own f32 error.
const F32_ERRORS_MAX: f64 = 2.0;
const F32_COSINE_MIN: f64 = 0.999_99;
/// These models are random and peaked, so errors grow faster than in trained ones.
const BITS16_COSINE_MIN: f64 = 0.999;
/// Language models of a billion weights, as random.
const FULL_BITS16_COSINE_MIN: f64 = 0.998;

#[test]
fn answers_are_those_of_the_reference() {
    let mut complaints = Vec::new();
    for dir in TINY_FAMILIES.map(golden::tiny_family_dir) {
        devices().for_each(|device| complain(&dir, device, BITS16_COSINE_MIN, &mut complaints));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Checkpoints of published sizes, as `make_families.py --full` makes them, where `SHOAL_GOLDEN_FULL` names a directory of
/// them: they are gigabytes. Else a tiny one, so that the check itself is always run.
#[test]
fn full_sizes_or_a_tiny_one_have_the_answers_of_the_reference() {
    let dirs = match env::var_os("SHOAL_GOLDEN_FULL") {
        None => vec![golden::tiny_family_dir("qwen3")],
        Some(root) => {
            let entries =
                fs::read_dir(root).expect("a directory").map(|entry| entry.expect("an entry").path());
            entries.filter(|path| path.is_dir()).collect()
        }
    };
    assert!(!dirs.is_empty(), "no checkpoint");
    let mut complaints = Vec::new();
    for dir in dirs {
        fastest().for_each(|device| complain(&dir, device, FULL_BITS16_COSINE_MIN, &mut complaints));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// As long as the model takes: f32's own errors of the angles of far positions show here.
#[test]
fn the_longest_text_has_the_answer_of_the_reference() {
    let mut complaints = Vec::new();
    for name in TINY_FAMILIES {
        let dir = golden::tiny_family_dir(name);
        let golden = golden::family_of(&dir);
        let Some(longest) = &golden.longest else { continue };
        let description = describe(&dir);
        let ids = longest.ids();
        assert_eq!(ids.len(), description.tokens_max as usize, "{name}");
        for device in fastest() {
            let model = load(&description, device);
            let answer = &run(&mut CpuLane::new(2), &model, &[&ids], 2)[0];
            let error = golden.f32_error_max.max(longest.f32_error);
            let wrong = wrong(answer, &longest.vector, device.1, error, BITS16_COSINE_MIN);
            complaints.extend(wrong.map(|wrong| format!("{name}, {} {}: {wrong}", device.0, device.1)));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Each token's vector, alone in its range: every family whose answer is the mean of them.
#[test]
fn hidden_states_are_those_of_the_reference() {
    let (mut complaints, mut families) = (Vec::new(), 0);
    for name in TINY_FAMILIES {
        let (dir, mut lane) = (golden::tiny_family_dir(name), CpuLane::new(2));
        let (golden, description) = (golden::family_of(&dir), describe(&dir));
        if !description.pooling_assumed {
            continue;
        }
        families += 1;
        for device in fastest() {
            let model = load(&description, device);
            let mut batch = PackedBatch::new();
            for case in &golden.cases {
                batch.push(&case.ids);
                batch.pool_from(case.rows.iter().map(|&row| [row, row + 1]));
            }
            let mut out = Outputs::new();
            lane.run(&model, &batch, OutputSet::DENSE, 2, &mut out).unwrap_or_else(|error| panic!("{error}"));
            let mut states = out.dense.as_slice();
            for case in &golden.cases {
                let (own, rest) = states.split_at(case.hidden.len());
                states = rest;
                let wrong =
                    wrong(own, &case.hidden, device.1, golden.f32_hidden_error_max, BITS16_COSINE_MIN);
                let what = format!("{name}, {} tokens on {} {}", case.ids.len(), device.0, device.1);
                complaints.extend(wrong.map(|wrong| format!("{what}: {wrong}")));
            }
            assert!(states.is_empty() && golden.cases.iter().all(|case| !case.hidden.is_empty()), "{name}");
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(families >= 12, "{families} families");
}

/// Every format of the instruction set that is used where nothing else is asked for.
fn fastest() -> impl Iterator<Item = (CpuIsa, Dtype)> {
    devices().filter(|device| device.0 == CpuIsa::detect())
}

/// Runs every case alone and all of them in one batch: the same bits, and close to the reference's.
fn complain(dir: &Path, device: (CpuIsa, Dtype), bits16_cosine_min: f64, complaints: &mut Vec<String>) {
    let golden = golden::family_of(dir);
    let description = describe(dir);
    let name = dir.file_name().expect("a directory with a name").display();
    assert_eq!(description.tokens_max, golden.tokens_max, "{name}");
    let model = load(&description, device);
    let mut lane = CpuLane::new(2);
    let sequences = golden.cases.iter().map(|case| case.ids.as_slice()).collect::<Vec<_>>();
    let together = run(&mut lane, &model, &sequences, 2);
    for (case, together) in golden.cases.iter().zip(together) {
        let what = format!("{name}, {} tokens on {} {}", case.ids.len(), device.0, device.1);
        let alone = &run(&mut lane, &model, &[&case.ids], 1)[0];
        assert_eq!(bits(alone), bits(&together), "{what}: other bits in company");
        let wrong = wrong(alone, &case.vector, device.1, golden.f32_error_max, bits16_cosine_min);
        complaints.extend(wrong.map(|wrong| format!("{what}: {wrong}")));
    }
}

/// How an answer is too far from the truth, if it is.
fn wrong(answer: &[f32], truth: &[f64], dtype: Dtype, f32_error: f64, bits16_min: f64) -> Option<String> {
    let (cosine, distance) = (cosine(answer, truth), distance(answer, truth));
    let (cosine_min, distance_max) = match dtype {
        Dtype::F32 => (F32_COSINE_MIN, F32_ERRORS_MAX * f32_error),
        _ => (bits16_min, f64::INFINITY),
    };
    let wrong = || format!("off by {distance:e} of {distance_max:e}, cosine {cosine} of {cosine_min}");
    // Not a number is wrong, too.
    (!(distance <= distance_max && cosine >= cosine_min)).then(wrong)
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
