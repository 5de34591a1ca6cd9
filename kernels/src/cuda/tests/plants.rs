//! The mutation test of this suite: each planted bug must fail a check that the kernels as they are pass.

use super::super::{NormKind, VectorForm};
use super::attention::{self, WINDOWS};
use super::{Emulation, INTACT, disentangled, gemm, head, norm, rope, splade};
use crate::Dtype;
use crate::cpu::Activation;

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

fn disentangled_suite(emulation: Emulation<'_>) -> Result<(), String> {
    // So many buckets that every distance of a tile has its own: all of a band is read.
    let case =
        disentangled::Case { span: 256, distance_max: 512, lengths: &[7, 64, 130], ..disentangled::CASE };
    disentangled::check(emulation, Dtype::Bf16, 1, &case).map(drop)
}

fn norm_suite(emulation: Emulation<'_>) -> Result<(), String> {
    for dims in [8, 768, 2048] {
        let case = norm::Case { norm: NormKind::Layer, dims, rows: 9, is_added: true, keeps_sum: true };
        norm::check(emulation, Dtype::Bf16, case)?;
    }
    Ok(())
}

fn embed_suite(emulation: Emulation<'_>) -> Result<(), String> {
    let case = norm::Embedding { dims: 64, is_normed: true, has_positions: true, has_types: true };
    norm::check_embedding(emulation, Dtype::Bf16, 9, case)
}

fn gemm_suite(emulation: Emulation<'_>) -> Result<(), String> {
    for is_gated in [false, true] {
        gemm::check(emulation, Dtype::Bf16, &gemm::Case { is_gated, ..gemm::CASE })?;
    }
    Ok(())
}

fn splade_suite(emulation: Emulation<'_>) -> Result<(), String> {
    splade::check(emulation, Dtype::Bf16, &splade::CASE)?;
    splade::check_rows(emulation)
}

fn head_suite(file: &str, emulation: Emulation<'_>) -> Result<(), String> {
    match file {
        "pool.cu" => head::check_pooling(emulation, Dtype::Bf16, 136, &[65, 9, 130]).map(drop),
        "dense.cu" => head::check_dense(emulation, Dtype::Bf16, (9, 5, 264), Activation::Identity),
        _ => head::check_vectors(emulation, Dtype::Bf16, (7, 64), VectorForm::F32, (true, true)),
    }
}

fn suite(file: &str, emulation: Emulation<'_>) -> Result<(), String> {
    match file {
        "attention.cu" => attention_suite(emulation),
        "disentangled.cu" => disentangled_suite(emulation),
        "norm.cu" => norm_suite(emulation),
        "embed.cu" => embed_suite(emulation),
        "gemm.cu" => gemm_suite(emulation),
        "splade.cu" => splade_suite(emulation),
        "rope.cu" => rope::check(emulation, Dtype::Bf16, &rope::CASE),
        "pool.cu" | "dense.cu" | "vectors.cu" => head_suite(file, emulation),
        other => panic!("no suite for {other}"),
    }
}

#[test]
fn every_planted_bug_is_noticed() {
    let files: std::collections::BTreeSet<&str> = shoal_emu::PLANTS.iter().map(|plant| plant.file).collect();
    for file in files {
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
