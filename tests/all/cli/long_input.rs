//! Texts over the model's limit: in chunks as the reference has them, or cut at the end that was chosen.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Home, MODEL, golden};

/// Of an f32 against f64, on a vector of length 1.
const ERROR_MAX: f64 = 2e-6;

#[derive(Deserialize)]
struct Golden {
    prompt_name: String,
    mean: Vec<Case<MeanAnswer>>,
    late: Vec<Case<LateAnswer>>,
}

#[derive(Deserialize)]
struct Case<A> {
    text: String,
    tokens: Option<u32>,
    overlap: u32,
    #[serde(flatten)]
    answer: A,
}

#[derive(Deserialize)]
struct MeanAnswer {
    seen: u64,
    vector: Vec<f64>,
}

#[derive(Deserialize)]
struct LateAnswer {
    chunks: Vec<Chunk>,
}

#[derive(Deserialize)]
struct Chunk {
    start: u32,
    end: u32,
    #[serde(alias = "dense")]
    vector: Vec<f64>,
}

fn told() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/tasks/long.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("golden data")).expect("JSON")
}

/// The answer to the one text of a case.
fn encode<A>(home: &Home, pooling: &str, prompt: &str, case: &Case<A>) -> Value {
    let overlap = case.overlap.to_string();
    let mut args =
        vec!["--dtype", "f32", "--prompt-name", prompt, "--chunks", pooling, "--chunk-overlap", &overlap];
    let tokens = case.tokens.map(|tokens| tokens.to_string());
    args.extend(tokens.iter().flat_map(|tokens| ["--chunk-tokens", tokens]));
    args.extend(["--", &case.text]);
    home.encode(&args).expect(0).lines().remove(0)
}

fn near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(error <= ERROR_MAX, "{what}: off by {error:e}");
}

#[test]
fn a_long_text_has_the_mean_of_its_windows() {
    let (home, golden) = (Home::new(), told());
    for case in &golden.mean {
        let line = encode(&home, "mean", &golden.prompt_name, case);
        let what = format!("{:?} in {:?} and {}", case.text, case.tokens, case.overlap);
        let vector: Vec<f64> = serde_json::from_value(line["dense"].clone()).expect("a vector");
        near(&vector, &case.answer.vector, &what);
        assert_eq!((&line["tokens"], line.get("truncated")), (&json!(case.answer.seen), None), "{what}");
    }
}

#[test]
fn chunks_of_one_pass_have_their_places_and_the_means_of_their_tokens() {
    let (home, golden) = (Home::new(), told());
    for case in &golden.late {
        let line = encode(&home, "late", &golden.prompt_name, case);
        let what = format!("{:?} in {:?} and {}", case.text, case.tokens, case.overlap);
        let chunks: Vec<Chunk> = serde_json::from_value(line["chunks"].clone()).expect("chunks");
        assert_eq!(chunks.len(), case.answer.chunks.len(), "{what}");
        for (found, expected) in chunks.iter().zip(&case.answer.chunks) {
            assert_eq!((found.start, found.end), (expected.start, expected.end), "{what}");
            near(&found.vector, &expected.vector, &what);
        }
    }
}

#[test]
fn what_cannot_be_cut_into_chunks_says_why() {
    let home = Home::new();
    let long = "river ".repeat(100);
    let late = home.encode(&["--chunks", "late", "--", &long]).expect(4);
    assert_eq!(late.lines()[0]["error"]["code"], "too_long", "one pass has the model's limit");
    let cut = home.encode(&["--chunks", "late", "--truncate", "--", &long]).expect(0).lines();
    assert_eq!((&cut[0]["tokens"], &cut[0]["truncated"]), (&json!(48), &json!(true)));
    let shared = home.encode(&["--chunks", "mean", "--chunk-overlap", "30", "--", &long]).expect(4);
    let message = shared.lines()[0]["error"]["message"].to_string();
    assert!(message.contains("chunks of 46 tokens cannot share 30"), "{message}");
    for (model, pooling, words) in [
        ("cls-bf16-prefixed", "late", "this model pools by cls"),
        ("poolings-layernorm", "late", "this model pools by mean+cls+max"),
    ] {
        let model = golden(model).display().to_string();
        let ran = home.run(["encode", "--model", &model, "--chunks", pooling, "--", "x"]).expect(3);
        assert!(ran.err.contains(words), "{}", ran.err);
    }
    let usage = home.encode(&["--chunk-tokens", "9", "--", "x"]).expect(2);
    assert!(usage.err.contains("--chunks"), "{}", usage.err);
}

#[test]
fn a_text_is_cut_at_the_end_that_was_chosen() {
    let home = Home::new();
    let dir = golden(MODEL).display().to_string();
    let vector = |args: &[&str], text: &str| {
        let base = ["encode", "--model", &dir, "--threads", "1", "--dtype", "f32"];
        let lines =
            home.run(base.into_iter().chain(args.iter().copied()).chain(["--", text])).expect(0).lines();
        lines[0]["dense"].clone()
    };
    let (first, last) = (vec!["river"; 46].join(" "), vec!["boat"; 46].join(" "));
    let both = format!("{first} {last}");
    for (flag, kept) in [("--truncate", &first), ("--truncate=right", &first), ("--truncate=left", &last)] {
        assert_eq!(vector(&[flag], &both), vector(&[], kept), "{flag}");
    }
}
