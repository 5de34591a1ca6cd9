//! The ops of heads: weights of words, and late interaction.

use half::bf16;

use super::super::{CpuIsa, CpuWorkers, Element, OpError, WordPooling, WordWeights, max_sim};
use super::{Values, assert_close, bits, on_every_isa, rounding, wide};
use crate::reference;

const CU_SEQLENS: [u32; 5] = [0, 1, 8, 9, 41];

fn check_word_weights<T: Element>(isa: CpuIsa, workers: &mut CpuWorkers, words: usize, weights: WordWeights) {
    let x: Vec<T> = Values::new(3).take(41 * words, 2.0);
    let rows = |range: &[u32]| wide(&x[range[0] as usize * words..range[1] as usize * words]);
    let expected =
        CU_SEQLENS.windows(2).flat_map(|range| reference::word_weights(weights, words, &rows(range)));
    let expected = expected.collect::<Vec<_>>();
    let run = |workers: &mut CpuWorkers, threads| {
        let mut out = vec![f32::NAN; 4 * words];
        workers.ops(isa, threads).unwrap().word_weights(weights, words, &x, &CU_SEQLENS, &mut out).unwrap();
        out
    };
    let what = format!("{isa} {} {words} {weights:?}", T::DTYPE);
    let alone = run(workers, 1);
    assert_close(&alone, &expected, 1e-6, rounding(T::DTYPE).min(1e-6) + 1e-6, &what);
    assert_eq!(bits(&alone), bits(&run(workers, 2)), "{what}: threads change nothing");
}

#[test]
fn word_weights_match_f64() {
    on_every_isa(2, |isa, workers| {
        for pooling in [WordPooling::Max, WordPooling::Sum] {
            for (words, logarithms) in [(1, 1), (37, 2), (384, 1)] {
                let weights = WordWeights { pooling, logarithms };
                check_word_weights::<f32>(isa, workers, words, weights);
                check_word_weights::<bf16>(isa, workers, words, weights);
            }
        }
    });
}

#[test]
fn max_sim_matches_f64_in_any_company() {
    on_every_isa(1, |isa, _| {
        for (dims, query_rows) in [(1, 1), (7, 3), (96, 5), (128, 32)] {
            let mut values = Values::new(dims as u64);
            let query: Vec<f32> = values.take(query_rows * dims, 1.0);
            let documents: Vec<f32> = values.take(41 * dims, 1.0);
            // The third has no rows.
            let bounds = [0, 1, 8, 8, 41];
            let mut scores = [f32::NAN; 4];
            max_sim(isa, dims, &query, &documents, &bounds, &mut scores).unwrap();
            for (index, range) in bounds.windows(2).enumerate() {
                let document = &documents[range[0] as usize * dims..range[1] as usize * dims];
                let expected = reference::max_sim(dims, &wide(&query), &wide(document));
                let what = format!("{isa} {dims} document {index}");
                assert_close(&scores[index..=index], &[expected], 1e-4, 1e-5, &what);
                let mut alone = [f32::NAN];
                let rows = (document.len() / dims) as u32;
                max_sim(isa, dims, &query, document, &[0, rows], &mut alone).unwrap();
                assert_eq!(bits(&alone), bits(&scores[index..=index]), "{what}");
            }
        }
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let refusal = |dims, query: &[f32], bounds: &[u32], scores: &mut [f32]| {
        max_sim(CpuIsa::Portable, dims, query, &[0.0; 6], bounds, scores).unwrap_err()
    };
    let shape = |error: OpError| matches!(error, OpError::Shape { op: "max_sim", .. });
    assert!(shape(refusal(3, &[0.0; 4], &[0, 2], &mut [0.0])));
    assert!(shape(refusal(0, &[0.0; 3], &[0, 2], &mut [0.0])));
    assert!(shape(refusal(3, &[0.0; 3], &[0, 2], &mut [])));
    assert!(matches!(refusal(3, &[0.0; 3], &[0, 3], &mut [0.0]), OpError::CuSeqlens { .. }));
}
