use super::super::{CpuIsa, CpuWorkers, Element, EmbeddingTable, Embeddings, LayerNorm, OpError, Pooling};
use super::{Values, assert_close, bits, on_every_isa, rounding, wide};
use crate::{Dtype, reference};
use half::{bf16, f16};

const DIMS: [usize; 8] = [1, 7, 17, 31, 32, 65, 384, 513];

fn norm(dims: usize) -> LayerNorm {
    let mut values = Values::new(1);
    LayerNorm::new(values.take(dims, 1.0), values.take(dims, 0.3), 1e-5).unwrap()
}

fn check_norm<T: Element>(isa: CpuIsa, workers: &mut CpuWorkers, dims: usize) {
    let norm = norm(dims);
    let mut x: Vec<T> = Values::new(4).take(19 * dims, 3.0);
    let (gamma, beta) = (wide(&norm.gamma), wide(&norm.beta));
    let expected = reference::layer_norm(&wide(&x), &gamma, &beta, f64::from(norm.epsilon));
    workers.ops(isa, 2).unwrap().layer_norm(&norm, &mut x).unwrap();
    assert_close(&x, &expected, 4e-6, rounding(T::DTYPE) + 1e-6, &format!("{isa} {} {dims}", T::DTYPE));
}

#[test]
fn layer_norm_matches_f64() {
    on_every_isa(2, |isa, workers| {
        for dims in DIMS {
            check_norm::<f32>(isa, workers, dims);
            check_norm::<bf16>(isa, workers, dims);
        }
    });
}

fn check_rms<T: Element>(isa: CpuIsa, workers: &mut CpuWorkers, dims: usize) {
    let norm = LayerNorm::rms(Values::new(1).take(dims, 1.0), 1e-5).unwrap();
    let x: Vec<T> = Values::new(4).take(19 * dims, 3.0);
    let old: Vec<T> = Values::new(5).take(19 * dims, 1.0);
    let normed = reference::rms_norm(&wide(&x), &wide(&norm.gamma), f64::from(norm.epsilon));
    let added = normed.iter().zip(wide(&old)).map(|(new, old)| new + old).collect::<Vec<_>>();
    let (mut alone, mut into, mut onto) = (x.clone(), old.clone(), old);
    let mut ops = workers.ops(isa, 2).unwrap();
    ops.layer_norm(&norm, &mut alone).unwrap();
    ops.layer_norm_into(&norm, &x, false, &mut into).unwrap();
    ops.layer_norm_into(&norm, &x, true, &mut onto).unwrap();
    let what = format!("{isa} {} {dims}", T::DTYPE);
    assert_close(&alone, &normed, 4e-6, rounding(T::DTYPE) + 1e-6, &what);
    assert_eq!(bits(&alone), bits(&into), "{what}");
    assert_close(&onto, &added, 4e-6, rounding(T::DTYPE) + 1e-6, &what);
}

#[test]
fn rms_norm_matches_f64_in_place_beside_and_added() {
    on_every_isa(2, |isa, workers| {
        for dims in DIMS {
            check_rms::<f32>(isa, workers, dims);
            check_rms::<bf16>(isa, workers, dims);
        }
    });
}

#[test]
fn l2_normalise_matches_f64_and_leaves_zeros() {
    on_every_isa(1, |isa, workers| {
        for dims in DIMS {
            let mut x: Vec<f32> = Values::new(8).take(5 * dims, 10.0);
            x[..dims].fill(0.0);
            let expected = reference::l2_normalise(dims, &wide(&x));
            workers.ops(isa, 1).unwrap().l2_normalise(dims, &mut x).unwrap();
            assert_close(&x, &expected, 0.0, 1e-6, &format!("{isa} {dims}"));
        }
    });
}

fn check_pool<T: Element>(isa: CpuIsa, workers: &mut CpuWorkers, dims: usize) {
    let poolings = [
        Pooling::Cls,
        Pooling::Max,
        Pooling::Mean,
        Pooling::MeanSqrtLen,
        Pooling::WeightedMean,
        Pooling::Last,
    ];
    let cu_seqlens = [0, 1, 8, 8, 41];
    let x: Vec<T> = Values::new(12).take(41 * dims, 1.0);
    let mut expected = Vec::new();
    for range in cu_seqlens.windows(2) {
        let rows = wide(&x[range[0] as usize * dims..range[1] as usize * dims]);
        expected.extend(poolings.iter().flat_map(|&pooling| reference::pool(pooling, dims, &rows)));
    }
    let mut out = vec![5.0f32; expected.len()];
    workers.ops(isa, 2).unwrap().pool(&poolings, dims, &x, &cu_seqlens, &mut out).unwrap();
    assert_close(&out, &expected, 1e-5, 1e-6, &format!("{isa} {} {dims}", T::DTYPE));
    let (mut ranges, bits) = (vec![0.0f32; expected.len() + 6 * dims], |row: &f32| row.to_bits());
    let overlapping = [[0, 1], [1, 8], [8, 8], [8, 41], [1, 8]];
    workers.ops(isa, 2).unwrap().pool_ranges(&poolings, dims, &x, &overlapping, &mut ranges).unwrap();
    let again = [&out[..], &out[6 * dims..12 * dims]].concat();
    assert!(ranges.iter().map(bits).eq(again.iter().map(bits)), "{isa}: a range is pooled as a sequence is");
}

#[test]
fn pooling_matches_f64() {
    on_every_isa(2, |isa, workers| {
        for dims in DIMS {
            check_pool::<f32>(isa, workers, dims);
            check_pool::<bf16>(isa, workers, dims);
        }
    });
}

