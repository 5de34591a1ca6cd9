use super::super::{MaxLogitsArgs, SparseArgs, SpladeKernels};
use super::attention::LENGTHS;
use super::{Buffer, DTYPES, Emulation, INTACT, address_of, check_close, wide};
use crate::cpu::tests::Values;
use crate::{Dtype, reference};

#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) lengths: &'a [u32],
    pub(super) columns: usize,
    pub(super) inner: usize,
    pub(super) logs: u32,
}

pub(super) const CASE: Case<'static> = Case { lengths: &LENGTHS, columns: 301, inner: 40, logs: 1 };

/// The sequence of each token, and how many tokens.
fn sequence_of(lengths: &[u32]) -> Vec<u32> {
    let each = lengths.iter().enumerate();
    each.flat_map(|(sequence, length)| std::iter::repeat_n(sequence as u32, *length as usize)).collect()
}

/// What the three launches wrote: ends of the sequences, columns and values.
struct Sparse {
    indptr: Vec<u32>,
    indices: Vec<u32>,
    values: Vec<f32>,
}

/// Entries beyond this are not written.
const NOTHING: u32 = u32::MAX;

fn compacted(
    emulation: Emulation<'_>,
    maxima: &[u32],
    (sequences, columns): (usize, usize),
    logs: u32,
    entries_max: usize,
) -> Result<Sparse, String> {
    let counts = vec![NOTHING; sequences];
    let out = Sparse {
        indptr: vec![NOTHING; sequences + 1],
        indices: vec![NOTHING; maxima.len()],
        values: vec![f32::NAN; maxima.len()],
    };
    let args = SparseArgs {
        maxima: address_of(maxima),
        counts: address_of(&counts),
        indptr: address_of(&out.indptr),
        indices: address_of(&out.indices),
        values: address_of(&out.values),
        sequences: sequences as u32,
        columns: columns as u32,
        entries_max: entries_max as u32,
        logs,
    };
    let kernels = SpladeKernels::select(Dtype::F16).expect("kernels");
    for launch in kernels.compact(args).expect("launches") {
        emulation.run(&launch).map_err(|error| error.0)?;
    }
    Ok(out)
}

/// Row by row, exactly the positive ones.
fn check_compaction(emulation: Emulation<'_>, rows: &[Vec<f32>], logs: u32) -> Result<(), String> {
    let maxima: Vec<u32> = rows.iter().flatten().map(|value| value.to_bits()).collect();
    let found = compacted(emulation, &maxima, (rows.len(), rows[0].len()), logs, maxima.len())?;
    if found.indptr[0] != 0 {
        return Err(format!("starts with {}", found.indptr[0]));
    }
    for (sequence, row) in rows.iter().enumerate() {
        let there = row.iter().enumerate().filter(|(_, value)| **value > 0.0);
        let (columns, values): (Vec<u32>, Vec<f64>) =
            there.map(|(column, value)| (column as u32, f64::from(*value))).unzip();
        let [start, end] = [found.indptr[sequence], found.indptr[sequence + 1]].map(|end| end as usize);
        if end < start || end > maxima.len() || found.indices[start..end] != columns {
            return Err(format!("sequence {sequence}: {start}..{end}"));
        }
        let values: Vec<f64> = values.into_iter().map(|v| (0..logs).fold(v, |v, _| v.ln_1p())).collect();
        check_close(&wide(&found.values[start..end]), &values, Dtype::F32, "values")?;
    }
    Ok(())
}

/// Rows of which about one in `one_in` is positive.
fn sparse_rows(sequences: usize, columns: usize, one_in: usize) -> Vec<Vec<f32>> {
    let mut values = Values::new(columns as u64);
    let mut value = |at: usize| if (at * 7).is_multiple_of(one_in) { values.next().abs() + 0.1 } else { 0.0 };
    (0..sequences).map(|sequence| (0..columns).map(|column| value(column + sequence)).collect()).collect()
}

