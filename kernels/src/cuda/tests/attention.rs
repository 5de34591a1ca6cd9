use super::super::{AttentionArgs, AttentionKernels, Distance, KernelError, Launch};
use super::{Buffer, DTYPES, Emulation, INTACT, address_of, check_close};
use crate::cpu::tests::Values;
use crate::cpu::{AttentionShape, Mask};
use crate::{Dtype, reference};

/// Around every tile's edge, in an order that mixes them.
pub(super) const LENGTHS: [u32; 12] = [7, 64, 1, 33, 130, 17, 65, 31, 513, 32, 127, 63];
/// Who sees whom: everybody, causal, and windows narrower and wider than a tile.
pub(super) const WINDOWS: [(i32, i32); 5] = [(-1, -1), (-1, 0), (16, 16), (100, 0), (0, 3)];

#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) distance: Distance,
    pub(super) head_dim: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) window: (i32, i32),
    pub(super) queries: &'a [u32],
    pub(super) keys: &'a [u32],
    /// By the kernel for any length, also where a shorter one would do.
    pub(super) is_long: bool,
}

pub(super) const CASE: Case<'static> = Case {
    distance: Distance::None,
    head_dim: 64,
    heads: 2,
    kv_heads: 1,
    window: (-1, -1),
    queries: &LENGTHS,
    keys: &LENGTHS,
    is_long: false,
};

pub(super) fn cumulative(lengths: &[u32]) -> Vec<u32> {
    let ends = lengths.iter().scan(0, |total, length| {
        *total += length;
        Some(*total)
    });
    std::iter::once(0).chain(ends).collect()
}

/// Slopes, or a table by distance that ends within the longest sequence.
const REACH: usize = 20;

fn biases(distance: Distance, heads: usize, values: &mut Values) -> Vec<f32> {
    match distance {
        Distance::None => Vec::new(),
        Distance::Alibi => (0..heads).map(|head| 0.02 * (head + 1) as f32).collect(),
        Distance::Relative => (0..heads * (2 * REACH + 1)).map(|_| values.next()).collect(),
    }
}

/// What is added to the score by the biases, and whether the key is seen.
fn look(case: &Case<'_>, biases: &[f32], head: usize, distance: i64) -> Option<f64> {
    let (left, right) = case.window;
    let is_seen = (left < 0 || distance >= -i64::from(left)) && (right < 0 || distance <= i64::from(right));
    let bias = match case.distance {
        Distance::None => 0.0,
        Distance::Alibi => -f64::from(biases[head]) * distance.abs() as f64,
        Distance::Relative => {
            let reach = REACH as i64;
            let entry = distance.clamp(-reach, reach) + reach;
            f64::from(biases[head * (2 * REACH + 1) + entry as usize])
        }
    };
    is_seen.then_some(bias)
}

fn kernels(case: &Case<'_>, dtype: Dtype) -> AttentionKernels {
    AttentionKernels::select(case.distance, dtype, case.head_dim).expect("a kernel")
}

fn launch<'a>(
    kernels: &'a AttentionKernels,
    args: AttentionArgs,
    case: &Case<'_>,
) -> Launch<'a, AttentionArgs> {
    let longest = |lengths: &[u32]| lengths.iter().copied().max().unwrap_or(0);
    let (queries, keys) = (longest(case.queries), longest(case.keys));
    let launch =
        if case.is_long { kernels.launch_long(args, queries) } else { kernels.launch(args, (queries, keys)) };
    launch.expect("a launch")
}

/// Queries, keys and values stand in one fused buffer as a projection leaves them, with a gap.
pub(super) fn check(
    emulation: Emulation<'_>,
    dtype: Dtype,
    seed: u64,
    case: &Case<'_>,
) -> Result<Vec<u8>, String> {
    let Case { distance, head_dim, heads, kv_heads, queries, keys, .. } = *case;
    let (cu_q, cu_k) = (cumulative(queries), cumulative(keys));
    let tokens = |cu: &[u32]| *cu.last().expect("never empty") as usize;
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let (q_stride, kv_stride, out_stride) = (width + 8, 2 * kv_width + 8, width);
    // Streams of their own: a sequence's operands do not depend on how many follow.
    let random = |tokens: usize, stride: usize, stream: u64| {
        Buffer::random(dtype, tokens * stride, 1.0, &mut Values::new(seed << 8 | stream))
    };
    let (q, kv) = (random(tokens(&cu_q), q_stride, 0), random(tokens(&cu_k), kv_stride, 1));
    let out = Buffer::poisoned(dtype, tokens(&cu_q) * out_stride);
    let biases = biases(distance, heads, &mut Values::new(seed << 8 | 2));
    let by_two: Vec<f32> = biases.iter().map(|bias| bias * std::f32::consts::LOG2_E).collect();
    let scale = 1.0 / (head_dim as f32).sqrt();
    let args = AttentionArgs {
        q: q.address(),
        k: kv.address(),
        v: kv.address() + (kv_width * dtype.bytes()) as u64,
        out: out.address(),
        cu_seqlens_q: address_of(&cu_q),
        cu_seqlens_k: address_of(&cu_k),
        bias: address_of(&by_two),
        q_stride: q_stride as u32,
        k_stride: kv_stride as u32,
        v_stride: kv_stride as u32,
        out_stride: out_stride as u32,
        sequences: queries.len() as u32,
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        bias_reach: REACH as u32,
        window_left: case.window.0,
        window_right: case.window.1,
        scale: scale * std::f32::consts::LOG2_E,
        reserved: 0,
    };
    emulation.run(&launch(&kernels(case, dtype), args, case)).map_err(|error| error.0)?;

    let columns = |buffer: &Buffer, stride: usize, first: usize, width: usize| -> Vec<f64> {
        buffer.values().chunks_exact(stride).flat_map(|row| row[first..first + width].to_vec()).collect()
    };
    let (q, k) = (columns(&q, q_stride, 0, width), columns(&kv, kv_stride, 0, kv_width));
    let v = columns(&kv, kv_stride, kv_width, kv_width);
    let shape = AttentionShape { heads, kv_heads, head_dim, scale, mask: Mask::Bidirectional };
    let expected = reference::attention_where(&shape, (&q, &k, &v), &cu_q, &cu_k, |head, distance| {
        look(case, &biases, head, distance)
    });
    let found = out.values();
    for (index, rows) in cu_q.windows(2).enumerate() {
        let part = rows[0] as usize * width..rows[1] as usize * width;
        let what = format!("{case:?} {dtype} sequence {index}");
        check_close(&found[part.clone()], &expected[part], dtype, &what)?;
    }
    out.check_guards()?;
    Ok(out.bytes().to_vec())
}

