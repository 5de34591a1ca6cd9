use super::super::{AttentionShape, CpuIsa, CpuWorkers, Element, Mask, OpError, PositionBias, Rows};
use super::{Values, assert_close, bits, on_every_isa, wide};
use crate::{Dtype, reference};
use half::bf16;

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape { heads, kv_heads, head_dim, scale, mask: Mask::Bidirectional }
}

fn cumulative(lengths: &[u32]) -> Vec<u32> {
    let mut total = 0;
    std::iter::once(0)
        .chain(lengths.iter().map(|length| {
            total += length;
            total
        }))
        .collect()
}

/// q, k and v as columns of one fused buffer each, with a gap in front, so that strides and columns matter.
fn run<T: Element>(
    isa: CpuIsa,
    workers: &mut CpuWorkers,
    threads: usize,
    shape: &AttentionShape,
    (lengths_q, lengths_k): (&[u32], &[u32]),
    seed: u64,
) -> (Vec<T>, Vec<f64>) {
    let (cu_q, cu_k) = (cumulative(lengths_q), cumulative(lengths_k));
    let tokens = |cu: &[u32]| cu[cu.len() - 1] as usize;
    let (width_q, width_k) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let mut values = Values::new(seed);
    let gap = 2;
    let q: Vec<T> = values.take(tokens(&cu_q) * (gap + width_q), 2.0);
    let kv: Vec<T> = values.take(tokens(&cu_k) * (gap + 2 * width_k), 1.0);
    let part = |data: &[T], stride: usize, column: usize, width: usize| -> Vec<f64> {
        data.chunks_exact(stride).flat_map(|row| wide(&row[column..column + width])).collect()
    };
    let stride_k = gap + 2 * width_k;
    let (wide_q, wide_k) = (part(&q, gap + width_q, gap, width_q), part(&kv, stride_k, gap, width_k));
    let wide_v = part(&kv, stride_k, gap + width_k, width_k);
    let expected = reference::attention(shape, (&wide_q, &wide_k, &wide_v), &cu_q, &cu_k);
    let mut out = vec![T::from_f32(7.0); tokens(&cu_q) * width_q];
    let (rows_q, rows_k) = (Rows::new(&q, gap + width_q, gap), Rows::new(&kv, stride_k, gap));
    let rows_v = Rows::new(&kv, stride_k, gap + width_k);
    workers
        .ops(isa, threads)
        .unwrap()
        .attention(shape, None, rows_q, rows_k, rows_v, &cu_q, &cu_k, &mut out)
        .unwrap();
    (out, expected)
}

fn check<T: Element>(
    isa: CpuIsa,
    workers: &mut CpuWorkers,
    shape: &AttentionShape,
    lengths: (&[u32], &[u32]),
) {
    let (out, expected) = run::<T>(isa, workers, 2, shape, lengths, 3);
    // bf16 rounds the weights (relative) and the result; values are about 1.
    let (absolute, relative) = if T::DTYPE == Dtype::F32 { (4e-6, 4e-6) } else { (8e-3, 8e-3) };
    assert_close(&out, &expected, absolute, relative, &format!("{isa} {} {shape:?} {lengths:?}", T::DTYPE));
}

#[test]
fn attention_matches_f64() {
    let lengths = [1, 7, 16, 17, 31, 0, 32, 33, 63, 65, 130];
    on_every_isa(2, |isa, workers| {
        for head_dim in [16, 32, 34, 64, 80, 128, 256] {
            let lengths = if head_dim == 32 { &lengths[..] } else { &lengths[..9] };
            check::<f32>(isa, workers, &shape(2, 2, head_dim), (lengths, lengths));
            check::<bf16>(isa, workers, &shape(2, 2, head_dim), (lengths, lengths));
        }
        let lengths = [513];
        check::<f32>(isa, workers, &shape(1, 1, 32), (&lengths, &lengths));
        check::<bf16>(isa, workers, &shape(1, 1, 32), (&lengths, &lengths));
    });
}

#[test]
fn grouped_heads_and_foreign_keys_match_f64() {
    on_every_isa(2, |isa, workers| {
        let lengths = (&[3, 1, 40, 2][..], &[9, 65, 7, 0][..]);
        for shape in [shape(6, 2, 32), shape(4, 1, 16)] {
            check::<f32>(isa, workers, &shape, lengths);
            check::<bf16>(isa, workers, &shape, lengths);
        }
    });
}

const MASKS: [Mask; 6] = [
    Mask::Causal,
    Mask::Window { left: 0, right: 0 },
    Mask::Window { left: 5, right: 9 },
    Mask::Window { left: 64, right: 64 },
    Mask::Window { left: 40, right: 0 },
    Mask::Window { left: usize::MAX, right: 3 },
];

