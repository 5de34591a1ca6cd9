//! What a batch may change (nothing but the time), and what a batch may not hold.

use proptest::{prelude::*, sample::Index};
use shoal_kernels::{CpuIsa, CpuLane, CpuModel, Dtype, ExecError, OutputSet, Outputs, PackedBatch};
use shoal_tests::{golden, test_model};

use super::{bits, describe, devices, load, run};

fn assert_same_bits_in_any_company(model: &CpuModel, texts: &[Vec<u32>], picks: &[Index], threads: usize) {
    let sequences = picks.iter().map(|pick| pick.get(texts).as_slice()).collect::<Vec<_>>();
    let mut lane = CpuLane::new(3);
    let together = run(&mut lane, model, &sequences, threads);
    let mut other = CpuLane::new(1);
    for (ids, together) in sequences.into_iter().zip(together) {
        let alone = &run(&mut other, model, &[ids], 1)[0];
        assert_eq!(bits(alone), bits(&together), "{} tokens, {} {}", ids.len(), model.isa(), model.dtype());
    }
}

/// Lengths around every block size of the kernels, and ids from all over the vocabulary.
fn sequences(vocab: u32, tokens_max: usize) -> impl Strategy<Value = Vec<Vec<u32>>> {
    let one = prop::collection::vec(0..vocab, 1..=tokens_max);
    prop::collection::vec(one, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_text_has_the_same_bits_in_any_company(
        texts in sequences(570, 48),
        picks in prop::collection::vec(any::<Index>(), 1..24),
        threads in 1usize..4,
    ) {
        let description = describe(&golden::tiny_bert_dir("mean"));
        for device in devices() {
            assert_same_bits_in_any_company(&load(&description, device), &texts, &picks, threads);
        }
    }
}

/// The real model's shapes take other paths through the kernels than tiny ones.
#[test]
fn the_real_model_has_the_same_bits_in_any_company() {
    let texts = golden::minilm().into_iter().map(|(text, _)| text.ids).collect::<Vec<_>>();
    let description = describe(test_model::all_minilm_l6_v2());
    for device in devices() {
        let model = load(&description, device);
        let sequences = texts.iter().step_by(9).map(Vec::as_slice).collect::<Vec<_>>();
        let mut lane = CpuLane::new(3);
        let together = run(&mut lane, &model, &sequences, 3);
        let reversed = sequences.iter().copied().rev().collect::<Vec<_>>();
        let backwards = run(&mut lane, &model, &reversed, 2);
        for (index, ids) in sequences.iter().enumerate() {
            let what = format!("{} tokens on {} {}", ids.len(), device.0, device.1);
            assert_eq!(bits(&together[index]), bits(&backwards[sequences.len() - 1 - index]), "{what}");
            if index % 5 == 0 {
                assert_eq!(bits(&together[index]), bits(&run(&mut lane, &model, &[ids], 1)[0]), "{what}");
            }
        }
    }
}

fn batch(sequences: &[&[u32]]) -> PackedBatch {
    let mut batch = PackedBatch::new();
    sequences.iter().for_each(|ids| batch.push(ids));
    batch
}

/// What the lane says to a sound batch of 3 and 2 tokens after a change.
fn refusal(model: &CpuModel, change: impl FnOnce(&mut PackedBatch)) -> ExecError {
    let mut batch = batch(&[&[2, 5, 3], &[2, 3]]);
    change(&mut batch);
    let (mut lane, mut out) = (CpuLane::new(1), Outputs { dense: vec![1.0; 7], ..Outputs::new() });
    let error = lane.run(model, &batch, OutputSet::DENSE, 1, &mut out).expect_err("the batch does not fit");
    assert_eq!(out, Outputs::new(), "no stale output");
    assert_eq!(run(&mut lane, model, &[&[2, 5, 3]], 1).len(), 1, "the lane still works");
    error
}

fn tiny() -> CpuModel {
    load(&describe(&golden::tiny_bert_dir("mean")), (CpuIsa::Portable, Dtype::F32))
}

#[test]
fn ids_that_the_model_lacks_are_refused_with_their_place() {
    let model = tiny();
    let id = refusal(&model, |batch| batch.token_ids[4] = 570);
    assert_eq!(id, ExecError::TokenId { row: 4, id: 570, vocab: 570 });
    let position = refusal(&model, |batch| batch.positions[1] = 64);
    assert_eq!(position, ExecError::Position { row: 1, position: 64, positions: 64 });
    let type_id = refusal(&model, |batch| batch.type_ids = vec![0, 0, 2, 0, 0]);
    assert_eq!(type_id, ExecError::TypeId { row: 2, type_id: 2, token_types: 2 });
}

#[test]
fn dense_vectors_are_pooled_from_ranges_in_any_company() {
    let (model, mut lane, mut out) = (tiny(), CpuLane::new(2), Outputs::new());
    let (first, second) = (&[2, 5, 9, 7, 3][..], &[2, 8, 3][..]);
    let whole = run(&mut lane, &model, &[first, second], 1);
    let mut chunked = batch(&[first]);
    chunked.pool_from([[0, 5], [1, 3], [2, 4]]);
    chunked.push(second);
    chunked.push(first);
    chunked.pool_from([]);
    chunked.push(first);
    chunked.pool_from([[1, 3]]);
    lane.run(&model, &chunked, OutputSet::DENSE, 2, &mut out).expect("runs");
    assert_eq!(out.dense_bounds, [0, 3, 4, 4, 5]);
    let vectors: Vec<_> = out.dense.chunks(model.dims()).map(bits).collect();
    assert_eq!(vectors[0], bits(&whole[0]), "all tokens are the whole sequence");
    assert_eq!(vectors[3], bits(&whole[1]), "a sequence without ranges has one vector");
    assert_eq!(vectors[1], vectors[4], "company changes nothing");
    assert!(vectors[1] != vectors[0] && vectors[1] != vectors[2]);
    for [start, end] in [[1, 1], [1, 4]] {
        let refused = refusal(&model, |batch| batch.pool_from([[start, end]]));
        assert_eq!(refused, ExecError::Range { sequence: 1, start, end, tokens: 2 });
    }
    let lying = refusal(&model, |batch| batch.ranges = vec![[0, 1]]);
    assert!(matches!(lying, ExecError::Length { field: "ranges", .. }));
    let bounds = refusal(&model, |batch| {
        batch.pool_from([[0, 1]]);
        batch.range_bounds[2] = 9;
    });
    assert!(matches!(bounds, ExecError::CuSeqlens { field: "range_bounds", .. }));
}

#[test]
fn lengths_that_contradict_each_other_are_refused() {
    let model = tiny();
    assert_eq!(refusal(&model, |batch| batch.push(&[])), ExecError::EmptySequence { sequence: 2 });
    let short = refusal(&model, |batch| batch.positions.truncate(3));
    assert_eq!(short, ExecError::Length { field: "positions", found: 3, expected: 5 });
    let types = refusal(&model, |batch| batch.type_ids = vec![0]);
    assert_eq!(types, ExecError::Length { field: "type_ids", found: 1, expected: 5 });
    for wrong in [vec![], vec![1, 5], vec![0, 4, 3, 5], vec![0, 3, 6], vec![0, 3, 4]] {
        let error = refusal(&model, |batch| batch.cu_seqlens_q.clone_from(&wrong));
        assert!(
            matches!(error, ExecError::CuSeqlens { .. } | ExecError::Length { .. }),
            "{wrong:?}: {error}"
        );
    }
    for wrong in [0, 4] {
        let keys = refusal(&model, |batch| batch.cu_seqlens_k[1] = wrong);
        assert!(
            matches!(keys, ExecError::CuSeqlens { field: "cu_seqlens_k", index: 1, value, .. } if value == wrong),
            "{keys}"
        );
    }
}

#[test]
fn an_empty_batch_has_an_empty_answer() {
    assert!(run(&mut CpuLane::new(2), &tiny(), &[], 2).is_empty());
}