#[test]
fn attention_matches_f64() {
    for dtype in DTYPES {
        for head_dim in [32, 64, 96, 128, 256] {
            for (index, window) in WINDOWS.into_iter().enumerate() {
                let kv_heads = 1 + index % 2;
                check(INTACT, dtype, 1, &Case { head_dim, kv_heads, window, ..CASE }).unwrap();
            }
        }
    }
}

#[test]
fn attention_with_biases_matches_f64() {
    for dtype in DTYPES {
        for distance in [Distance::Alibi, Distance::Relative] {
            for head_dim in [32, 64] {
                for window in [(-1, -1), (-1, 0), (16, 16)] {
                    check(INTACT, dtype, 2, &Case { distance, head_dim, window, ..CASE }).unwrap();
                }
            }
        }
    }
}

#[test]
fn short_sequences_have_the_same_bits_from_both_kernels() {
    let lengths = [1, 7, 16, 17, 31, 32, 2, 32, 5];
    for dtype in DTYPES {
        for (head_dim, distance) in [
            (32, Distance::None),
            (64, Distance::None),
            (96, Distance::None),
            (128, Distance::None),
            (64, Distance::Alibi),
            (64, Distance::Relative),
        ] {
            for window in WINDOWS {
                let case = Case { distance, head_dim, window, queries: &lengths, keys: &lengths, ..CASE };
                let short = check(INTACT, dtype, 3, &case).unwrap();
                assert_eq!(short, check(INTACT, dtype, 3, &Case { is_long: true, ..case }).unwrap());
            }
        }
    }
}

#[test]
fn queries_may_be_fewer_or_more_than_keys() {
    // Behind a shared prefix; and, with a causal mask, queries before the first key, which see nothing.
    let (queries, keys) = ([1, 5, 20, 64, 40, 70], [30, 5, 100, 129, 9, 33]);
    for window in WINDOWS {
        let case = Case { window, queries: &queries, keys: &keys, ..CASE };
        check(INTACT, Dtype::F16, 4, &case).unwrap();
        let short = Case { queries: &[3, 20, 9], keys: &[30, 4, 9], ..case };
        check(INTACT, Dtype::F16, 4, &short).unwrap();
    }
}

#[test]
fn empty_sequences_take_nothing_and_give_nothing() {
    for keys in [[9, 0, 70], [9, 3, 0]] {
        check(INTACT, Dtype::Bf16, 5, &Case { queries: &[9, 0, 70], keys: &keys, ..CASE }).unwrap();
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_batch_nor_on_the_order_of_warps() {
    let lengths = &LENGTHS[..8];
    let case = Case { queries: lengths, keys: lengths, ..CASE };
    let together = check(INTACT, Dtype::Bf16, 6, &case).unwrap();
    for seed in 2..6 {
        assert_eq!(together, check(Emulation { seed, ..INTACT }, Dtype::Bf16, 6, &case).unwrap());
    }
    for count in [1, 3, 5] {
        let part = check(
            INTACT,
            Dtype::Bf16,
            6,
            &Case { queries: &lengths[..count], keys: &lengths[..count], ..case },
        );
        let part = part.unwrap();
        assert_eq!(part[..], together[..part.len()], "the first {count}");
    }
}

#[test]
fn what_no_kernel_takes_is_refused() {
    let missing = AttentionKernels::select(Distance::Alibi, Dtype::F16, 80).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "no CUDA attention kernel has head_dim 80 with ALiBi: [32, 64] are covered; run the model on the CPU"
    );
    assert_eq!(AttentionKernels::select(Distance::None, Dtype::I8, 64), Err(KernelError::Dtype(Dtype::I8)));
    let kernels = AttentionKernels::select(Distance::None, Dtype::F16, 64).unwrap();
    let args = AttentionArgs { sequences: 1, heads: 12, kv_heads: 5, ..bytemuck::Zeroable::zeroed() };
    assert!(matches!(kernels.launch(args, (8, 8)), Err(KernelError::Operands { .. })));
    let many = AttentionArgs { sequences: u32::MAX, kv_heads: 12, ..args };
    assert!(matches!(kernels.launch(many, (80, 80)), Err(KernelError::Grid { .. })));
}
