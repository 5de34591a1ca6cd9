//! GLiNER: what is found by the caller's labels, against the reference's own answers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shoal::node::Node;
use shoal_kernels::{Dtype, DtypePolicy};
use shoal_mesh::{Answer, Client, Extract, ItemResult, Span};
use shoal_protocol::ErrorCode;
use shoal_protocol::message::{ExtractOptions, Truncate};
use shoal_tests::serving::{MODEL, ground};

const PATIENCE: Duration = Duration::from_secs(60);
const MODELS: [&str; 4] = ["modernbert", "modernbert-bare", "bert-last", "deberta"];

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    labels: Vec<String>,
    threshold: f32,
    nested: bool,
    multi_label: bool,
    #[serde(default)]
    truncate: bool,
    spans: Vec<Found>,
}

#[derive(Debug, Deserialize)]
struct Found {
    start: u32,
    end: u32,
    label: String,
    score: f32,
}

fn dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/gliner").join(name)
}

async fn serve(name: &str, dtype: DtypePolicy) -> Node {
    Node::start(ground(&dir(name), dtype).config).await.expect("the node starts")
}

async fn extract(client: &Client, texts: Vec<String>, options: ExtractOptions) -> Vec<ItemResult> {
    let call = Extract::new(MODEL, texts).options(options).no_deadline();
    client.extract(call).await.expect("extracted").items
}

/// And whether the text was cut.
fn spans_of(item: &ItemResult) -> (&[Span], bool) {
    match item {
        ItemResult::Answered { answer: Answer::Spans(spans), truncated, .. } => (spans, *truncated),
        other => panic!("{other:?}"),
    }
}

impl Case {
    fn options(&self) -> ExtractOptions {
        ExtractOptions {
            labels: self.labels.clone(),
            threshold: Some(self.threshold),
            nested: self.nested,
            multi_label: self.multi_label,
            truncate: if self.truncate { Truncate::Right } else { Truncate::Refuse },
            ..ExtractOptions::default()
        }
    }

    fn compare(&self, found: &[Span], tolerance: f32) {
        let place = |start, end, label: &str| (start, end, label.to_owned());
        let places: Vec<_> = found.iter().map(|span| place(span.start, span.end, &span.label)).collect();
        let expected: Vec<_> =
            self.spans.iter().map(|span| place(span.start, span.end, &span.label)).collect();
        assert_eq!(places, expected, "{:?} {:?} {}", self.text, self.labels, self.threshold);
        for (found, expected) in found.iter().zip(&self.spans) {
            assert!((found.score - expected.score).abs() <= tolerance, "{found:?} {expected:?}");
            let (start, len) = (found.start as usize, (found.end - found.start) as usize);
            assert_eq!(found.text, self.text.chars().skip(start).take(len).collect::<String>());
        }
    }
}

/// In f32; the reference's own answers are f32, too. The same texts in one request have the same answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_those_of_the_reference() {
    for name in MODELS {
        let json = std::fs::read(dir(name).with_extension("json")).expect("golden data");
        let golden: Golden = serde_json::from_slice(&json).expect("golden data");
        let node = serve(name, DtypePolicy::Exact(Dtype::F32)).await;
        let client = node.client();
        // Requests of several texts, so that sequences of different lengths and labels share batches.
        let mut requests: BTreeMap<String, Vec<&Case>> = BTreeMap::new();
        for case in &golden.cases {
            requests.entry(format!("{:?}", case.options())).or_default().push(case);
        }
        for cases in requests.values() {
            let texts = cases.iter().map(|case| case.text.clone()).collect();
            let items = extract(&client, texts, cases[0].options()).await;
            for (item, case) in items.iter().zip(cases) {
                let (spans, truncated) = spans_of(item);
                case.compare(spans, 2e-5);
                assert_eq!(truncated, case.truncate);
            }
        }
        node.shutdown(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_looked_for_is_refused_by_name() {
    let node = serve("modernbert", DtypePolicy::Auto).await;
    let client = node.client();
    let labels = |labels: &[&str]| ExtractOptions {
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        ..ExtractOptions::default()
    };
    let refused = async |options: ExtractOptions| {
        let call = Extract::new(MODEL, ["x"]).options(options).no_deadline();
        client.extract(call).await.expect_err("refused").to_string()
    };
    assert!(refused(labels(&[])).await.contains("by the labels that it is given, and none is given"));
    let asked = ExtractOptions { hypothesis: Some("{}?".into()), ..labels(&["a"]) };
    assert!(refused(asked).await.contains("only a model of entailment takes a hypothesis"));
    let raw = ExtractOptions { raw: true, ..labels(&["a"]) };
    assert!(refused(raw).await.contains("there are no raw ones"));
    let failed =
        async |options: ExtractOptions, text: &str| match extract(&client, vec![text.to_owned()], options)
            .await
            .remove(0)
        {
            ItemResult::Failed { code, message, limit, .. } => (code, message, limit),
            other => panic!("{other:?}"),
        };
    let (code, message, _) = failed(labels(&["a <<ENT>> b"]), "x").await;
    assert_eq!(code, ErrorCode::InvalidRequest);
    assert!(message.contains("read as 2 and not as 1"), "{message}");
    let many: Vec<String> = (0..300).map(|label| format!("kind {label}")).collect();
    let (code, message, limit) =
        failed(ExtractOptions { labels: many, ..ExtractOptions::default() }, "x").await;
    assert_eq!((code, limit), (ErrorCode::TooLong, 512));
    assert!(message.contains("leaves no room for a text"), "{message}");
    let all = ExtractOptions { threshold: Some(-1.0), multi_label: true, ..labels(&["a", "b", "c"]) };
    let (_, message, _) = failed(all, &"word ".repeat(1200)).await;
    assert!(message.contains("spans score over the threshold"), "{message}");
    let (code, message, _) = failed(labels(&["a"]), &"\u{10000}".repeat(600)).await;
    assert_eq!(code, ErrorCode::TooLong);
    assert!(message.contains("does not fit behind the labels"), "{message}");
    node.shutdown(PATIENCE).await;
}