/// A table and its rows as stored.
fn table(dtype: Dtype, rows: usize, dims: usize, seed: u64) -> (EmbeddingTable, Vec<f64>) {
    let values: Vec<f32> = Values::new(seed).take(rows * dims, 1.0);
    let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&values[row * dims..][..dims]);
    let table = EmbeddingTable::pack(dtype, rows, dims, fill).unwrap();
    assert_eq!(table.bytes(), rows * dims * dtype.bytes());
    let stored = values.iter().map(|&value| match dtype {
        Dtype::Bf16 => f64::from(bf16::from_f32(value).to_f32()),
        Dtype::F16 => f64::from(f16::from_f32(value).to_f32()),
        _ => f64::from(value),
    });
    (table, stored.collect())
}

fn check_embed<T: Element>(isa: CpuIsa, workers: &mut CpuWorkers, dtype: Dtype, dims: usize) {
    let (token, token_rows) = table(dtype, 50, dims, 31);
    let (position, position_rows) = table(dtype, 20, dims, 32);
    let (token_type, type_rows) = table(dtype, 2, dims, 33);
    let token_ids: Vec<u32> = (0..37).map(|index| index * 13 % 50).collect();
    let positions: Vec<u32> = (0..37).map(|index| index % 20).collect();
    let types: Vec<u8> = (0..37).map(|index| index % 2).collect();
    let norm = norm(dims);
    let scale = None;
    let tables =
        Embeddings { token: &token, scale, position: Some(&position), token_type: Some(&token_type) };
    for type_ids in [&types[..], &[]] {
        let type_rows_of: Vec<u32> =
            if type_ids.is_empty() { vec![0; 37] } else { types.iter().map(|&t| t.into()).collect() };
        let sums =
            [(&token_rows[..], &token_ids[..]), (&position_rows, &positions), (&type_rows, &type_rows_of)];
        let sums = reference::embed(dims, &sums);
        let (gamma, beta) = (wide(&norm.gamma), wide(&norm.beta));
        let normed = reference::layer_norm(&sums, &gamma, &beta, f64::from(norm.epsilon));
        for (norm, expected) in [(Some(&norm), normed), (None, sums)] {
            let mut out = vec![T::zeroed(); 37 * dims];
            let mut ops = workers.ops(isa, 2).unwrap();
            ops.embed_norm(&tables, norm, &token_ids, &positions, type_ids, &mut out).unwrap();
            let what = format!("{isa} {dtype} {} {dims}", T::DTYPE);
            assert_close(&out, &expected, 1e-5, rounding(T::DTYPE) + 1e-6, &what);
        }
    }
    let only_tokens = Embeddings { scale: Some(3.5), position: None, token_type: None, ..tables };
    let mut out = vec![T::zeroed(); dims];
    workers.ops(isa, 1).unwrap().embed_norm(&only_tokens, None, &[3], &[999], &[], &mut out).unwrap();
    let scaled = token_rows[3 * dims..4 * dims].iter().map(|value| 3.5 * value).collect::<Vec<_>>();
    assert_close(&out, &scaled, 0.0, rounding(T::DTYPE) + 1e-7, "one table");
}

#[test]
fn embedding_matches_f64() {
    on_every_isa(2, |isa, workers| {
        for dims in DIMS {
            check_embed::<f32>(isa, workers, Dtype::F32, dims);
            check_embed::<f32>(isa, workers, Dtype::Bf16, dims);
            check_embed::<f32>(isa, workers, Dtype::F16, dims);
            check_embed::<bf16>(isa, workers, Dtype::Bf16, dims);
        }
    });
}

#[test]
fn ids_outside_of_their_table_are_refused() {
    let (token, _) = table(Dtype::F32, 5, 4, 1);
    let (position, _) = table(Dtype::F32, 2, 4, 2);
    let mut workers = CpuWorkers::new(1);
    let mut ops = workers.ops(CpuIsa::Portable, 1).unwrap();
    let scale = None;
    let tables = Embeddings { token: &token, scale, position: Some(&position), token_type: Some(&position) };
    let mut out = [0.0f32; 4];
    for (token_id, place, type_id, what) in
        [(5, 0, 0, "token id"), (0, 2, 0, "position"), (0, 0, 2, "type id")]
    {
        let refused = ops.embed_norm(&tables, None, &[token_id], &[place], &[type_id], &mut out);
        assert!(matches!(refused, Err(OpError::IdOutOfRange { what: found, .. }) if found == what));
    }
    assert!(matches!(ops.embed_norm(&tables, None, &[0], &[], &[], &mut out), Err(OpError::Shape { .. })));
    assert!(matches!(
        ops.pool(&[Pooling::Mean], 4, &[0.0f32; 8], &[0, 3], &mut out),
        Err(OpError::CuSeqlens { .. })
    ));
    for range in [[1, 3], [2, 1]] {
        let refused = ops.pool_ranges(&[Pooling::Mean], 4, &[0.0f32; 8], &[range], &mut out);
        assert!(matches!(refused, Err(OpError::CuSeqlens { what: "a range", .. })));
    }
    assert!(ops.layer_norm(&norm(3), &mut out).is_err());
    assert!(LayerNorm::new(vec![1.0], vec![], 1e-5).is_err());
}

#[test]
fn rows_keep_their_bits_whatever_the_threads() {
    on_every_isa(4, |isa, workers| {
        let norm = norm(384);
        let x: Vec<bf16> = Values::new(4).take(200 * 384, 3.0);
        let mut results = [1, 2, 4].map(|threads| {
            let mut rows = x.clone();
            workers.ops(isa, threads).unwrap().layer_norm(&norm, &mut rows).unwrap();
            bits(&rows)
        });
        results.sort_unstable();
        assert_eq!(results[0], results[2], "{isa}");
    });
}