#[test]
fn masks_match_f64() {
    on_every_isa(2, |isa, workers| {
        let lengths = [1, 7, 16, 17, 33, 0, 63, 130, 301];
        // Fewer queries than keys, more, none.
        let foreign = (&[3, 1, 40, 2, 20][..], &[9, 65, 7, 0, 150][..]);
        for mask in MASKS {
            for shape in [shape(2, 2, 32), shape(4, 1, 18)] {
                let shape = AttentionShape { mask, ..shape };
                check::<f32>(isa, workers, &shape, (&lengths, &lengths));
                check::<bf16>(isa, workers, &shape, (&lengths, &lengths));
                check::<f32>(isa, workers, &shape, foreign);
                check::<bf16>(isa, workers, &shape, foreign);
            }
        }
    });
}

fn buckets(heads: usize) -> (PositionBias, impl Fn(usize, i64) -> f64) {
    let table: Vec<f32> = Values::new(30).take(32 * heads, 1.5);
    let bias = PositionBias::from_buckets(&table, heads, 128, 300).unwrap();
    let bucket = |distance: i64| {
        let side = if distance > 0 { 16 } else { 0 };
        let wide = 8.0 + (distance.abs() as f64 / 8.0).log2() * 2.0 + 1e-9;
        side + if distance.abs() < 8 { distance.unsigned_abs() as usize } else { (wide as usize).min(15) }
    };
    (bias, move |head, distance| f64::from(table[bucket(distance) * heads + head]))
}

fn slopes(heads: usize) -> (PositionBias, impl Fn(usize, i64) -> f64) {
    let bias = PositionBias::alibi(heads, 300).unwrap();
    (bias, move |head, distance| -2f64.powf(-8.0 * (head + 1) as f64 / heads as f64) * distance.abs() as f64)
}

/// Queries, keys and values are the same rows; the tolerance is that of `check`.
fn check_bias<T: Element>(
    isa: CpuIsa,
    workers: &mut CpuWorkers,
    mask: Mask,
    (bias, number): &(PositionBias, impl Fn(usize, i64) -> f64),
) {
    let lengths = [1, 7, 16, 33, 130, 300, 65];
    let (shape, cu) = (AttentionShape { mask, ..shape(4, 2, 16) }, cumulative(&lengths));
    let width = 4 * 16;
    let x: Vec<T> = Values::new(31).take(cu[cu.len() - 1] as usize * width, 1.0);
    let look = |head, distance| (mask != Mask::Causal || distance <= 0).then(|| number(head, distance));
    let q = wide(&x);
    let half: Vec<f64> = q.chunks_exact(width).flat_map(|row| row[..width / 2].to_vec()).collect();
    let expected = reference::attention_where(&shape, (&q, &half, &half), &cu, &cu, look);
    let mut out = vec![T::zeroed(); x.len()];
    let rows = Rows::new(&x, width, 0);
    workers.ops(isa, 2).unwrap().attention(&shape, Some(bias), rows, rows, rows, &cu, &cu, &mut out).unwrap();
    let tolerance = if T::DTYPE == Dtype::F32 { 4e-6 } else { 8e-3 };
    assert_close(&out, &expected, tolerance, tolerance, &format!("{isa} {} {lengths:?}", T::DTYPE));
}

#[test]
fn a_position_bias_matches_f64() {
    on_every_isa(2, |isa, workers| {
        for mask in [Mask::Bidirectional, Mask::Causal] {
            check_bias::<f32>(isa, workers, mask, &buckets(4));
            check_bias::<bf16>(isa, workers, mask, &buckets(4));
            check_bias::<f32>(isa, workers, mask, &slopes(4));
            check_bias::<bf16>(isa, workers, mask, &slopes(4));
        }
    });
}

