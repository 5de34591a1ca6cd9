use shoal_kernels::{Outputs, Prompts};
use shoal_protocol::ErrorCode;
use shoal_protocol::message::ItemOutcome;

use super::*;
use crate::tasks::ask::{Answering, Ask, testing::*};
use crate::tasks::reading::Preparation;

fn options(raw: bool) -> ScoreOptions {
    ScoreOptions { query: "q".to_owned(), raw, ..ScoreOptions::default() }
}

fn scores(frames: &[TaskResult]) -> Vec<(u32, f32)> {
    let of = |frame: &TaskResult| match &frame.answers {
        Answers::Scores(scores) => frame.indices.iter().copied().zip(scores.clone()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    frames.iter().flat_map(of).collect()
}

fn cross_encoder<'a>(prompts: &'a Prompts, labels: &'a [String]) -> Abilities<'a> {
    let gives = OutputSet { classes: true, ..OutputSet::NONE };
    Abilities { gives, labels, score_activation: ScoreActivation::Sigmoid, ..abilities(prompts) }
}

#[test]
fn a_cross_encoder_reads_pairs_and_gives_its_activation_or_the_logit() {
    let (prompts, labels) = (prompts(), vec!["LABEL_0".to_owned()]);
    for (raw, expected) in [(false, [0.5, 0.880_797]), (true, [0.0, 2.0])] {
        let mut ask =
            Ask::new(options(raw).into(), text(), cross_encoder(&prompts, &labels)).expect("one label");
        assert_eq!(ask.reading, Reading::Pairs { query: "q".into() });
        assert_eq!(ask.items, text(), "no further item");
        let mut outputs = Outputs::new();
        outputs.classes = vec![0.0, 2.0];
        let frames = ask.answering.handle_rows(rows_of(outputs, 2, 3));
        let found = scores(&frames);
        for ((index, score), (position, expected)) in found.iter().zip((0..).zip(expected)) {
            assert!(*index == position && (score - expected).abs() < 1e-6, "{found:?}");
        }
        assert_eq!(found.len(), 2);
    }
}

#[test]
fn a_logit_that_is_no_number_fails_its_text_alone() {
    let (prompts, labels) = (prompts(), vec!["LABEL_0".to_owned()]);
    let ask = Ask::new(options(false).into(), text(), cross_encoder(&prompts, &labels)).expect("one label");
    let mut answering = ask.answering;
    let mut outputs = Outputs::new();
    outputs.classes = vec![f32::NAN, 0.0];
    let frames = answering.handle_rows(rows_of(outputs, 2, 3));
    assert_eq!(frames[0].indices, [1]);
    assert!(matches!(frames[1].outcomes[..], [ItemOutcome::Failed { code: ErrorCode::ModelBroken, .. }]));
}

#[test]
fn what_has_no_score_is_refused_by_its_property() {
    let prompts = prompts();
    let refused = |abilities: Abilities<'_>| {
        let error = Ask::new(options(false).into(), text(), abilities).expect_err("refused");
        assert_eq!(error.code(), ErrorCode::ModelUnsupported, "{error}");
        error.to_string()
    };
    let labels = ["a".to_owned(), "b".to_owned()];
    assert!(refused(cross_encoder(&prompts, &labels)).contains("this one has 2"));
    let lonely = Abilities { takes_pairs: false, ..cross_encoder(&prompts, &labels[..1]) };
    assert!(refused(lonely).contains("tokenizer"));
    let bare = Abilities { pooling_assumed: true, ..abilities(&prompts) };
    assert!(refused(bare).contains("no head for score"));
    let gives = OutputSet { token_classes: true, ..OutputSet::NONE };
    assert!(refused(Abilities { gives, ..abilities(&prompts) }).contains("it gives token_classes"));
}

fn compared(gives: OutputSet, raw: bool) -> (Ask, Answering) {
    let prompts = prompts();
    let mut ask = Ask::new(options(raw).into(), text(), Abilities { gives, dims: 2, ..abilities(&prompts) })
        .expect("vectors compare");
    assert_eq!(ask.items[0], Input::Text("q".to_owned()), "the query is read first");
    let query = Preparation { prompt: Some("query: ".into()), ..Preparation::default() };
    assert_eq!(ask.reading, Reading::QueryFirst { query, document: Preparation::default() });
    let nothing = Answering::Scores(Scoring::Pairs(PairGather {
        activation: ScoreActivation::Identity,
        scores: Vec::new(),
    }));
    let answering = std::mem::replace(&mut ask.answering, nothing);
    (ask, answering)
}

#[test]
fn vectors_are_compared_with_the_querys_whenever_that_comes() {
    for (raw, expected) in [(false, [1.0, 0.0]), (true, [10.0, 0.0])] {
        let (_, mut answering) = compared(OutputSet::DENSE, raw);
        let mut outputs = Outputs::new();
        outputs.dense = vec![6.0, 8.0];
        outputs.dense_bounds = vec![0, 1];
        let mut early = rows_of(outputs, 1, 3);
        early.rows[0].index = 1;
        assert_eq!(answering.handle_rows(early), Vec::new(), "the query is not there yet");
        let mut outputs = Outputs::new();
        outputs.dense = vec![-4.0, 3.0, 0.6, 0.8];
        outputs.dense_bounds = vec![0, 1, 2];
        let mut late = rows_of(outputs, 2, 3);
        (late.rows[0].index, late.rows[1].index) = (2, 0);
        let found = scores(&answering.handle_rows(late));
        assert_eq!(found.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1]);
        for ((_, score), expected) in found.iter().zip(expected) {
            assert!((score - expected).abs() < 1e-6, "{found:?}");
        }
    }
}

#[test]
fn sparse_vectors_and_vectors_of_tokens_are_compared_too() {
    let (_, mut answering) = compared(OutputSet { sparse: true, ..OutputSet::NONE }, false);
    let mut outputs = Outputs::new();
    outputs.sparse.indptr = vec![0, 3, 5];
    outputs.sparse.indices = vec![1, 4, 9, 4, 9];
    outputs.sparse.values = vec![9.0, 2.0, 1.0, 0.5, 3.0];
    assert_eq!(scores(&answering.handle_rows(rows_of(outputs, 2, 3))), [(0, 4.0)]);

    let (_, mut answering) = compared(OutputSet { multivector: true, ..OutputSet::NONE }, false);
    let mut outputs = Outputs::new();
    // Two vectors of the query; three of the text, of which (0, 2) and (3, 0) agree best.
    outputs.multivector = vec![0.0, 1.0, 1.0, 0.0, 0.0, 2.0, 3.0, 0.0, 1.0, 1.0];
    outputs.multivector_bounds = vec![0, 2, 5];
    assert_eq!(scores(&answering.handle_rows(rows_of(outputs, 2, 3))), [(0, 5.0)]);
}

#[test]
fn a_query_that_fails_fails_the_request_and_a_text_only_itself() {
    let (_, answering) = compared(OutputSet::DENSE, false);
    let failure =
        |tokens| ItemFailure { code: ErrorCode::TooLong, message: "long".to_owned(), tokens, limit: 2 };
    let frames = answering.handle_failures(vec![(3, failure(9))]).expect("not the query");
    assert_eq!(frames[0].indices, [2]);
    let query = answering.handle_failures(vec![(3, failure(9)), (0, failure(8))]).expect_err("the query");
    assert_eq!((query.code, query.message.as_str()), (ErrorCode::TooLong, "the query: long"));
}
