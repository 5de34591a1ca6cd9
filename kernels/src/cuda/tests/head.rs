//! What follows the last layer: pooling, dense layers, and answers in the caller's form.

use super::super::{
    DenseArgs, DenseKernel, PoolArgs, PoolKernel, VectorForm, VectorsArgs, VectorsKernel, activation_code,
    pooling_code,
};
use super::attention::{LENGTHS, cumulative};
use super::{Buffer, DTYPES, Emulation, INTACT, SIZES, address_of, check_close, floats, wide};
use crate::cpu::tests::Values;
use crate::cpu::{Activation, Pooling};
use crate::{Dtype, reference};

const POOLINGS: [Pooling; 6] =
    [Pooling::Cls, Pooling::Last, Pooling::Max, Pooling::Mean, Pooling::MeanSqrtLen, Pooling::WeightedMean];

/// Every pooling side by side, as sentence-transformers concatenates them.
pub(super) fn check_pooling(
    emulation: Emulation<'_>,
    dtype: Dtype,
    dims: usize,
    lengths: &[u32],
) -> Result<Vec<u8>, String> {
    let cu_seqlens = cumulative(lengths);
    let tokens = lengths.iter().sum::<u32>() as usize;
    let x = Buffer::random(dtype, tokens * dims, 1.0, &mut Values::new(dims as u64));
    let width = dims * POOLINGS.len();
    let out = Buffer::poisoned(Dtype::F32, lengths.len() * width);
    let kernel = PoolKernel::select(dtype).expect("a kernel");
    for (index, pooling) in POOLINGS.into_iter().enumerate() {
        let args = PoolArgs {
            x: x.address(),
            cu_seqlens: address_of(&cu_seqlens),
            out: out.address() + (index * dims * 4) as u64,
            sequences: lengths.len() as u32,
            dims: dims as u32,
            out_stride: width as u32,
            pooling: pooling_code(pooling),
        };
        emulation.run(&kernel.launch(args).expect("a launch")).map_err(|error| error.0)?;
    }
    let (rows, found) = (x.values(), out.values());
    for (sequence, ends) in cu_seqlens.windows(2).enumerate() {
        let rows = &rows[ends[0] as usize * dims..ends[1] as usize * dims];
        for (index, pooling) in POOLINGS.into_iter().enumerate() {
            let found = &found[sequence * width + index * dims..][..dims];
            let what = format!("{pooling:?} {dtype} {dims} sequence {sequence}");
            check_close(found, &reference::pool(pooling, dims, rows), Dtype::F32, &what)?;
        }
    }
    out.check_guards()?;
    Ok(out.bytes().to_vec())
}

#[test]
fn pooling_matches_f64() {
    for dtype in DTYPES {
        for dims in [8, 128, 136, 384] {
            check_pooling(INTACT, dtype, dims, &LENGTHS).unwrap();
        }
        check_pooling(INTACT, dtype, 64, &[3, 0, 5, 0]).unwrap();
    }
    let (few, all) = (&LENGTHS[..3], &LENGTHS[..6]);
    let bits = |lengths, seed| check_pooling(Emulation { seed, ..INTACT }, Dtype::F16, 64, lengths).unwrap();
    let alone = bits(few, 3);
    assert_eq!(alone[..], bits(all, 4)[..alone.len()], "whatever the batch");
}

/// A dense layer over rows in `input`.
pub(super) fn check_dense(
    emulation: Emulation<'_>,
    input: Dtype,
    (rows, columns, inner): (usize, usize, usize),
    activation: Activation,
) -> Result<(), String> {
    let (x_stride, out_stride) = (inner + 8, columns + 1);
    let mut values = Values::new(inner as u64);
    let x = Buffer::random(input, rows * x_stride, 1.0, &mut values);
    let weight = Buffer::random(Dtype::F32, columns * inner, 0.2, &mut values);
    let bias: Vec<f32> = (0..columns).map(|_| values.next()).collect();
    let out = Buffer::poisoned(Dtype::F32, rows * out_stride);
    let args = DenseArgs {
        x: x.address(),
        weight: weight.address(),
        bias: address_of(&bias),
        out: out.address(),
        rows: rows as u32,
        columns: columns as u32,
        inner: inner as u32,
        x_stride: x_stride as u32,
        out_stride: out_stride as u32,
        activation: activation_code(activation),
    };
    let kernel = DenseKernel::select(input).expect("a kernel");
    emulation.run(&kernel.launch(args).expect("a launch")).map_err(|error| error.0)?;
    let operand: Vec<f64> = x.values().chunks_exact(x_stride).flat_map(|row| row[..inner].to_vec()).collect();
    let sums = reference::linear(&operand, &weight.values(), &wide(&bias));
    let expected: Vec<f64> = sums.into_iter().map(|value| reference::activate(activation, value)).collect();
    let found: Vec<f64> =
        out.values().chunks_exact(out_stride).flat_map(|row| row[..columns].to_vec()).collect();
    check_close(&found, &expected, Dtype::F32, &format!("dense {input} {rows} x {columns} x {inner}"))?;
    out.check_guards()
}