#[test]
fn large_scores_neither_overflow_nor_vanish() {
    on_every_isa(1, |isa, workers| {
        let shape = AttentionShape { scale: 40.0, ..shape(1, 1, 32) };
        let (out, expected) = run::<f32>(isa, workers, 1, &shape, (&[33], &[33]), 9);
        // A softmax this sharp multiplies the rounding of a score by its size, here some hundreds.
        assert_close(&out, &expected, 2e-2, 0.0, &format!("{isa}"));
    });
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_in_company() {
    fn check<T: Element>(isa: CpuIsa, workers: &mut CpuWorkers, mask: Mask) {
        let shape = AttentionShape { mask, ..shape(3, 3, 32) };
        let (alone, _) = run::<T>(isa, workers, 1, &shape, (&[45], &[45]), 21);
        for threads in [1, 2, 4] {
            let lengths = [45, 7, 200, 31];
            let (company, _) = run::<T>(isa, workers, threads, &shape, (&lengths, &lengths), 21);
            // The streams of values start alike for q; keys differ, so repeat the check on the same batch instead.
            let (again, _) = run::<T>(isa, workers, 1, &shape, (&lengths, &lengths), 21);
            assert_eq!(bits(&company), bits(&again), "{isa} {threads} threads");
        }
        let width = 3 * 32;
        let mut values = Values::new(2);
        let sequence: Vec<T> = values.take(45 * 3 * width, 1.0);
        let others: Vec<T> = values.take(90 * 3 * width, 1.0);
        let both: Vec<T> = [&others[..30 * 3 * width], &sequence, &others[30 * 3 * width..]].concat();
        let fused = |workers: &mut CpuWorkers, data: &[T], cu: &[u32]| {
            let mut out = vec![T::zeroed(); data.len() / 3];
            let rows = |column| Rows::new(data, 3 * width, column * width);
            let mut ops = workers.ops(isa, 2).unwrap();
            ops.attention(&shape, None, rows(0), rows(1), rows(2), cu, cu, &mut out).unwrap();
            bits(&out)
        };
        let single = fused(workers, &sequence, &[0, 45]);
        let packed = fused(workers, &both, &[0, 30, 75, 135]);
        assert_eq!(packed[30 * width..75 * width], single, "{isa}");
        assert_eq!(alone.len(), 45 * width);
    }
    on_every_isa(4, |isa, workers| {
        for mask in [Mask::Bidirectional, Mask::Causal, Mask::Window { left: 9, right: 4 }] {
            check::<f32>(isa, workers, mask);
            check::<bf16>(isa, workers, mask);
        }
    });
}

/// What a query does not see must not reach it, however large.
#[test]
fn masked_keys_leave_no_trace() {
    on_every_isa(1, |isa, workers| {
        let shape = AttentionShape { mask: Mask::Window { left: 2, right: 1 }, ..shape(1, 1, 16) };
        let mut attend = |x: &[f32]| {
            let (mut out, rows) = (vec![0.0f32; x.len()], Rows::new(x, 16, 0));
            let mut ops = workers.ops(isa, 1).unwrap();
            ops.attention(&shape, None, rows, rows, rows, &[0, 40], &[0, 40], &mut out).unwrap();
            bits(&out)
        };
        let x: Vec<f32> = Values::new(41).take(40 * 16, 1.0);
        let mut far = x.clone();
        far[20 * 16..21 * 16].fill(1e30);
        let (plain, changed) = (attend(&x), attend(&far));
        assert_eq!(plain[..19 * 16], changed[..19 * 16], "{isa}: queries before");
        assert_eq!(plain[23 * 16..], changed[23 * 16..], "{isa}: queries behind");
        assert_ne!(plain[19 * 16..23 * 16], changed[19 * 16..23 * 16], "{isa}: queries that see it");
    });
}

#[test]
fn wrong_operands_are_refused() {
    let mut workers = CpuWorkers::new(1);
    let mut ops = workers.ops(CpuIsa::Portable, 1).unwrap();
    let data = [0.0f32; 96];
    let rows = |column| Rows::new(&data, 48, column);
    let mut out = [1.0f32; 32];
    let mut call = |shape: AttentionShape, cu_q: &[u32], cu_k: &[u32], column: usize| {
        ops.attention(&shape, None, rows(0), rows(column), rows(32), cu_q, cu_k, &mut out)
    };
    assert_eq!(call(shape(1, 1, 16), &[0, 2], &[0, 2], 16), Ok(()));
    for (shape, cu_q, cu_k, column) in [
        (shape(3, 2, 16), &[0, 2][..], &[0, 2][..], 16),
        (shape(1, 0, 16), &[0, 2], &[0, 2], 16),
        (shape(1, 1, 15), &[0, 2], &[0, 2], 16),
        (shape(1, 1, 0), &[0, 2], &[0, 2], 16),
        (shape(1, 1, 16), &[0, 2], &[0, 2], 40),
        (shape(1, 1, 16), &[0, 3], &[0, 2], 16),
        (shape(1, 1, 16), &[0, 2], &[0, 1, 2], 16),
        (shape(1, 1, 16), &[1, 2], &[0, 2], 16),
        (shape(1, 1, 16), &[], &[], 16),
        (shape(1, 1, 16), &[0, 2, 1, 2], &[0, 2, 2, 2], 16),
    ] {
        assert!(call(shape, cu_q, cu_k, column).is_err(), "{shape:?} {cu_q:?} {cu_k:?} {column}");
    }
    let refused = call(AttentionShape { scale: f32::NAN, ..shape(1, 1, 16) }, &[0, 2], &[0, 2], 16);
    assert!(matches!(refused, Err(OpError::Scale { .. })));
}
