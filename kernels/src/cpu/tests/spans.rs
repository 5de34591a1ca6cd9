//! What stands between hidden states and labelled spans: the recurrence over words, and the products of spans with labels.

use super::super::spans::SpanOperands;
use super::super::{CpuIsa, CpuWorkers, Lstm, LstmDirection, LstmWorkspace, OpError, PackedLinear};
use super::{Values, assert_close, bits, on_every_isa, wide};
use crate::{Dtype, reference};

/// The weights of one direction, as they are before they are packed.
struct Plain {
    input: Vec<f32>,
    bias: Vec<f32>,
    recurrent: Vec<f32>,
}

impl Plain {
    fn new(values: &mut Values, inputs: usize, half: usize) -> Self {
        let scale = |width: usize| 1.0 / (width as f32).sqrt();
        Self {
            input: values.take(4 * half * inputs, scale(inputs)),
            bias: values.take(4 * half, 0.3),
            recurrent: values.take(4 * half * half, scale(half)),
        }
    }

    fn packed(&self, isa: CpuIsa, inputs: usize, half: usize) -> LstmDirection {
        let pack = |weights: &[f32], inputs: usize, bias: Option<&[f32]>| {
            PackedLinear::pack(isa, Dtype::F32, 4 * half, inputs, bias, |output, row| {
                row.copy_from_slice(&weights[output * inputs..][..inputs]);
            })
            .expect("a shape that fits")
        };
        LstmDirection {
            input: pack(&self.input, inputs, Some(&self.bias)),
            recurrent: pack(&self.recurrent, half, None),
        }
    }

    fn reference(&self, x: &[f64]) -> Vec<f64> {
        reference::lstm(x, (&wide(&self.input), &wide(&self.bias)), &wide(&self.recurrent))
    }
}

fn run(
    workers: &mut CpuWorkers,
    isa: CpuIsa,
    threads: usize,
    lstm: &Lstm,
    x: &[f32],
    bounds: &[u32],
) -> Vec<f32> {
    let rows = bounds[bounds.len() - 1] as usize;
    let mut out = vec![f32::NAN; rows * lstm.outputs()];
    let mut ops = workers.ops(isa, threads).expect("available");
    ops.lstm(lstm, x, bounds, &mut LstmWorkspace::new(), &mut out).expect("shapes that fit");
    out
}

fn reversed(rows: &[f64], width: usize) -> Vec<f64> {
    rows.chunks_exact(width).rev().flatten().copied().collect()
}

#[test]
fn an_lstm_matches_f64_in_any_company() {
    on_every_isa(2, |isa, workers| {
        for (inputs, half) in [(6, 3), (24, 12), (40, 33)] {
            let mut values = Values::new(half as u64);
            let plain = [(), ()].map(|()| Plain::new(&mut values, inputs, half));
            let lstm =
                Lstm::new([0, 1].map(|way: usize| plain[way].packed(isa, inputs, half))).expect("one shape");
            // The longest is not the first, and one has no row.
            let bounds = [0, 2, 2, 19, 20];
            let x: Vec<f32> = values.take(20 * inputs, 1.0);
            let both = run(workers, isa, 1, &lstm, &x, &bounds);
            assert_eq!(
                bits(&both),
                bits(&run(workers, isa, 2, &lstm, &x, &bounds)),
                "threads change nothing"
            );
            for range in bounds.windows(2) {
                let rows = range[0] as usize..range[1] as usize;
                let (own, out) = (&x[rows.start * inputs..rows.end * inputs], &both[rows.start * 2 * half..]);
                let forwards = plain[0].reference(&wide(own));
                let backwards = reversed(&plain[1].reference(&reversed(&wide(own), inputs)), half);
                let sides = forwards.chunks_exact(half).zip(backwards.chunks_exact(half));
                let expected: Vec<f64> = sides.flat_map(|(a, b)| [a, b].concat()).collect();
                let out = &out[..rows.len() * 2 * half];
                assert_close(out, &expected, 2e-6, 1e-5, &format!("{isa} {inputs} {half} {rows:?}"));
                let alone = run(workers, isa, 1, &lstm, own, &[0, rows.len() as u32]);
                assert_eq!(bits(&alone), bits(out), "{isa} {rows:?} alone");
            }
        }
    });
}

