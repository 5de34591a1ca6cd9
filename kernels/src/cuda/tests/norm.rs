use super::super::{AddNormArgs, AddNormKernel, EmbedArgs, EmbedKernel, KernelError, NormKind};
use super::{Buffer, DTYPES, Emulation, INTACT, address_of, check_close, wide};
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
        weight: address_of(&weight),
        shift: there(!is_rms, address_of(&shift)),
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
    } else if !sum.is_untouched() {
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
    for dims in [8, 384, 1024, 4104] {
        check(INTACT, Dtype::F32, Case { dims, rows: 7, is_added: dims == 8, keeps_sum: dims == 8, ..CASE })
            .unwrap();
    }
}

/// What of an embedding is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Embedding {
    pub(super) dims: usize,
    pub(super) is_normed: bool,
    pub(super) has_positions: bool,
    pub(super) has_types: bool,
}

/// Rows of tables with 50 words, 20 positions behind two that nobody has, and 2 types.
pub(super) fn check_embedding(
    emulation: Emulation<'_>,
    dtype: Dtype,
    rows: usize,
    case: Embedding,
) -> Result<(), String> {
    const POSITION_FIRST: u32 = 2;
    let Embedding { dims, is_normed, has_positions, has_types } = case;
    let mut values = Values::new(dims as u64);
    let [weight, shift]: [Vec<f32>; 2] = std::array::from_fn(|_| (0..dims).map(|_| values.next()).collect());
    let [words, positions, types] =
        [50, 22, 2].map(|count| Buffer::random(dtype, count * dims, 1.0, &mut values));
    let ids: Vec<u32> = (0..rows as u32).map(|row| row * 7 % 50).collect();
    let position_ids: Vec<u32> = (0..rows as u32).map(|row| row % 20).collect();
    let type_ids: Vec<u8> = (0..rows).map(|row| (row % 3 == 1).into()).collect();
    let out = Buffer::poisoned(dtype, rows * dims);
    let (scale, there) =
        (if is_normed { 1.0 } else { 1.5 }, |is_there, address| if is_there { address } else { 0 });
    let args = EmbedArgs {
        words: words.address(),
        positions: there(has_positions, positions.address()),
        types: there(has_types, types.address()),
        word_ids: address_of(&ids),
        position_ids: address_of(&position_ids),
        type_ids: there(has_positions, address_of(&type_ids)),
        weight: there(is_normed, address_of(&weight)),
        shift: there(is_normed, address_of(&shift)),
        out: out.address(),
        rows: rows as u32,
        dims: dims as u32,
        position_first: POSITION_FIRST,
        scale,
        eps: EPS,
        weight_plus: 0.0,
    };
    let kernel = EmbedKernel::select(is_normed, dtype, dims).expect("a kernel");
    emulation.run(&kernel.launch(args).expect("a launch")).map_err(|error| error.0)?;

    let words: Vec<f64> = words.values().iter().map(|value| value * f64::from(scale)).collect();
    let (positions, types) = (positions.values(), types.values());
    let places: Vec<u32> = position_ids.iter().map(|id| id + POSITION_FIRST).collect();
    let kinds: Vec<u32> = type_ids.iter().map(|id| if has_positions { u32::from(*id) } else { 0 }).collect();
    let mut tables = vec![(&words[..], &ids[..])];
    tables.extend(has_positions.then_some((&positions[..], &places[..])));
    tables.extend(has_types.then_some((&types[..], &kinds[..])));
    let mut expected = reference::embed(dims, &tables);
    if is_normed {
        expected = reference::layer_norm(&expected, &wide(&weight), &wide(&shift), f64::from(EPS));
    }
    check_close(&out.values(), &expected, dtype, &format!("{case:?} {dtype} {rows} rows"))?;
    out.check_guards()
}

#[test]
fn embeddings_match_f64() {
    for dtype in DTYPES {
        for dims in [8, 384, 768, 1024, 2048, 3072, 4104] {
            for (is_normed, has_positions, has_types) in [
                (true, true, true),
                (true, false, true),
                (true, true, false),
                (false, false, false),
                (false, true, true),
            ] {
                let case = Embedding { dims, is_normed, has_positions, has_types };
                for rows in [1, 7, 33] {
                    check_embedding(INTACT, dtype, rows, case).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_around_it_nor_on_the_order_of_warps() {
    for dims in [384, 3072] {
        let bits = |rows, seed| {
            let case = Case { dims, rows, is_added: false, ..CASE };
            check(Emulation { seed, ..INTACT }, Dtype::Bf16, case).unwrap().bytes().to_vec()
        };
        let alone = bits(1, 1);
        assert_eq!(alone[..], bits(7, 9)[..2 * dims]);
    }
}

#[test]
fn what_no_kernel_takes_is_refused() {
    let select = |dtype, dims| AddNormKernel::select(NormKind::Layer, dtype, dims).unwrap_err();
    assert_eq!(select(Dtype::I8, 384), KernelError::Dtype(Dtype::I8));
    let rms = AddNormKernel::select(NormKind::Rms, Dtype::F32, 384);
    assert_eq!(rms, Err(KernelError::Dtype(Dtype::F32)));
    for dims in [0, 12, 8200] {
        assert_eq!(select(Dtype::F16, dims), KernelError::RowDims { dims, dims_max: 8192 });
    }
    let kernel = AddNormKernel::select(NormKind::Layer, Dtype::F16, 384).unwrap();
    let args = AddNormArgs { dims: 512, rows: 1, ..bytemuck::Zeroable::zeroed() };
    assert!(matches!(kernel.launch(args), Err(KernelError::Operands { .. })));
}
