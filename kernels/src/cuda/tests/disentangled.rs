use super::super::{AttentionArgs, DisentangledArgs, DisentangledKernel, KernelError};
use super::attention::cumulative;
use super::{Buffer, DTYPES, Emulation, INTACT, address_of, check_close};
use crate::cpu::tests::Values;
use crate::cpu::{AttentionShape, Mask, RelativeBuckets};
use crate::{Dtype, reference};

#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) head_dim: usize,
    pub(super) heads: usize,
    /// Whether queries meet positions, and whether keys do.
    pub(super) terms: [bool; 2],
    pub(super) span: usize,
    pub(super) distance_max: usize,
    pub(super) lengths: &'a [u32],
}

/// Around every tile's edge, in an order that mixes them.
const LENGTHS: [u32; 11] = [2, 64, 1, 33, 129, 17, 65, 127, 63, 7, 200];
/// The longest sequence that the tables are for.
const TOKENS_MAX: usize = 210;

/// The table ends inside of the longer sequences.
pub(super) const CASE: Case<'static> =
    Case { head_dim: 64, heads: 2, terms: [true, true], span: 32, distance_max: 100, lengths: &LENGTHS };

/// A random table as the kernel has it, and as the reference does: `[2 span, heads * head_dim]`.
fn table(case: &Case<'_>, dtype: Dtype, upside_down: bool, values: &mut Values) -> (Buffer, Vec<f64>) {
    let Case { head_dim, heads, span, .. } = *case;
    let (rows, width) = (2 * span, heads * head_dim);
    let buffer = Buffer::random(dtype, rows * width, 1.0, values);
    let mut stored = vec![0.0; rows * width];
    for (index, from) in buffer.values().chunks_exact(head_dim).enumerate() {
        let (head, row) = (index / rows, index % rows);
        let row = if upside_down { rows - 1 - row } else { row };
        stored[row * width + head * head_dim..][..head_dim].copy_from_slice(from);
    }
    (buffer, stored)
}

fn shape(case: &Case<'_>) -> AttentionShape {
    let Case { head_dim, heads, .. } = *case;
    let scale = 1.0 / (3.0 * head_dim as f32).sqrt();
    AttentionShape { heads, kv_heads: heads, head_dim, scale, mask: Mask::Bidirectional }
}

/// Queries, keys and values stand in one buffer as a projection leaves them, with a gap.
fn stride(case: &Case<'_>) -> usize {
    3 * case.heads * case.head_dim + 8
}

fn attention_args(
    case: &Case<'_>,
    dtype: Dtype,
    qkv: &Buffer,
    out: &Buffer,
    cu_seqlens: &[u32],
) -> AttentionArgs {
    let (width, stride) = (case.heads * case.head_dim, stride(case) as u32);
    let at = |column: usize| qkv.address() + (column * dtype.bytes()) as u64;
    AttentionArgs {
        q: at(0),
        k: at(width),
        v: at(2 * width),
        out: out.address(),
        cu_seqlens_q: address_of(cu_seqlens),
        cu_seqlens_k: address_of(cu_seqlens),
        q_stride: stride,
        k_stride: stride,
        v_stride: stride,
        out_stride: width as u32,
        sequences: case.lengths.len() as u32,
        heads: case.heads as u32,
        kv_heads: case.heads as u32,
        window_left: -1,
        window_right: -1,
        scale: shape(case).scale * std::f32::consts::LOG2_E,
        ..bytemuck::Zeroable::zeroed()
    }
}

fn expected(case: &Case<'_>, qkv: &[f64], cu_seqlens: &[u32], tables: [&[f64]; 2]) -> Vec<f64> {
    let width = case.heads * case.head_dim;
    let part = |index: usize| -> Vec<f64> {
        let rows = qkv.chunks_exact(stride(case));
        rows.flat_map(|row| row[index * width..][..width].to_vec()).collect()
    };
    let (q, k, v) = (part(0), part(1), part(2));
    let tables = [0, 1].map(|term| if case.terms[term] { tables[term] } else { &[] });
    reference::disentangled_attention(&shape(case), (&q, &k, &v), cu_seqlens, tables, case.distance_max)
}

