use super::super::{
    AttentionShape, CpuIsa, CpuWorkers, Element, Mask, OpError, RelativeBuckets, RelativeTables, Rows,
};
use super::{Values, assert_close, bits, on_every_isa, wide};
use crate::{Dtype, reference};
use half::bf16;
use std::sync::Arc;

const TOKENS_MAX: usize = 700;

fn shape(heads: usize, head_dim: usize) -> AttentionShape {
    let scale = 1.0 / (3.0 * head_dim as f32).sqrt();
    AttentionShape { heads, kv_heads: heads, head_dim, scale, mask: Mask::Bidirectional }
}

/// Which terms there are, and the buckets.
#[derive(Clone, Copy, Debug)]
struct Kind {
    terms: [bool; 2],
    span: usize,
    distance_max: usize,
}

const PUBLISHED: Kind = Kind { terms: [true, true], span: 256, distance_max: 512 };
/// Distances that follow each other share a bucket early, and the table ends inside of the sequences.
const NARROW: Kind = Kind { span: 8, distance_max: 40, ..PUBLISHED };

/// Projected tables, rounded as they are packed.
struct Tables {
    values: [Vec<f32>; 2],
    packed: RelativeTables,
}

fn tables<T: Element>(isa: CpuIsa, shape: &AttentionShape, kind: Kind) -> Tables {
    let Kind { terms, span, distance_max } = kind;
    let mut stream = Values::new(77);
    let mut table = |used: bool| -> Vec<f32> {
        let len = if used { 2 * span * shape.heads * shape.head_dim } else { 0 };
        stream.take::<T>(len, 1.0).into_iter().map(T::to_f32).collect()
    };
    let values = terms.map(&mut table);
    let buckets = Arc::new(RelativeBuckets::new(span, distance_max, TOKENS_MAX).unwrap());
    let used = [0, 1].map(|term| terms[term].then_some(&values[term][..]));
    let packed = RelativeTables::pack(isa, T::DTYPE, &buckets, shape.heads, used).unwrap();
    Tables { values, packed }
}

/// Queries, keys and values as columns of one buffer, with a gap in front.
fn attend<T: Element>(
    isa: CpuIsa,
    workers: &mut CpuWorkers,
    threads: usize,
    (shape, tables): (&AttentionShape, &RelativeTables),
    x: &[T],
    cu_seqlens: &[u32],
) -> Result<Vec<T>, OpError> {
    let width = shape.heads * shape.head_dim;
    let rows = |index: usize| Rows::new(x, 2 + 3 * width, 2 + index * width);
    let mut out = vec![T::from_f32(7.0); x.len() / (2 + 3 * width) * width];
    let mut ops = workers.ops(isa, threads)?;
    ops.disentangled_attention(shape, tables, [rows(0), rows(1), rows(2)], cu_seqlens, &mut out)?;
    Ok(out)
}

fn batch<T: Element>(shape: &AttentionShape, lengths: &[u32], seed: u64) -> (Vec<T>, Vec<u32>) {
    let bounds = (0..=lengths.len()).map(|count| lengths[..count].iter().sum::<u32>());
    let cu_seqlens = bounds.collect::<Vec<_>>();
    let tokens = cu_seqlens[lengths.len()] as usize;
    (Values::new(seed).take(tokens * (2 + 3 * shape.heads * shape.head_dim), 1.5), cu_seqlens)
}

fn check<T: Element>(
    isa: CpuIsa,
    workers: &mut CpuWorkers,
    shape: &AttentionShape,
    kind: Kind,
    lengths: &[u32],
) {
    let (x, cu_seqlens) = batch::<T>(shape, lengths, 5);
    let tables = tables::<T>(isa, shape, kind);
    let out = attend(isa, workers, 2, (shape, &tables.packed), &x, &cu_seqlens).unwrap();
    let width = shape.heads * shape.head_dim;
    let part = |index: usize| -> Vec<f64> {
        let of_row = |row: &[T]| wide(&row[2 + index * width..][..width]);
        x.chunks_exact(2 + 3 * width).flat_map(of_row).collect()
    };
    let [keys, queries] = tables.values.map(|table| wide(&table));
    let qkv = (&part(0)[..], &part(1)[..], &part(2)[..]);
    let expected =
        reference::disentangled_attention(shape, qkv, &cu_seqlens, [&keys, &queries], kind.distance_max);
    // As for plain attention; there are three products in a score.
    let tolerance = if T::DTYPE == Dtype::F32 { 8e-6 } else { 1.6e-2 };
    let what = format!("{isa} {} {shape:?} {kind:?} {lengths:?}", T::DTYPE);
    assert_close(&out, &expected, tolerance, tolerance, &what);
}

