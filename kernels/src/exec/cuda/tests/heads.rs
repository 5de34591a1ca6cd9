//! Heads other than dense vectors.

use super::*;

fn logits(name: &str, wanted: OutputSet, of: fn(&Outputs) -> &Vec<f32>, complaints: &mut Vec<String>) {
    let device = host::open(&host::own_device());
    let dir = dir("heads", name);
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let model = load(&device, &dir, dtype).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (cases, mut lane, mut out) = (golden(&dir), lane(&device), Outputs::new());
        lane.run(&model, &batch(&cases), wanted, &mut host::patient, &mut out).expect("it runs");
        let expected: Vec<f64> = cases.iter().flat_map(|case| case.logits.iter().copied()).collect();
        check(name, dtype, of(&out), &expected, complaints);
        assert!(out.dense.is_empty(), "{name}: only what was wanted");
    }
}

#[test]
fn classifiers_answer_like_the_reference() {
    let classes = OutputSet { classes: true, ..OutputSet::NONE };
    let token_classes = OutputSet { token_classes: true, ..OutputSet::NONE };
    let mut complaints = Vec::new();
    for name in [
        "bert-score",
        "bert-nli",
        "roberta-labels",
        "distilbert-sentiment",
        "modernbert-score",
        "deberta-nli",
    ] {
        logits(name, classes, |out| &out.classes, &mut complaints);
    }
    for name in ["bert-ner", "modernbert-ner"] {
        logits(name, token_classes, |out| &out.token_classes, &mut complaints);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Documents of a multi-vector model; queries are expanded by tokens that nobody sees, which is a CPU's.
#[test]
fn token_vectors_are_those_of_the_cpu() {
    let dir = dir("heads", "colbert-pylate");
    let description = describe(&dir);
    let wanted = OutputSet { multivector: true, ..OutputSet::NONE };
    let mut batch = PackedBatch::new();
    batch.push(&[1, 7, 9, 12, 2]);
    batch.skip(|id| id == 9);
    batch.push(&[1, 8, 2]);
    let cpu = crate::exec::CpuOptions { dtype: DtypePolicy::Exact(Dtype::F32), ..Default::default() };
    let cpu = crate::exec::CpuModel::load(&description, &cpu, &mut |_, _| {}).expect("it loads");
    let mut expected = Outputs::new();
    crate::exec::CpuLane::new(1).run(&cpu, &batch, wanted, 1, &mut expected).expect("it runs");

    let device = host::open(&host::own_device());
    let model = load(&device, &dir, Dtype::F16).expect("it loads");
    let (mut lane, mut out) = (lane(&device), Outputs::new());
    lane.run(&model, &batch, wanted, &mut host::patient, &mut out).expect("it runs");
    assert_eq!(out.multivector_bounds, expected.multivector_bounds);
    let mut complaints = Vec::new();
    let expected: Vec<f64> = expected.multivector.iter().map(|value| f64::from(*value)).collect();
    check("colbert-pylate", Dtype::F16, &out.multivector, &expected, &mut complaints);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));

    let mut query = PackedBatch::new();
    query.push_expanded(&[1, 7, 2, 4, 4], 3);
    let error = lane.run(&model, &query, wanted, &mut host::patient, &mut out).expect_err("not covered");
    assert_eq!(error, crate::exec::ExecError::Keys { sequence: 0, keys: 3, tokens: 5 });
}

/// BGE-M3's weights of words are those of its tokens.
#[test]
fn lexical_weights_are_those_of_the_reference() {
    let device = host::open(&host::own_device());
    let dir = dir("heads", "bge-m3");
    let wanted = OutputSet { sparse: true, ..OutputSet::DENSE };
    let mut complaints = Vec::new();
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let model = load(&device, &dir, dtype).expect("it loads");
        assert!(model.gives().sparse);
        let (cases, mut lane, mut out) = (golden(&dir), lane(&device), Outputs::new());
        lane.run(&model, &batch(&cases), wanted, &mut host::patient, &mut out).expect("it runs");
        assert_eq!(out.dense.len(), cases.len() * model.dims());
        let words = 1 + cases.iter().flat_map(|case| &case.ids).max().map_or(0, |id| *id as usize);
        let (mut found, mut expected) = (vec![0.0; cases.len() * words], vec![0.0; cases.len() * words]);
        for (index, (case, bounds)) in cases.iter().zip(out.sparse.indptr.windows(2)).enumerate() {
            let entries = bounds[0] as usize..bounds[1] as usize;
            let indices = &out.sparse.indices[entries.clone()];
            assert!(indices.is_sorted_by(|a, b| a < b), "ascending");
            let words_of = |of: u32| index * words + of as usize;
            indices
                .iter()
                .zip(&out.sparse.values[entries])
                .for_each(|(&of, &value)| found[words_of(of)] = value);
            case.indices.iter().zip(&case.values).for_each(|(&of, &value)| expected[words_of(of)] = value);
        }
        check("bge-m3", dtype, &found, &expected, &mut complaints);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
