use shoal_kernels::Outputs;
use shoal_protocol::ErrorCode;
use shoal_protocol::message::{Span, TaskResult};

use super::*;
use crate::tasks::ask::{Ask, testing::*};

fn labels(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn answer(
    options: ExtractOptions,
    gives: OutputSet,
    names: &[&str],
    rows: Rows,
) -> Result<Vec<TaskResult>, AskError> {
    let (prompts, labels) = (prompts(), labels(names));
    let abilities = Abilities { gives, labels: &labels, ..abilities(&prompts) };
    let mut ask = Ask::new(options.into(), text(), abilities)?;
    Ok(ask.answering.handle_rows(rows))
}

const CLASSES: OutputSet = OutputSet { classes: true, ..OutputSet::NONE };
const TOKENS: OutputSet = OutputSet { token_classes: true, ..OutputSet::NONE };

fn classified(options: ExtractOptions, names: &[&str]) -> ClassBlock {
    let mut outputs = Outputs::new();
    outputs.classes = vec![0.0; 2 * names.len()];
    outputs.classes[1] = 1.0;
    let frames = answer(options, CLASSES, names, rows_of(outputs, 2, 1)).expect("has the labels");
    match &frames[..] {
        [TaskResult { answers: Answers::Classes(block), .. }] => block.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn classes_share_one_or_hold_each_for_itself() {
    let block = classified(ExtractOptions::default(), &["spam", "ham"]);
    assert_eq!(block.labels, ["spam", "ham"]);
    let [spam, ham, half, other] = block.scores[..] else {
        panic!("{block:?}");
    };
    assert!((spam + ham - 1.0).abs() < 1e-6 && (ham - 0.731_058_6).abs() < 1e-6, "{block:?}");
    assert_eq!((half, other), (0.5, 0.5));
    let raw = ExtractOptions { raw: true, ..ExtractOptions::default() };
    assert_eq!(classified(raw, &["spam", "ham"]).scores, [0.0, 1.0, 0.0, 0.0]);
    let chosen = ExtractOptions { labels: labels(&["ham"]), ..ExtractOptions::default() };
    let block = classified(chosen, &["spam", "ham"]);
    assert_eq!((block.labels, block.scores), (labels(&["ham"]), vec![ham, 0.5]), "of all, not of the chosen");
}

#[test]
fn labels_that_the_model_does_not_have_are_named() {
    let options = ExtractOptions { labels: labels(&["place"]), ..ExtractOptions::default() };
    let rows = || rows_of(Outputs::new(), 0, 0);
    let error = answer(options.clone(), CLASSES, &["spam", "ham"], rows()).expect_err("unknown");
    assert_eq!(error.code(), ErrorCode::InvalidRequest);
    assert!(error.to_string().contains(r#"no label "place"; it has spam, ham"#), "{error}");
    let error = answer(options, TOKENS, &["O", "B-PER", "I-PER"], rows()).expect_err("unknown");
    assert!(error.to_string().contains("it has PER"), "{error}");
    let error = answer(ExtractOptions::default(), OutputSet::DENSE, &[], rows()).expect_err("no head");
    assert_eq!(error.code(), ErrorCode::ModelUnsupported);
    let raw = ExtractOptions { raw: true, ..ExtractOptions::default() };
    assert_eq!(answer(raw, TOKENS, &["O"], rows()).err(), Some(AskError::RawSpans));
}

#[test]
fn spans_are_those_of_each_text() {
    let names = ["O", "B-PER", "I-PER"];
    let mut outputs = Outputs::new();
    // [CLS] Ada Love [SEP] and [CLS] x Bob [SEP]
    let best = [0, 1, 2, 0, 0, 0, 1, 0];
    for label in best {
        outputs.token_classes.extend((0..names.len()).map(|at| if at == label { 4.0 } else { 0.0 }));
    }
    let mut rows = rows_of(outputs, 2, 4);
    let token = |start, end| TokenPlace { start, end };
    rows.places = vec![TokenPlace::SPECIAL, token(0, 3), token(4, 8), TokenPlace::SPECIAL];
    rows.places.extend([TokenPlace::SPECIAL, token(0, 1), token(2, 5), TokenPlace::SPECIAL]);
    let frames = answer(ExtractOptions::default(), TOKENS, &names, rows).expect("has a head");
    let [TaskResult { answers: Answers::Spans(block), .. }] = &frames[..] else {
        panic!("{frames:?}");
    };
    assert_eq!((&block.labels[..], &block.ends[..]), (&labels(&["PER"])[..], &[1, 2][..]));
    let places: Vec<_> = block.spans.iter().map(|Span { start, end, .. }| (*start, *end)).collect();
    assert_eq!(places, [(0, 8), (2, 5)]);
}