pub(super) fn check(emulation: Emulation<'_>, dtype: Dtype, case: &Case<'_>) -> Result<Vec<u32>, String> {
    let Case { lengths, columns, inner, logs } = *case;
    let (tokens, sequences) = (lengths.iter().sum::<u32>() as usize, lengths.len());
    let stride = inner + 8;
    let mut values = Values::new(columns as u64);
    let weight = Buffer::random(dtype, columns * inner, 1.0 / (inner as f32).sqrt(), &mut values);
    let bias: Vec<f32> = (0..columns).map(|_| values.next() - 2.0).collect();
    let x = Buffer::random(dtype, tokens * stride, 1.0, &mut Values::new(1));
    let ids = sequence_of(lengths);
    let maxima = vec![0_u32; sequences * columns];
    let args = MaxLogitsArgs {
        x: x.address(),
        weight: weight.address(),
        bias: address_of(&bias),
        sequence_of: address_of(&ids),
        maxima: address_of(&maxima),
        tokens: tokens as u32,
        columns: columns as u32,
        inner: inner as u32,
        x_stride: stride as u32,
    };
    let kernels = SpladeKernels::select(dtype).expect("kernels");
    emulation.run(&kernels.max_logits(args).expect("a launch")).map_err(|error| error.0)?;

    let rows: Vec<f64> = x.values().chunks_exact(stride).flat_map(|row| row[..inner].to_vec()).collect();
    let logits = reference::linear(&rows, &weight.values(), &wide(&bias));
    let mut expected = vec![0.0_f64; maxima.len()];
    for (logits, sequence) in logits.chunks_exact(columns).zip(&ids) {
        let row = &mut expected[*sequence as usize * columns..][..columns];
        row.iter_mut().zip(logits).for_each(|(largest, logit)| *largest = largest.max(*logit));
    }
    // `maxima` was written through its address.
    let bits = std::hint::black_box(&maxima).clone();
    let found: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
    for (sequence, (found, expected)) in
        found.chunks_exact(columns).zip(expected.chunks_exact(columns)).enumerate()
    {
        // Sums are f32, whatever the operands: nothing is rounded to 16 bits on the way.
        check_close(&wide(found), expected, Dtype::F32, &format!("{case:?} {dtype} sequence {sequence}"))?;
    }
    let rows: Vec<Vec<f32>> = found.chunks_exact(columns).map(<[f32]>::to_vec).collect();
    check_compaction(emulation, &rows, logs)?;
    Ok(bits)
}

/// What the compaction is given besides real maxima.
pub(super) fn check_rows(emulation: Emulation<'_>) -> Result<(), String> {
    for (sequences, columns, one_in) in
        [(1, 1, 1), (5, 1000, 3), (3, 2049, 100), (40, 300, 1), (2, 700, 10_000)]
    {
        check_compaction(emulation, &sparse_rows(sequences, columns, one_in), 1)?;
    }
    Ok(())
}

#[test]
fn sparse_vectors_match_f64() {
    for dtype in DTYPES {
        for (columns, inner, logs) in [(301, 40, 1), (128, 64, 2), (7, 8, 0), (130, 264, 1)] {
            check(INTACT, dtype, &Case { columns, inner, logs, ..CASE }).unwrap();
        }
    }
    check_rows(INTACT).unwrap();
}

#[test]
fn a_sequence_does_not_depend_on_its_batch() {
    let lengths = &LENGTHS[..7];
    let together = check(INTACT, Dtype::Bf16, &Case { lengths, ..CASE }).unwrap();
    for (count, seed) in [(1, 2), (4, 3)] {
        let case = Case { lengths: &lengths[..count], ..CASE };
        let part = check(Emulation { seed, ..INTACT }, Dtype::Bf16, &case).unwrap();
        assert_eq!(part[..], together[..part.len()]);
    }
}

#[test]
fn entries_beyond_the_room_are_counted_and_not_written() {
    let rows = sparse_rows(4, 500, 2);
    let maxima: Vec<u32> = rows.iter().flatten().map(|value| value.to_bits()).collect();
    let all = maxima.iter().filter(|bits| **bits != 0).count();
    let found = compacted(INTACT, &maxima, (4, 500), 1, 300).unwrap();
    assert_eq!(found.indptr[4] as usize, all);
    assert!(found.indices[..300].iter().all(|index| *index != NOTHING));
    assert!(found.indices[300..].iter().all(|index| *index == NOTHING));
}