#[test]
fn disentangled_attention_matches_f64() {
    on_every_isa(2, |isa, workers| {
        let lengths = [1, 2, 7, 16, 33, 0, 63, 64, 65, 127, 129];
        for (kind, head_dim) in [(PUBLISHED, 32), (NARROW, 64), (NARROW, 34)] {
            check::<f32>(isa, workers, &shape(2, head_dim), kind, &lengths);
            check::<bf16>(isa, workers, &shape(2, head_dim), kind, &lengths);
        }
        for terms in [[true, false], [false, true]] {
            let kind = Kind { terms, ..NARROW };
            check::<f32>(isa, workers, &shape(2, 16), kind, &lengths);
            check::<bf16>(isa, workers, &shape(2, 16), kind, &lengths);
        }
    });
}

/// More queries than one stretch holds, distances beyond the last bucket.
#[test]
fn long_sequences_match_f64() {
    on_every_isa(2, |isa, workers| {
        for length in [257, 300, TOKENS_MAX as u32] {
            check::<f32>(isa, workers, &shape(1, 16), PUBLISHED, &[length]);
            check::<bf16>(isa, workers, &shape(1, 16), PUBLISHED, &[length]);
        }
    });
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_in_company() {
    fn check<T: Element>(isa: CpuIsa, workers: &mut CpuWorkers) {
        let shape = shape(3, 32);
        let (lengths, tables) = ([45, 1, 300, 31], tables::<T>(isa, &shape, NARROW).packed);
        let (x, cu_seqlens) = batch::<T>(&shape, &lengths, 9);
        let mut alone = Vec::new();
        for bounds in cu_seqlens.windows(2) {
            let row = x.len() / cu_seqlens[4] as usize;
            let own = &x[bounds[0] as usize * row..bounds[1] as usize * row];
            alone.extend(
                attend(isa, workers, 1, (&shape, &tables), own, &[0, bounds[1] - bounds[0]]).unwrap(),
            );
        }
        for threads in [1, 2, 4] {
            let together = attend(isa, workers, threads, (&shape, &tables), &x, &cu_seqlens).unwrap();
            assert_eq!(bits(&together), bits(&alone), "{isa} {threads} threads");
        }
    }
    on_every_isa(4, |isa, workers| {
        check::<f32>(isa, workers);
        check::<bf16>(isa, workers);
    });
}

#[test]
fn wrong_operands_are_refused() {
    let (isa, mut workers) = (CpuIsa::Portable, CpuWorkers::new(1));
    let shape = shape(2, 16);
    let own = tables::<f32>(isa, &shape, NARROW).packed;
    let mut call = |shape: &AttentionShape, tables: &RelativeTables, cu_seqlens: &[u32]| {
        let x = vec![0.5f32; (TOKENS_MAX + 1) * (2 + 3 * 32)];
        attend(isa, &mut workers, 1, (shape, tables), &x, cu_seqlens).map(|_| ())
    };
    let tokens = TOKENS_MAX as u32 + 1;
    assert_eq!(call(&shape, &own, &[0, 1, tokens]), Ok(()));
    let too_long = call(&shape, &own, &[0, tokens]).unwrap_err().to_string();
    assert_eq!(too_long, "attention: tokens of relative positions is 701, expected 700");
    assert!(call(&shape, &own, &[0, 9, 2, tokens]).is_err());
    assert!(call(&AttentionShape { kv_heads: 1, ..shape }, &own, &[0, 1, tokens]).is_err());
    let other = AttentionShape { heads: 1, kv_heads: 1, head_dim: 32, ..shape };
    let theirs = tables::<f32>(isa, &other, NARROW).packed;
    assert!(call(&shape, &theirs, &[0, 1, tokens]).is_err(), "{other:?}");
    let rounded = tables::<bf16>(isa, &shape, NARROW).packed;
    assert!(matches!(call(&shape, &rounded, &[0, 1, tokens]), Err(OpError::UnsupportedDtype { .. })));
    let buckets = Arc::new(RelativeBuckets::new(8, 40, 9).unwrap());
    assert!(RelativeTables::pack(isa, Dtype::F32, &buckets, 2, [Some(&[0.0; 100]), None]).is_err());
}
