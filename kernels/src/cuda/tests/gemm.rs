use super::super::{GemmArgs, GemmKernels, KernelError, activation_code};
use super::{Buffer, DTYPES, Emulation, INTACT, SIZES, address_of, check_close, wide};
use crate::cpu::Activation;
use crate::cpu::tests::Values;
use crate::{Dtype, reference};

#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// Largest first.
    pub(super) tile: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) inner: usize,
    pub(super) activation: Activation,
    pub(super) is_gated: bool,
    pub(super) has_bias: bool,
    pub(super) is_added: bool,
}

pub(super) const CASE: Case = Case {
    tile: 1,
    rows: 70,
    columns: 144,
    inner: 200,
    activation: Activation::Identity,
    is_gated: false,
    has_bias: true,
    is_added: true,
};

/// What the epilogue makes of a row of products.
fn finish(case: &Case, row: &[f64]) -> Vec<f64> {
    let act = |value| reference::activate(case.activation, value);
    if case.is_gated {
        row.chunks_exact(2).map(|pair| act(pair[0]) * pair[1]).collect()
    } else {
        row.iter().map(|value| act(*value)).collect()
    }
}

/// Rows of every operand stand with a gap between them.
pub(super) fn check(emulation: Emulation<'_>, dtype: Dtype, case: &Case) -> Result<Buffer, String> {
    let Case { tile, rows, columns, inner, is_gated, .. } = *case;
    let outputs = if is_gated { columns / 2 } else { columns };
    let (x_stride, out_stride) = (inner + 8, outputs + 8);
    let mut values = Values::new((columns * inner) as u64);
    let scale = 1.0 / (inner as f32).sqrt();
    let weight = Buffer::random(dtype, columns * inner, scale, &mut values);
    let bias: Vec<f32> = (0..columns).map(|_| values.next()).collect();
    // Streams of their own: a row's operands do not depend on how many follow.
    let x = Buffer::random(dtype, rows * x_stride, 1.0, &mut Values::new(1));
    let residual = Buffer::random(dtype, rows * out_stride, 1.0, &mut Values::new(2));
    let out = Buffer::poisoned(dtype, rows * out_stride);
    let args = GemmArgs {
        x: x.address(),
        weight: weight.address(),
        bias: if case.has_bias { address_of(&bias) } else { 0 },
        residual: if case.is_added { residual.address() } else { 0 },
        out: out.address(),
        rows: rows as u32,
        columns: columns as u32,
        inner: inner as u32,
        x_stride: x_stride as u32,
        residual_stride: out_stride as u32,
        out_stride: out_stride as u32,
        activation: activation_code(case.activation),
        is_gated: is_gated.into(),
    };
    let kernels = GemmKernels::select(dtype).expect("kernels");
    emulation.run(&kernels.launch_tile(args, tile).expect("a launch")).map_err(|error| error.0)?;

    let operand: Vec<f64> = x.values().chunks_exact(x_stride).flat_map(|row| row[..inner].to_vec()).collect();
    let bias = if case.has_bias { wide(&bias) } else { vec![0.0; columns] };
    let sums = reference::linear(&operand, &weight.values(), &bias);
    let (found, residual) = (out.values(), residual.values());
    for (index, sums) in sums.chunks_exact(columns).enumerate() {
        let at = index * out_stride..index * out_stride + outputs;
        let mut expected = finish(case, sums);
        if case.is_added {
            expected.iter_mut().zip(&residual[at.clone()]).for_each(|(value, more)| *value += more);
        }
        check_close(&found[at.clone()], &expected, dtype, &format!("{case:?} {dtype} row {index}"))?;
        if !found[at.end..at.start + out_stride].iter().all(|value| value.is_nan()) {
            return Err(format!("{case:?} {dtype} row {index}: written past its end"));
        }
    }
    out.check_guards()?;
    Ok(out)
}

#[test]
fn products_match_f64_for_every_number_of_rows() {
    for dtype in DTYPES {
        for tile in 0..3 {
            for rows in SIZES {
                check(INTACT, dtype, &Case { tile, rows, columns: 40, inner: 72, ..CASE }).unwrap();
            }
        }
    }
}

#[test]
fn products_match_f64_for_every_width_and_depth() {
    for dtype in DTYPES {
        for tile in 0..3 {
            for (columns, inner) in
                [(8, 8), (32, 32), (128, 64), (136, 96), (264, 1000), (24, 264), (384, 384)]
            {
                let is_added = columns != 264;
                check(
                    INTACT,
                    dtype,
                    &Case { tile, rows: 33, columns, inner, is_added, has_bias: !is_added, ..CASE },
                )
                .unwrap();
            }
        }
    }
}

#[test]
fn every_epilogue_matches_f64() {
    use Activation::{GeluErf, GeluTanh, Identity, Relu, Silu, Tanh};
    for dtype in DTYPES {
        for activation in [Identity, GeluErf, GeluTanh, Silu, Relu, Tanh] {
            for is_gated in [false, true] {
                for tile in 0..3 {
                    let case =
                        Case { tile, activation, is_gated, rows: 20, inner: 64, is_added: tile != 1, ..CASE };
                    check(INTACT, dtype, &case).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_from_every_tile_and_among_any_rows() {
    for is_gated in [false, true] {
        let case = Case { rows: 140, is_gated, activation: Activation::Silu, ..CASE };
        let whole = check(INTACT, Dtype::Bf16, &case).unwrap();
        for tile in 0..3 {
            for (rows, seed) in [(1, 5), (17, 6), (140, 7)] {
                let part =
                    check(Emulation { seed, ..INTACT }, Dtype::Bf16, &Case { tile, rows, ..case }).unwrap();
                assert_eq!(part.bytes(), &whole.bytes()[..part.bytes().len()], "tile {tile}, {rows} rows");
            }
        }
    }
}

#[test]
fn the_largest_tile_that_employs_the_device_is_taken() {
    let kernels = GemmKernels::select(Dtype::F16).unwrap();
    let args = GemmArgs { columns: 768, inner: 768, ..bytemuck::Zeroable::zeroed() };
    let name = |rows, multiprocessors| {
        let launch = kernels.launch(GemmArgs { rows, ..args }, multiprocessors).unwrap();
        (launch.kernel.name.clone(), launch.grid)
    };
    assert_eq!(name(4096, 132), ("gemm_t128x128_f16".to_owned(), [6, 32, 1]));
    assert_eq!(name(1024, 132), ("gemm_t64x64_f16".to_owned(), [12, 16, 1]));
    assert_eq!(name(8, 132), ("gemm_t16x32_f16".to_owned(), [24, 1, 1]));
    assert_eq!(name(8, 1).0, "gemm_t128x128_f16");
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let kernels = GemmKernels::select(Dtype::F16).unwrap();
    let args = GemmArgs { rows: 4, columns: 24, inner: 16, ..bytemuck::Zeroable::zeroed() };
    kernels.launch(args, 1).unwrap();
    for broken in [
        GemmArgs { rows: 0, ..args },
        GemmArgs { inner: 12, ..args },
        GemmArgs { columns: 30, ..args },
        GemmArgs { is_gated: 1, ..args },
        GemmArgs { x_stride: 12, ..args },
    ] {
        assert!(matches!(kernels.launch(broken, 1), Err(KernelError::Operands { .. })), "{broken:?}");
    }
    assert_eq!(GemmKernels::select(Dtype::I8), Err(KernelError::Dtype(Dtype::I8)));
    let many = GemmArgs { rows: u32::MAX, ..args };
    assert!(matches!(kernels.launch(many, 1), Err(KernelError::Grid { .. })));
}
