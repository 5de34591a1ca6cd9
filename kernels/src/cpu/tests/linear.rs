use super::super::{Activation, CpuIsa, CpuWorkers, Element, Epilogue, OpError, PackedLinear};
use super::{Values, assert_close, bits, on_every_isa, rounding, wide};
use crate::{Dtype, reference};
use half::{bf16, f16};
use proptest::prelude::*;

/// Weights rounded to what they are stored as, so that only the arithmetic is measured.
struct Layer {
    weights: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

impl Layer {
    fn new(dtype: Dtype, outputs: usize, inputs: usize) -> Self {
        let mut values = Values::new((outputs * 7919 + inputs) as u64);
        let weights: Vec<f32> = values.take(outputs * inputs, 1.0 / (inputs as f32).sqrt());
        let round = |weight: f32| match dtype {
            Dtype::Bf16 => bf16::from_f32(weight).to_f32(),
            Dtype::F16 => f16::from_f32(weight).to_f32(),
            _ => weight,
        };
        Self { weights: weights.into_iter().map(round).collect(), bias: values.take(outputs, 0.5), inputs }
    }

    fn pack(&self, isa: CpuIsa, dtype: Dtype) -> PackedLinear {
        let rows = |output: usize, row: &mut [f32]| {
            row.copy_from_slice(&self.weights[output * row.len()..][..row.len()])
        };
        PackedLinear::pack(isa, dtype, self.bias.len(), self.inputs, Some(&self.bias), rows).unwrap()
    }
}

const SHAPES: [(usize, usize, usize); 12] = [
    // rows, inputs, outputs
    (1, 1, 1),
    (1, 384, 32),
    (7, 17, 31),
    (14, 31, 33),
    (15, 32, 16),
    (17, 33, 63),
    (31, 65, 130),
    (33, 64, 65),
    (63, 130, 48),
    (65, 513, 33),
    (130, 48, 17),
    (513, 16, 40),
];

fn check<T: Element>(isa: CpuIsa, workers: &mut CpuWorkers, dtype: Dtype, shape: (usize, usize, usize)) {
    let (rows, inputs, outputs) = shape;
    let layer = Layer::new(dtype, outputs, inputs);
    let packed = layer.pack(isa, dtype);
    let x: Vec<T> = Values::new(5).take(rows * inputs, 1.0);
    let sums = reference::linear(&wide(&x), &wide(&layer.weights), &wide(&layer.bias));
    // Each of the sum's steps may round once; terms are about 1/sqrt(inputs), so sums stay near 1.
    // f16 rounds the rows to 2^-11 and loses about 2^-9.5 over each stretch; errors of four times that occur.
    let noise = match dtype {
        Dtype::F16 => 8e-3,
        _ => 2f64.powi(-24) * (8.0 + inputs as f64) + 1e-6,
    };
    let old: Vec<T> = Values::new(6).take(rows * outputs, 1.0);
    let mut epilogues: Vec<Epilogue> = ACTIVATIONS.map(Epilogue::Activate).to_vec();
    epilogues.push(Epilogue::Add);
    for epilogue in epilogues {
        let mut out = old.clone();
        workers.ops(isa, 2).unwrap().linear(&packed, &x, epilogue, &mut out).unwrap();
        let expected: Vec<f64> = match epilogue {
            Epilogue::Add => sums.iter().zip(wide(&old)).map(|(sum, old)| sum + old).collect(),
            Epilogue::Activate(function) => {
                sums.iter().map(|&sum| reference::activate(function, sum)).collect()
            }
            Epilogue::Gate(_) => unreachable!("of gated layers alone"),
        };
        let what = format!("{isa} {dtype} {} {shape:?} {epilogue:?}", T::DTYPE);
        let stored = stored_as::<T>(epilogue == Epilogue::Activate(Activation::GeluErf));
        assert_close(&out, &expected, 2.0 * noise, stored + 1e-6, &what);
    }
}

/// Both halves of a gated layer as two layers, and what they become.
fn check_gated<T: Element>(
    isa: CpuIsa,
    workers: &mut CpuWorkers,
    dtype: Dtype,
    shape: (usize, usize, usize),
) {
    let (rows, inputs, outputs) = shape;
    let layer = Layer::new(dtype, 2 * outputs, inputs);
    let fill = |row: usize, values: &mut [f32]| {
        values.copy_from_slice(&layer.weights[row * inputs..][..inputs]);
    };
    let packed = PackedLinear::pack_gated(isa, dtype, outputs, inputs, Some(&layer.bias), fill).unwrap();
    assert_eq!((packed.outputs(), packed.is_gated()), (outputs, true));
    let x: Vec<T> = Values::new(5).take(rows * inputs, 1.0);
    let sums = reference::linear(&wide(&x), &wide(&layer.weights), &wide(&layer.bias));
    let noise = if dtype == Dtype::F16 { 8e-3 } else { 2f64.powi(-24) * (8.0 + inputs as f64) + 1e-6 };
    for function in [Activation::Silu, Activation::GeluErf, Activation::GeluTanh] {
        let mut out = vec![T::zeroed(); rows * outputs];
        workers.ops(isa, 2).unwrap().linear(&packed, &x, Epilogue::Gate(function), &mut out).unwrap();
        let products = sums.chunks_exact(2 * outputs).flat_map(|row| {
            let (gates, values) = row.split_at(outputs);
            gates.iter().zip(values).map(move |(gate, value)| reference::activate(function, *gate) * value)
        });
        let what = format!("{isa} {dtype} {} {shape:?} {function:?}", T::DTYPE);
        let stored = stored_as::<T>(function == Activation::GeluErf);
        assert_close(&out, &products.collect::<Vec<_>>(), 8.0 * noise, stored + 1e-6, &what);
    }
}

#[test]
fn gated_layers_match_f64() {
    on_every_isa(2, |isa, workers| {
        for shape in SHAPES {
            check_gated::<f32>(isa, workers, Dtype::F32, shape);
            check_gated::<f32>(isa, workers, Dtype::Bf16, shape);
            check_gated::<bf16>(isa, workers, Dtype::Bf16, shape);
            if isa.supports(Dtype::F16) {
                check_gated::<f32>(isa, workers, Dtype::F16, shape);
            }
        }
    });
}

/// What storing costs; the GELU for bf16 may be off by half as much again.
fn stored_as<T: Element>(gelu: bool) -> f64 {
    rounding(T::DTYPE) * if gelu && T::DTYPE == Dtype::Bf16 { 1.5 } else { 1.0 }
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
fn products_and_epilogues_match_f64() {
    on_every_isa(2, |isa, workers| {
        for shape in SHAPES {
            check::<f32>(isa, workers, Dtype::F32, shape);
            check::<f32>(isa, workers, Dtype::Bf16, shape);
            check::<bf16>(isa, workers, Dtype::Bf16, shape);
            if isa.supports(Dtype::F16) {
                check::<f32>(isa, workers, Dtype::F16, shape);
            }
        }
    });
}

#[test]
fn activations_hold_over_their_whole_range() {
    on_every_isa(1, |isa, workers| {
        activations_hold::<f32>(isa, workers, Dtype::F32);
        activations_hold::<bf16>(isa, workers, Dtype::Bf16);
    });
}

fn activations_hold<T: Element>(isa: CpuIsa, workers: &mut CpuWorkers, weights: Dtype) {
    // An identity matrix of one input: the epilogue sees the input itself.
    let one = PackedLinear::pack(isa, weights, 1, 1, None, |_, row| row.fill(1.0)).unwrap();
    let x: Vec<T> = (-4000..=4000).map(|step| T::from_f32(step as f32 * 0.005)).collect();
    for function in ACTIVATIONS {
        let mut activate = |x: &[T]| {
            let mut out = vec![T::zeroed(); x.len()];
            workers.ops(isa, 1).unwrap().linear(&one, x, Epilogue::Activate(function), &mut out).unwrap();
            out
        };
        let expected: Vec<f64> = wide(&x).into_iter().map(|x| reference::activate(function, x)).collect();
        let what = format!("{isa} {} {function:?}", T::DTYPE);
        let stored = stored_as::<T>(function == Activation::GeluErf);
        assert_close(&activate(&x), &expected, 1.5e-6, stored + 1e-6, &what);
        let nan = activate(&[T::from_f32(f32::NAN)]);
        assert!(nan[0].to_f32().is_nan(), "{what} hides a NaN");
    }
}

fn run<T: Element>(workers: &mut CpuWorkers, packed: &PackedLinear, threads: usize, x: &[T]) -> Vec<u32> {
    let mut out = vec![T::zeroed(); x.len() / packed.inputs() * packed.outputs()];
    let mut ops = workers.ops(packed.isa(), threads).unwrap();
    ops.linear(packed, x, Epilogue::Activate(Activation::GeluErf), &mut out).unwrap();
    bits(&out)
}

fn rows_are_independent<T: Element>(
    isa: CpuIsa,
    dtype: Dtype,
    rows: usize,
    first: usize,
    count: usize,
    threads: usize,
) {
    let (inputs, outputs) = (130, 65);
    let packed = Layer::new(dtype, outputs, inputs).pack(isa, dtype);
    let mut workers = CpuWorkers::new(4);
    let x: Vec<T> = Values::new(11).take(rows * inputs, 1.0);
    let all = run(&mut workers, &packed, 1, &x);
    let some = run(&mut workers, &packed, threads, &x[first * inputs..(first + count) * inputs]);
    assert_eq!(
        some,
        all[first * outputs..(first + count) * outputs],
        "{isa} {dtype} rows {first}+{count} of {rows}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// A row's bits are the same alone and in company, on one thread and on several.
    #[test]
    fn bits_depend_on_the_row_alone(rows in 1usize..200, cut in 0.0f64..1.0, share in 0.0f64..1.0, threads in 1usize..5) {
        let first = (cut * (rows - 1) as f64) as usize;
        let count = 1 + (share * (rows - first - 1) as f64) as usize;
        for isa in CpuIsa::available() {
            rows_are_independent::<f32>(isa, Dtype::F32, rows, first, count, threads);
            rows_are_independent::<f32>(isa, Dtype::Bf16, rows, first, count, threads);
            rows_are_independent::<bf16>(isa, Dtype::Bf16, rows, first, count, threads);
            if isa.supports(Dtype::F16) {
                rows_are_independent::<f32>(isa, Dtype::F16, rows, first, count, threads);
            }
        }
    }
}

#[test]
fn packing_measures_its_bytes_and_streams_rows_in_order() {
    let mut seen = Vec::new();
    let packed = PackedLinear::pack(CpuIsa::Portable, Dtype::Bf16, 5, 3, None, |output, row| {
        assert_eq!(row.len(), 3);
        seen.push(output);
    });
    assert_eq!(seen, [0, 1, 2, 3, 4]);
    // One panel of 16 columns: two pairs of bf16 and one f32 of bias each.
    assert_eq!(packed.unwrap().bytes(), 16 * 2 * 4 + 16 * 4);
}

#[test]
fn wrong_operands_are_refused_before_anything_is_written() {
    let mut workers = CpuWorkers::new(1);
    let isa = CpuIsa::Portable;
    let packed = Layer::new(Dtype::F32, 4, 3).pack(isa, Dtype::F32);
    let epilogue = Epilogue::Activate(Activation::Identity);
    let mut ops = workers.ops(isa, 1).unwrap();
    let mut out = [9.0f32; 8];
    assert!(matches!(
        ops.linear(&packed, &[1.0; 7], epilogue, &mut out),
        Err(OpError::Shape { what: "x", .. })
    ));
    assert!(matches!(
        ops.linear(&packed, &[1.0; 9], epilogue, &mut out),
        Err(OpError::Shape { what: "out", .. })
    ));
    let gate = Epilogue::Gate(Activation::Silu);
    assert!(matches!(
        ops.linear(&packed, &[1.0; 6], gate, &mut out),
        Err(OpError::Shape { what: "layers packed into one", found: 1, expected: 2, .. })
    ));
    let x = [bf16::ONE; 6];
    let refused = ops.linear(&packed, &x, epilogue, &mut [bf16::ONE; 8]);
    assert!(matches!(refused, Err(OpError::UnsupportedDtype { .. })));
    assert_eq!(out, [9.0; 8]);
    for (outputs, inputs, bias, dtype) in
        [(0, 1, 0, Dtype::F32), (1, 0, 1, Dtype::F32), (2, 1, 3, Dtype::F32), (1, 1, 1, Dtype::I8)]
    {
        assert!(PackedLinear::pack(isa, dtype, outputs, inputs, Some(&vec![0.0; bias]), |_, _| ()).is_err());
    }
    if let Some(other) = CpuIsa::available().nth(1) {
        let refused = workers.ops(other, 1).unwrap().linear(&packed, &[1.0f32; 3], epilogue, &mut [0.0; 4]);
        assert_eq!(refused, Err(OpError::IsaMismatch { packed: isa, requested: other }));
    }
}

/// Rows and weights whose products overflow f16 by far, and others that vanish in it.
#[test]
fn f16_survives_any_scale_of_its_operands() {
    on_every_isa(1, |isa, workers| {
        if !isa.supports(Dtype::F16) {
            return;
        }
        for (scale_x, scale_w) in [(1.0, 1e6), (1e8, 1e3), (1e-9, 1.0), (3e4, 1e-12)] {
            let (inputs, outputs) = (700, 33);
            let mut values = Values::new(77);
            let x: Vec<f32> = values.take(5 * inputs, scale_x);
            let weights: Vec<f32> = values.take(outputs * inputs, scale_w);
            let fill =
                |output: usize, row: &mut [f32]| row.copy_from_slice(&weights[output * inputs..][..inputs]);
            let packed = PackedLinear::pack(isa, Dtype::F16, outputs, inputs, None, fill).unwrap();
            let mut out = vec![0.0f32; 5 * outputs];
            let identity = Epilogue::Activate(Activation::Identity);
            workers.ops(isa, 1).unwrap().linear(&packed, &x, identity, &mut out).unwrap();
            let expected = reference::linear(&wide(&x), &wide(&weights), &vec![0.0; outputs]);
            let size = f64::from(scale_x) * f64::from(scale_w) * (inputs as f64).sqrt();
            assert_close(&out, &expected, 8e-3 * size, 0.0, &format!("{scale_x} {scale_w}"));
        }
    });
}
