use super::super::{KernelError, RopeArgs, RopeKernel, RopePairs};
use super::{Buffer, DTYPES, Emulation, INTACT, address_of, check_close, wide};
use crate::cpu::tests::Values;
use crate::{Dtype, reference};

#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) pairs: RopePairs,
    pub(super) rows: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) rope_dims: usize,
    pub(super) is_normed: bool,
    pub(super) is_rotated: bool,
}

pub(super) const CASE: Case = Case {
    pairs: RopePairs::Halves,
    rows: 33,
    heads: 3,
    kv_heads: 1,
    head_dim: 64,
    rope_dims: 32,
    is_normed: true,
    is_rotated: true,
};

const EPS: f32 = 1e-6;
const POSITIONS: usize = 600;

/// One head turned to its position, in f64.
fn turned(case: &Case, head: &[f64], position: u32) -> Vec<f64> {
    if !case.is_rotated {
        return head.to_vec();
    }
    let half = case.rope_dims / 2;
    // The reference turns halves: where an element of a pair of neighbours stands there.
    let place = |at: usize| match case.pairs {
        RopePairs::Neighbours if at < case.rope_dims => at % 2 * half + at / 2,
        RopePairs::Neighbours | RopePairs::Halves => at,
    };
    let mut halves = vec![0.0; head.len()];
    head.iter().enumerate().for_each(|(at, value)| halves[place(at)] = *value);
    let out = reference::rope(head.len(), &frequencies(case.rope_dims), &[position], &halves);
    (0..head.len()).map(|at| out[place(at)]).collect()
}

fn frequencies(rope_dims: usize) -> Vec<f64> {
    (0..rope_dims / 2).map(|pair| 10_000_f64.powf(-2.0 * pair as f64 / rope_dims as f64)).collect()
}

/// Heads of queries and keys stand in a row with values behind them, which stay as they are.
pub(super) fn check(emulation: Emulation<'_>, dtype: Dtype, case: &Case) -> Result<(), String> {
    let Case { pairs, rows, heads, kv_heads, head_dim, rope_dims, is_normed, is_rotated } = *case;
    let width = (heads + kv_heads) * head_dim;
    let stride = width + kv_heads * head_dim;
    let mut values = Values::new(rows as u64);
    let x = Buffer::random(dtype, rows * stride, 1.5, &mut values);
    let before = x.values();
    let [q_weight, k_weight]: [Vec<f32>; 2] =
        std::array::from_fn(|_| (0..head_dim).map(|_| values.next()).collect());
    let positions: Vec<u32> = (0..rows as u32).map(|row| row * 37 % POSITIONS as u32).collect();
    let frequencies = frequencies(rope_dims);
    let turns =
        (0..POSITIONS).flat_map(|position| frequencies.iter().map(move |each| position as f64 * each));
    let angles: Vec<f32> = turns.map(f64::sin_cos).flat_map(|(y, x)| [x as f32, y as f32]).collect();
    let there = |is_there, address| if is_there { address } else { 0 };
    let args = RopeArgs {
        x: x.address(),
        angles: there(is_rotated, address_of(&angles)),
        positions: address_of(&positions),
        q_weight: there(is_normed, address_of(&q_weight)),
        k_weight: there(is_normed, address_of(&k_weight)),
        rows: rows as u32,
        stride: stride as u32,
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        head_dim: head_dim as u32,
        rope_dims: rope_dims as u32,
        eps: EPS,
        weight_plus: 1.0,
    };
    let kernel = RopeKernel::select(pairs, dtype, head_dim, rope_dims).expect("a kernel");
    emulation.run(&kernel.launch(args).expect("a launch")).map_err(|error| error.0)?;

    let found = x.values();
    for (row, position) in positions.iter().enumerate() {
        let at = row * stride..row * stride + width;
        let each = before[at.clone()].chunks_exact(head_dim).enumerate();
        let expected: Vec<f64> = each
            .flat_map(|(head, from)| {
                let weight = wide(if head < heads { &q_weight } else { &k_weight });
                let weight: Vec<f64> = weight.iter().map(|value| value + 1.0).collect();
                let normed = reference::rms_norm(from, &weight, f64::from(EPS));
                turned(case, if is_normed { &normed } else { from }, *position)
            })
            .collect();
        check_close(&found[at.clone()], &expected, dtype, &format!("{case:?} {dtype} row {row}"))?;
        if found[at.end..(row + 1) * stride] != before[at.end..(row + 1) * stride] {
            return Err(format!("{case:?} {dtype} row {row}: the values were touched"));
        }
    }
    x.check_guards()
}

#[test]
fn rotations_match_f64() {
    for dtype in DTYPES {
        for pairs in [RopePairs::Halves, RopePairs::Neighbours] {
            for (head_dim, rope_dims) in
                [(32, 32), (64, 64), (64, 32), (64, 16), (96, 96), (96, 48), (128, 128), (256, 256)]
            {
                for (rows, is_normed) in [(1, true), (7, false), (65, true)] {
                    check(INTACT, dtype, &Case { pairs, rows, head_dim, rope_dims, is_normed, ..CASE })
                        .unwrap();
                }
            }
            check(INTACT, dtype, &Case { pairs, rows: 513, kv_heads: 3, ..CASE }).unwrap();
            check(INTACT, dtype, &Case { pairs, is_rotated: false, ..CASE }).unwrap();
        }
    }
}

#[test]
fn heads_that_no_kernel_turns_are_refused() {
    for (head_dim, rope_dims) in [(512, 512), (64, 24), (72, 64), (64, 80), (0, 0)] {
        let refused = RopeKernel::select(RopePairs::Halves, Dtype::Bf16, head_dim, rope_dims).unwrap_err();
        assert_eq!(refused, KernelError::Rope { head_dim, rope_dims, head_dim_max: 256 });
    }
    let kernel = RopeKernel::select(RopePairs::Halves, Dtype::Bf16, 64, 64).unwrap();
    let args = RopeArgs {
        rows: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 64,
        rope_dims: 64,
        stride: 128,
        ..bytemuck::Zeroable::zeroed()
    };
    assert!(matches!(kernel.launch(args), Err(KernelError::Operands { .. })));
}