#[test]
fn span_logits_match_f64_in_any_part() {
    const WORDS: usize = 9;
    const WORDS_MAX: usize = 4;
    on_every_isa(2, |isa, workers| {
        for (inner, labels) in [(8, 1), (20, 8), (64, 13)] {
            let mut values = Values::new(labels as u64);
            let [starts, ends]: [Vec<f32>; 2] = [(), ()].map(|()| values.take(WORDS * inner, 1.0));
            let (rows, biases): (Vec<f32>, Vec<f32>) =
                (values.take(labels * inner, 0.3), values.take(labels, 1.0));
            let of = SpanOperands {
                starts: &starts,
                ends: &ends,
                labels: &rows,
                label_biases: &biases,
                inner,
                words_max: WORDS_MAX,
            };
            let mut run = |firsts: std::ops::Range<usize>, threads| {
                let mut out = vec![f32::NAN; firsts.len() * WORDS_MAX * labels];
                workers
                    .ops(isa, threads)
                    .expect("available")
                    .span_logits(of, firsts, &mut out)
                    .expect("fits");
                out
            };
            let all = run(0..WORDS, 2);
            assert_eq!(bits(&all), bits(&[run(0..5, 1), run(5..WORDS, 2)].concat()), "{isa} in parts");
            for (span, logits) in all.chunks_exact(labels).enumerate() {
                let (first, last) = (span / WORDS_MAX, span / WORDS_MAX + span % WORDS_MAX);
                if last >= WORDS {
                    assert!(logits.iter().all(|logit| *logit == f32::NEG_INFINITY), "behind the last word");
                    continue;
                }
                let row = |rows: &[f32], at: usize| wide(&rows[at * inner..][..inner]);
                let (start, end) = (row(&starts, first), row(&ends, last));
                let expected = reference::span_logits(&start, &end, &wide(&rows), &wide(&biases));
                assert_close(logits, &expected, 2e-5, 1e-5, &format!("{isa} {inner} {first}..={last}"));
            }
        }
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let mut workers = CpuWorkers::new(1);
    let mut values = Values::new(1);
    let isa = CpuIsa::Portable;
    let mut direction = |inputs, half| Plain::new(&mut values, inputs, half).packed(isa, inputs, half);
    let refused = Lstm::new([direction(4, 2), direction(4, 3)]);
    assert!(matches!(refused.err(), Some(OpError::Shape { op: "lstm", .. })));
    let lstm = Lstm::new([direction(4, 2), direction(4, 2)]).expect("one shape");
    let mut ops = workers.ops(isa, 1).expect("portable");
    let mut workspace = LstmWorkspace::new();
    let refused = ops.lstm(&lstm, &[0.0; 8], &[0, 3], &mut workspace, &mut [0.0; 8]);
    assert!(matches!(refused, Err(OpError::CuSeqlens { .. })));
    let refused = ops.lstm(&lstm, &[0.0; 8], &[0, 2], &mut workspace, &mut [0.0; 7]);
    assert!(matches!(refused, Err(OpError::Shape { op: "lstm", .. })));
    let rows = [0.0; 8];
    let of = SpanOperands {
        starts: &rows,
        ends: &rows,
        labels: &rows[..4],
        label_biases: &[0.0],
        inner: 4,
        words_max: 3,
    };
    assert_eq!(ops.span_logits(of, 1..2, &mut [0.0; 3]), Ok(()));
    assert!(ops.span_logits(of, 1..3, &mut [0.0; 6]).is_err(), "a word too many");
    assert!(ops.span_logits(of, 1..2, &mut [0.0; 2]).is_err(), "no room");
}