pub(super) fn check(
    emulation: Emulation<'_>,
    dtype: Dtype,
    seed: u64,
    case: &Case<'_>,
) -> Result<Vec<u8>, String> {
    let Case { head_dim, heads, terms, span, distance_max, lengths } = *case;
    let (cu_seqlens, width) = (cumulative(lengths), heads * head_dim);
    let tokens = *cu_seqlens.last().expect("never empty") as usize;
    let qkv = Buffer::random(dtype, tokens * stride(case), 1.0, &mut Values::new(seed << 8));
    let out = Buffer::poisoned(dtype, tokens * width);
    let [keys, queries] = [true, false]
        .map(|keys| table(case, dtype, keys, &mut Values::new((seed << 8) + 1 + u64::from(keys))));
    let buckets = RelativeBuckets::new(span, distance_max, TOKENS_MAX).expect("sound");
    let [key_rows, query_rows] = buckets.rows();
    let attention = attention_args(case, dtype, &qkv, &out, &cu_seqlens);
    let used = |term: bool, table: &Buffer| if term { table.address() } else { 0 };
    let args = DisentangledArgs {
        attention,
        keys: used(terms[0], &keys.0),
        queries: used(terms[1], &queries.0),
        key_rows: address_of(key_rows),
        query_rows: address_of(query_rows),
        rows: 2 * span as u32,
        reach: TOKENS_MAX as u32 - 1,
    };
    let kernel = DisentangledKernel::select(dtype, head_dim).expect("a kernel");
    let longest = lengths.iter().copied().max().unwrap_or(0);
    emulation.run(&kernel.launch(args, longest).expect("a launch")).map_err(|error| error.0)?;

    let expected = expected(case, &qkv.values(), &cu_seqlens, [&keys.1, &queries.1]);
    let found = out.values();
    for (index, rows) in cu_seqlens.windows(2).enumerate() {
        let part = rows[0] as usize * width..rows[1] as usize * width;
        check_close(
            &found[part.clone()],
            &expected[part],
            dtype,
            &format!("{case:?} {dtype} sequence {index}"),
        )?;
    }
    out.check_guards()?;
    Ok(out.bytes().to_vec())
}

#[test]
fn disentangled_attention_matches_f64() {
    for dtype in DTYPES {
        check(INTACT, dtype, 1, &CASE).unwrap();
        check(INTACT, dtype, 2, &Case { head_dim: 32, span: 256, distance_max: 512, ..CASE }).unwrap();
        for terms in [[true, false], [false, true]] {
            check(INTACT, dtype, 3, &Case { head_dim: 32, terms, ..CASE }).unwrap();
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_batch_nor_on_the_order_of_warps() {
    let case = Case { lengths: &LENGTHS[..7], ..CASE };
    let together = check(INTACT, Dtype::F16, 4, &case).unwrap();
    for seed in 2..5 {
        assert_eq!(together, check(Emulation { seed, ..INTACT }, Dtype::F16, 4, &case).unwrap());
    }
    let part = check(INTACT, Dtype::F16, 4, &Case { lengths: &LENGTHS[..3], ..case }).unwrap();
    assert_eq!(part[..], together[..part.len()]);
}

#[test]
fn what_no_kernel_takes_is_refused() {
    let missing = DisentangledKernel::select(Dtype::F16, 128).unwrap_err().to_string();
    let expected =
        "no CUDA attention kernel has head_dim 128 with relative positions that contents are compared with";
    assert!(missing.starts_with(expected), "{missing}");
    let kernel = DisentangledKernel::select(Dtype::F16, 64).unwrap();
    let attention = AttentionArgs { sequences: 1, heads: 2, kv_heads: 1, ..bytemuck::Zeroable::zeroed() };
    let args = DisentangledArgs { attention, ..bytemuck::Zeroable::zeroed() };
    assert!(matches!(kernel.launch(args, 8), Err(KernelError::Operands { .. })));
}
