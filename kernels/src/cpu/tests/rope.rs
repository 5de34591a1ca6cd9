use super::super::{
    AttentionShape, CpuIsa, CpuWorkers, Element, HeadOps, LayerNorm, Mask, OpError, RopeTable,
};
use super::{Values, assert_close, bits, on_every_isa, rounding, wide};
use crate::reference;
use half::bf16;

const POSITIONS: usize = 200;

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, scale: 1.0, mask: Mask::Bidirectional }
}

fn frequencies(count: usize) -> Vec<f64> {
    (0..count).map(|index| 1e4f64.powf(-(index as f64) / count as f64)).collect()
}

/// The first columns of each row as the f64 reference has them, the others as they were.
fn expected(shape: &AttentionShape, norms: Option<&[LayerNorm; 2]>, turned: usize, x: &[f64]) -> Vec<f64> {
    let (stride, head_dim) = (x.len() / POSITIONS, shape.head_dim);
    let norm_of = |index: usize, head: &[f64]| match norms {
        _ if index >= shape.heads + shape.kv_heads => head.to_vec(),
        None => head.to_vec(),
        Some([query, key]) => {
            let norm = if index < shape.heads { query } else { key };
            reference::rms_norm(head, &wide(&norm.gamma), f64::from(norm.epsilon))
        }
    };
    let row = |(position, row): (usize, &[f64])| {
        let heads = row.chunks(head_dim).enumerate();
        let mut row = heads.flat_map(|(index, head)| norm_of(index, head)).collect::<Vec<_>>();
        let width = (shape.heads + shape.kv_heads) * head_dim;
        let out = reference::rope(head_dim, &frequencies(turned / 2), &[position as u32], &row[..width]);
        row[..width].copy_from_slice(&out);
        row
    };
    x.chunks_exact(stride).enumerate().flat_map(row).collect()
}

fn check<T: Element>(isa: CpuIsa, workers: &mut CpuWorkers, shape: &AttentionShape, turned: usize) {
    let head_dim = shape.head_dim;
    let table = RopeTable::new(&frequencies(turned / 2), POSITIONS).unwrap();
    let stride = (shape.heads + 2 * shape.kv_heads) * head_dim;
    let x: Vec<T> = Values::new(8).take(POSITIONS * stride, 1.0);
    let positions: Vec<u32> = (0..POSITIONS as u32).collect();
    let norms = [21, 22].map(|seed| LayerNorm::rms(Values::new(seed).take(head_dim, 1.0), 1e-6).unwrap());
    for norms in [None, Some(&norms)] {
        let [query_norm, key_norm] = [0, 1].map(|at| norms.map(|norms| &norms[at]));
        let mut out = x.clone();
        let head_ops = HeadOps { query_norm, key_norm, rope: Some(&table) };
        workers.ops(isa, 2).unwrap().norm_and_turn(shape, head_ops, &positions, &mut out).unwrap();
        let what = format!("{isa} {} {shape:?} {turned} {}", T::DTYPE, norms.is_some());
        let expected = expected(shape, norms, turned, &wide(&x));
        assert_close(&out, &expected, 2e-6, rounding(T::DTYPE) + 2e-6, &what);
        let mut alone = x[150 * stride..151 * stride].to_vec();
        workers.ops(isa, 1).unwrap().norm_and_turn(shape, head_ops, &[150], &mut alone).unwrap();
        assert_eq!(bits(&alone), bits(&out[150 * stride..151 * stride]), "{what}: other bits in company");
    }
}

#[test]
fn norms_and_rotation_match_f64() {
    on_every_isa(2, |isa, workers| {
        for (shape, turned) in
            [(shape(2, 2, 64), 64), (shape(4, 1, 34), 34), (shape(3, 3, 16), 10), (shape(2, 1, 128), 128)]
        {
            check::<f32>(isa, workers, &shape, turned);
            check::<bf16>(isa, workers, &shape, turned);
        }
    });
}

/// At position 100,000 an angle in f32 would be off by a hundredth of a turn.
#[test]
fn far_positions_are_exact() {
    let table = RopeTable::new(&[1.0], 100_001).unwrap();
    let mut workers = CpuWorkers::new(1);
    let mut x = [1.0f32, 0.0];
    let head_ops = HeadOps { query_norm: None, key_norm: None, rope: Some(&table) };
    let mut ops = workers.ops(CpuIsa::Portable, 1).unwrap();
    let shape = AttentionShape { kv_heads: 1, ..shape(1, 1, 2) };
    let mut row = [x, x, x].concat();
    ops.norm_and_turn(&shape, head_ops, &[99_999], &mut row).unwrap();
    x.copy_from_slice(&row[..2]);
    let (sine, cosine) = 99_999f64.sin_cos();
    assert_close(&x, &[cosine, sine], 1e-7, 0.0, "position 99,999");
}

#[test]
fn wrong_operands_are_refused() {
    let table = RopeTable::new(&frequencies(4), 5).unwrap();
    let mut workers = CpuWorkers::new(1);
    let mut ops = workers.ops(CpuIsa::Portable, 1).unwrap();
    let mut call = |head_dim: usize, position: u32, len: usize| {
        let head_ops = HeadOps { query_norm: None, key_norm: None, rope: Some(&table) };
        ops.norm_and_turn(&shape(1, 1, head_dim), head_ops, &[position], &mut vec![0.0f32; len])
    };
    assert_eq!(call(8, 4, 24), Ok(()));
    assert!(matches!(call(8, 5, 24), Err(OpError::IdOutOfRange { what: "position", id: 5, rows: 5, .. })));
    assert!(matches!(call(8, 4, 15), Err(OpError::Shape { .. })));
    assert!(matches!(call(6, 4, 24), Err(OpError::Shape { .. })));
    assert!(RopeTable::new(&[], 5).is_err() && RopeTable::new(&[1.0], 0).is_err());
}
