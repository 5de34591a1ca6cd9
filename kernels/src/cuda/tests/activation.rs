use super::super::{ActivateArgs, ActivateKernel, activation_code};
use super::{Buffer, DTYPES, Emulation, INTACT, SIZES, address_of, check_close};
use crate::cpu::Activation;
use crate::cpu::tests::Values;
use crate::{Dtype, reference};

/// With the bias and gated, or neither; rows stand with a gap between them.
fn check(
    dtype: Dtype,
    (rows, columns): (usize, usize),
    activation: Activation,
    is_gated: bool,
    x: Option<&[f32]>,
) -> Result<(), String> {
    let stride = columns + 8;
    let mut values = Values::new(rows as u64);
    let x = match x {
        Some(given) => Buffer::of(dtype, given.iter().copied()),
        None => Buffer::random(dtype, rows * stride, 2.0, &mut values),
    };
    let bias: Vec<f32> = (0..columns).map(|_| values.next()).collect();
    let outputs = if is_gated { columns / 2 } else { columns };
    let out = Buffer::poisoned(dtype, rows * outputs);
    let args = ActivateArgs {
        x: x.address(),
        bias: if is_gated { address_of(&bias) } else { 0 },
        out: out.address(),
        rows: rows as u32,
        columns: columns as u32,
        x_stride: stride as u32,
        out_stride: outputs as u32,
        activation: activation_code(activation),
        reserved: 0,
    };
    let kernel = ActivateKernel::select(is_gated, dtype).expect("a kernel");
    Emulation { ..INTACT }.run(&kernel.launch(args).expect("a launch")).map_err(|error| error.0)?;

    let act = |value| reference::activate(activation, value);
    let row = |row: &[f64]| -> Vec<f64> {
        if is_gated {
            let sums: Vec<f64> =
                row.iter().zip(&bias).map(|(value, bias)| value + f64::from(*bias)).collect();
            sums.chunks_exact(2).map(|pair| act(pair[0]) * pair[1]).collect()
        } else {
            row.iter().map(|value| act(*value)).collect()
        }
    };
    let expected: Vec<f64> = x.values().chunks_exact(stride).flat_map(|all| row(&all[..columns])).collect();
    check_close(&out.values(), &expected, dtype, &format!("{activation:?} {dtype} {rows} rows"))?;
    out.check_guards()
}

const ACTIVATIONS: [Activation; 6] = [
    Activation::Identity,
    Activation::GeluErf,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::Relu,
    Activation::Tanh,
];

#[test]
fn activations_match_f64() {
    for dtype in DTYPES {
        for activation in ACTIVATIONS {
            for is_gated in [false, true] {
                for rows in SIZES {
                    check(dtype, (rows, 48), activation, is_gated, None).unwrap();
                }
            }
        }
    }
}

#[test]
fn far_from_zero_nothing_overflows_and_near_zero_nothing_is_lost() {
    let ends = [60000.0, -60000.0, 100.0, -100.0, 12.0, -12.0, 88.0, -88.0];
    let middle = [1e-4, -1e-4, 1e-3, -1e-3, 0.01, -0.01, 0.1, -0.1];
    for dtype in DTYPES {
        for activation in ACTIVATIONS {
            for row in [ends, middle] {
                // One row and the gap behind it.
                let row: Vec<f32> = row.into_iter().chain([0.0; 8]).collect();
                check(dtype, (1, 8), activation, false, Some(&row)).unwrap();
            }
        }
    }
}