#[test]
fn dense_layers_match_f64() {
    for input in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        for rows in SIZES {
            check_dense(INTACT, input, (rows, 3, 64), Activation::Identity).unwrap();
        }
        for (columns, inner) in [(1, 8), (2, 384), (37, 264), (9, 1024)] {
            check_dense(INTACT, input, (9, columns, inner), Activation::Tanh).unwrap();
        }
    }
}

/// The first `dims` of rows of 72, every second row where `is_picked`.
pub(super) fn check_vectors(
    emulation: Emulation<'_>,
    input: Dtype,
    (rows, dims): (usize, usize),
    form: VectorForm,
    (is_unit, is_picked): (bool, bool),
) -> Result<(), String> {
    const STRIDE: usize = 1032;
    let step = 1 + usize::from(is_picked);
    let x = Buffer::random(input, rows * step * STRIDE, 0.6, &mut Values::new(dims as u64));
    let kept: Vec<u32> = (0..rows as u32).map(|row| row * step as u32).collect();
    let out = Buffer::poisoned(Dtype::I8, rows * form.row_bytes(dims));
    let args = VectorsArgs {
        x: x.address(),
        kept: if is_picked { address_of(&kept) } else { 0 },
        out: out.address(),
        rows: rows as u32,
        dims: dims as u32,
        x_stride: STRIDE as u32,
        form: form.code(),
        is_unit: is_unit.into(),
        reserved: 0,
    };
    let kernel = VectorsKernel::select(input).expect("a kernel");
    emulation.run(&kernel.launch(args).expect("a launch")).map_err(|error| error.0)?;
    let all = x.values();
    for (row, found) in out.bytes().chunks_exact(form.row_bytes(dims)).enumerate() {
        let cut = &all[row * step * STRIDE..][..dims];
        let expected = if is_unit { reference::l2_normalise(dims, cut) } else { cut.to_vec() };
        check_form(found, &expected, form)
            .map_err(|what| format!("{form:?} {input} {dims} row {row}: {what}"))?;
    }
    out.check_guards()
}

/// Bytes may be off by one where the value lies between two of them; bits only where it is about zero.
fn check_form(found: &[u8], expected: &[f64], form: VectorForm) -> Result<(), String> {
    let byte = |at: usize| (127.0 * expected[at]).round().clamp(-128.0, 127.0);
    let bytes_fit = |value: &dyn Fn(u8) -> f64| {
        found.iter().enumerate().all(|(at, found)| (value(*found) - byte(at)).abs() <= 1.0)
    };
    let fits = match form {
        VectorForm::F32 => return check_close(&floats(found, Dtype::F32), expected, Dtype::F32, "f32"),
        VectorForm::F16 => return check_close(&floats(found, Dtype::F16), expected, Dtype::F16, "f16"),
        VectorForm::I8 => bytes_fit(&|found| f64::from(found.cast_signed())),
        VectorForm::U8 => bytes_fit(&|found| f64::from(found) - 128.0),
        VectorForm::Bits => expected.iter().enumerate().all(|(at, value)| {
            value.abs() < 1e-6 || (found[at / 8] >> (7 - at % 8) & 1 == 1) == (*value > 0.0)
        }),
    };
    if fits { Ok(()) } else { Err(format!("{found:?} for {expected:?}")) }
}

#[test]
fn answers_match_f64_in_every_form() {
    for input in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        for form in VectorForm::ALL {
            for dims in [1, 3, 8, 13, 64, 256, 384, 1032] {
                for rows in [1, 4, 7] {
                    check_vectors(INTACT, input, (rows, dims), form, (rows != 4, dims % 2 == 0)).unwrap();
                }
            }
        }
    }
}

#[test]
fn zeros_stay_zeros_and_what_is_no_number_is_no_byte() {
    let x =
        Buffer::of(Dtype::F32, [0.0; 8].into_iter().chain([f32::NAN, 5.0, -5.0, 0.0, 1.0, -1.0, 0.5, -0.5]));
    let bytes = |form: VectorForm, is_unit: u32| {
        let out = Buffer::poisoned(Dtype::I8, 2 * form.row_bytes(8));
        let args = VectorsArgs {
            x: x.address(),
            out: out.address(),
            rows: 2,
            dims: 8,
            x_stride: 8,
            form: form.code(),
            is_unit,
            ..bytemuck::Zeroable::zeroed()
        };
        INTACT.run(&VectorsKernel::select(Dtype::F32).unwrap().launch(args).unwrap()).unwrap();
        out.bytes().to_vec()
    };
    assert_eq!(bytes(VectorForm::F32, 1)[..32], [0; 32]);
    assert_eq!(bytes(VectorForm::I8, 0)[8..], [0, 127, 128, 0, 127, 129, 64, 192]);
    assert_eq!(bytes(VectorForm::U8, 0)[8..], [128, 255, 0, 128, 255, 1, 192, 64]);
    assert_eq!(bytes(VectorForm::Bits, 0), [0, 0b0100_1010]);
}
