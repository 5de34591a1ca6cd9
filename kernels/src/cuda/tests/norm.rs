use super::super::{AddNormArgs, AddNormKernel, KernelError, NormKind};
use super::{Buffer, DTYPES, Emulation, INTACT, check_close};
use crate::cpu::tests::Values;
use crate::{Dtype, reference};

/// What of the operands is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) norm: NormKind,
    pub(super) dims: usize,
    pub(super) rows: usize,
    pub(super) is_added: bool,
    pub(super) keeps_sum: bool,
}

const EPS: f32 = 1e-5;

pub(super) fn check(emulation: Emulation<'_>, dtype: Dtype, case: Case) -> Result<Buffer, String> {
    let Case { norm, dims, rows, is_added, keeps_sum } = case;
    let what = format!("{case:?} {dtype}");
    let mut values = Values::new(dims as u64);
    // The parameters first: they and the first rows are the same however many rows there are.
    let [weight, shift]: [Vec<f32>; 2] = std::array::from_fn(|_| (0..dims).map(|_| values.next()).collect());
    let x = Buffer::random(dtype, rows * dims, 2.0, &mut values);
    let residual = Buffer::random(dtype, rows * dims, 1.0, &mut values);
    let (out, sum) = (Buffer::poisoned(dtype, rows * dims), Buffer::poisoned(dtype, rows * dims));
    let (is_rms, there) = (norm == NormKind::Rms, |is_there, address| if is_there { address } else { 0 });
    let args = AddNormArgs {
        x: x.address(),
        residual: there(is_added, residual.address()),
        weight: weight.as_ptr().addr() as u64,
        shift: there(!is_rms, shift.as_ptr().addr() as u64),
        sum: there(keeps_sum, sum.address()),
        out: out.address(),
        rows: rows as u32,
        dims: dims as u32,
        eps: EPS,
        weight_plus: f32::from(u8::from(is_rms)),
    };
    let kernel = AddNormKernel::select(norm, dtype, dims).expect("a kernel");
    emulation.run(&kernel.launch(args).expect("a launch")).map_err(|error| error.0)?;

    let mut added = x.values();
    if is_added {
        added.iter_mut().zip(residual.values()).for_each(|(a, b)| *a += b);
    }
    let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    let expected = if is_rms {
        let weight: Vec<f64> = wide(&weight).iter().map(|v| v + 1.0).collect();
        reference::rms_norm(&added, &weight, f64::from(EPS))
    } else {
        reference::layer_norm(&added, &wide(&weight), &wide(&shift), f64::from(EPS))
    };
    for (index, (found, expected)) in
        out.values().chunks_exact(dims).zip(expected.chunks_exact(dims)).enumerate()
    {
        check_close(found, expected, dtype, &format!("{what} row {index}"))?;
    }
    if keeps_sum {
        check_close(&sum.values(), &added, dtype, &format!("{what} sum"))?;
    } else if sum.bits().iter().any(|bits| *bits != super::POISON) {
        return Err(format!("{what}: a sum that nobody asked for"));
    }
    out.check_guards()?;
    sum.check_guards()?;
    Ok(out)
}

const CASE: Case = Case { norm: NormKind::Layer, dims: 384, rows: 5, is_added: true, keeps_sum: false };

#[test]
fn add_norm_matches_f64() {
    for dtype in DTYPES {
        for norm in [NormKind::Layer, NormKind::Rms] {
            for dims in [8, 64, 384, 512, 520, 768, 1024, 1032, 2048, 2056, 3072, 4096, 4104, 8192] {
                for rows in [1, 4, 5] {
                    let is_added = rows != 4;
                    check(INTACT, dtype, Case { norm, dims, rows, is_added, keeps_sum: rows == 5 }).unwrap();
                }
            }
            check(INTACT, dtype, Case { norm, rows: 129, ..CASE }).unwrap();
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_around_it_nor_on_the_order_of_warps() {
    for dims in [384, 3072] {
        let bits = |rows, seed| {
            let case = Case { dims, rows, is_added: false, ..CASE };
            check(Emulation { seed, ..INTACT }, Dtype::Bf16, case).unwrap().bits()
        };
        let alone = bits(1, 1);
        assert_eq!(alone[..], bits(7, 9)[..dims]);
    }
}

#[test]
fn what_no_kernel_takes_is_refused() {
    let select = |dtype, dims| AddNormKernel::select(NormKind::Layer, dtype, dims).unwrap_err();
    assert_eq!(select(Dtype::F32, 384), KernelError::Dtype(Dtype::F32));
    for dims in [0, 12, 8200] {
        assert_eq!(select(Dtype::F16, dims), KernelError::RowDims { dims, dims_max: 8192 });
    }
    let kernel = AddNormKernel::select(NormKind::Layer, Dtype::F16, 384).unwrap();
    let args = AddNormArgs { dims: 512, rows: 1, ..bytemuck::Zeroable::zeroed() };
    assert!(matches!(kernel.launch(args), Err(KernelError::Operands { .. })));
}
