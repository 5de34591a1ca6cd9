//! The mutation test of this suite: each planted bug must fail a check that the kernels as they are pass.

use super::super::NormKind;
use super::attention::{self, WINDOWS};
use super::norm;
use super::{Emulation, INTACT};
use crate::Dtype;

/// Orders of warps to try: a race need not show in each.
const SEEDS: [u64; 3] = [1, 2, 3];

fn attention_suite(emulation: Emulation<'_>) -> Result<(), String> {
    for window in WINDOWS {
        let lengths = [7, 64, 33, 130, 17, 65];
        let case = attention::Case {
            window,
            queries: &lengths,
            keys: &lengths,
            heads: 4,
            kv_heads: 2,
            ..attention::CASE
        };
        attention::check(emulation, Dtype::Bf16, 1, &case)?;
        let short = [7, 32, 17];
        attention::check(
            emulation,
            Dtype::Bf16,
            1,
            &attention::Case { queries: &short, keys: &short, ..case },
        )?;
    }
    Ok(())
}

fn norm_suite(emulation: Emulation<'_>) -> Result<(), String> {
    for dims in [8, 768, 2048] {
        let case = norm::Case { norm: NormKind::Layer, dims, rows: 9, is_added: true, keeps_sum: true };
        norm::check(emulation, Dtype::Bf16, case)?;
    }
    Ok(())
}

fn suite(file: &str, emulation: Emulation<'_>) -> Result<(), String> {
    match file {
        "attention.cu" => attention_suite(emulation),
        "norm.cu" => norm_suite(emulation),
        other => panic!("no suite for {other}"),
    }
}

#[test]
fn every_planted_bug_is_noticed() {
    for file in ["attention.cu", "norm.cu"] {
        for seed in SEEDS {
            suite(file, Emulation { seed, ..INTACT }).expect("the kernels as they are");
        }
    }
    let is_missed = |plant: &&shoal_emu::Plant| {
        let passes = |seed: &u64| suite(plant.file, Emulation { variant: plant.name, seed: *seed }).is_ok();
        SEEDS.iter().all(passes)
    };
    let missed: Vec<&str> = shoal_emu::PLANTS.iter().filter(is_missed).map(|plant| plant.name).collect();
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
