use super::*;

fn tags(labels: &[&str]) -> Tags {
    Tags::of(&labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>())
}

/// Tokens of width 1 with these labels, every second with a surer one.
fn spans(labels: &[&str], best: &[&str]) -> Vec<(u32, u32, String)> {
    let tags = tags(labels);
    let logits: Vec<f32> = best
        .iter()
        .flat_map(|best| labels.iter().map(move |label| if label == best { 3.0 } else { 0.0 }))
        .collect();
    let places: Vec<_> = (0..best.len() as u32).map(|at| TokenPlace { start: at, end: at + 1 }).collect();
    let name = |span: &Span| tags.names()[span.label as usize].clone();
    spans_of(&tags, &logits, &places).map(|span| (span.start, span.end, name(&span))).collect()
}

fn expected(spans: &[(u32, u32, &str)]) -> Vec<(u32, u32, String)> {
    spans.iter().map(|(start, end, name)| (*start, *end, (*name).to_owned())).collect()
}

#[test]
fn bio_labels_join_unless_one_begins() {
    let labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"];
    let found = spans(&labels, &["B-PER", "I-PER", "B-PER", "O", "I-LOC", "I-PER", "I-PER", "B-LOC"]);
    let wanted = [(0, 2, "PER"), (2, 3, "PER"), (4, 5, "LOC"), (5, 7, "PER"), (7, 8, "LOC")];
    assert_eq!(found, expected(&wanted), "an I after another entity begins one, as in transformers");
}

#[test]
fn bilou_and_plain_labels_are_understood() {
    let bilou = ["O", "B-X", "I-X", "L-X", "U-X"];
    let found = spans(&bilou, &["B-X", "I-X", "L-X", "U-X", "U-X", "O"]);
    assert_eq!(found, expected(&[(0, 3, "X"), (3, 4, "X"), (4, 5, "X")]));
    let plain = ["O", "PER", "S-CLASS"];
    let found = spans(&plain, &["PER", "PER", "O", "S-CLASS"]);
    assert_eq!(
        found,
        expected(&[(0, 2, "PER"), (3, 4, "S-CLASS")]),
        "a prefix of no scheme is part of the name"
    );
}

#[test]
fn special_tokens_are_in_no_span_and_end_none() {
    let tags = tags(&["O", "I-A"]);
    let logits = [0.0, 5.0].repeat(3);
    let places = [TokenPlace { start: 3, end: 4 }, TokenPlace::SPECIAL, TokenPlace { start: 6, end: 9 }];
    let found: Vec<_> = spans_of(&tags, &logits, &places).collect();
    let probability = 1.0 / (1.0 + (-5.0f32).exp());
    assert_eq!((found.len(), found[0].start, found[0].end), (1, 3, 9));
    assert!((found[0].score - probability).abs() < 1e-6, "the mean of its tokens");
}
