//! `shoal score` and `shoal extract` with models that transformers has answered for.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Home, MODEL, Ran, golden};

/// BERT with WordPiece, DeBERTa with Unigram pieces that take the space in front.
const RERANKERS: [&str; 2] = ["rerank", "rerank-deberta"];
const TAGGERS: [&str; 2] = ["ner", "ner-deberta"];
const ENTAILERS: [&str; 2] = ["nli", "nli-deberta"];

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tasks").join(name)
}

fn told(name: &str) -> Value {
    let text = std::fs::read_to_string(model(name).with_extension("json")).expect("golden data");
    serde_json::from_str(&text).expect("JSON")
}

fn run(home: &Home, command: &str, name: &str, args: &[&str]) -> Ran {
    let dir = model(name).display().to_string();
    let flags = [command, "--model", &dir, "--threads", "1", "--dtype", "f32"];
    home.run(flags.iter().chain(args).copied())
}

fn near(found: &Value, expected: &Value) {
    let (found, expected) = (found.as_f64().expect("a number"), expected.as_f64().expect("a number"));
    assert!((found - expected).abs() < 1e-4, "{found} where {expected} was expected");
}

#[test]
fn documents_come_best_first_with_the_references_scores() {
    let home = Home::new();
    RERANKERS.iter().for_each(|name| check_scores(&home, name));
}

fn check_scores(home: &Home, name: &str) {
    let golden = told(name);
    let cases = golden["cases"].as_array().expect("cases");
    let texts: Vec<&str> = cases.iter().filter_map(|case| case["text"].as_str()).collect();
    let query = golden["query"].as_str().expect("a query");
    for (flags, field) in [(&["--truncate"][..], "score"), (&["--truncate", "--raw"][..], "logit")] {
        let args: Vec<&str> =
            flags.iter().copied().chain(["--query", query, "--"]).chain(texts.clone()).collect();
        let lines = run(home, "score", name, &args).expect(0).lines();
        assert_eq!(lines.len(), cases.len());
        for line in &lines {
            let case = &cases[line["index"].as_u64().expect("an index") as usize];
            near(&line["score"], &case[field]);
        }
        let scores: Vec<f64> = lines.iter().filter_map(|line| line["score"].as_f64()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        let twins: Vec<_> =
            lines.iter().map(|line| &line["index"]).filter(|index| **index == 0 || **index == 6).collect();
        assert_eq!(twins, [&json!(0), &json!(6)], "equal ones in input order");
    }
}

#[test]
fn a_pair_that_is_too_long_fails_alone_and_the_others_are_ranked() {
    let home = Home::new();
    let long = "river ".repeat(100);
    let ran = run(&home, "score", "rerank", &["--query", "river", "--", "bank", &long, "sea"]).expect(4);
    let lines = ran.lines();
    let failed = lines.iter().find(|line| line["index"] == 1).expect("told");
    assert_eq!((&failed["error"]["code"], &failed["error"]["limit"]), (&json!("too_long"), &json!(64)));
    assert_eq!(lines.iter().filter(|line| line["score"].is_number()).count(), 2);
}

#[test]
fn a_language_model_judges_documents_as_the_reference_does() {
    let home = Home::new();
    let golden = told("judge");
    let query = golden["query"].as_str().expect("a query");
    for (cases, instruction) in [("cases", None), ("instructed", golden["instruction"].as_str())] {
        let cases = golden[cases].as_array().expect("cases");
        let texts = cases.iter().filter_map(|case| case["text"].as_str());
        let instruction: Vec<&str> = instruction.iter().flat_map(|own| ["--instruction", own]).collect();
        for (flags, field) in [(&["--truncate"][..], "score"), (&["--truncate", "--raw"][..], "logit")] {
            let own = [flags, &instruction, &["--query", query, "--"]].concat();
            let args: Vec<&str> = own.into_iter().chain(texts.clone()).collect();
            let lines = run(&home, "score", "judge", &args).expect(0).lines();
            assert_eq!(lines.len(), cases.len());
            for line in &lines {
                near(&line["score"], &cases[line["index"].as_u64().expect("an index") as usize][field]);
            }
        }
    }
    let long = "river ".repeat(300);
    let refused = run(&home, "score", "judge", &["--query", query, "--", "x", &long]).expect(4);
    let failed = refused.lines().into_iter().find(|line| line["index"] == 1).expect("told");
    assert_eq!((&failed["error"]["code"], &failed["error"]["limit"]), (&json!("too_long"), &json!(256)));
    // Its end or its beginning is cut, and never what stands around it.
    for flag in ["--truncate=left", "--truncate=right"] {
        let lines = run(&home, "score", "judge", &[flag, "--query", query, "--", &long]).expect(0).lines();
        assert!(lines[0]["score"].is_number());
    }
    let extract = run(&home, "extract", "judge", &["--", "x"]).expect(3);
    assert!(extract.err.contains("no head for extract"), "{}", extract.err);
}

#[test]
fn an_encoder_scores_by_the_cosine_of_its_vectors() {
    let home = Home::new();
    let encoder = golden(MODEL).display().to_string();
    let base = ["score", "--model", &encoder, "--threads", "1", "--dtype", "f32", "--query", "a river", "--"];
    let documents = ["a sea", "a river"];
    let lines = home.run(base.iter().chain(&documents).copied()).expect(0).lines();
    let vectors = |prompt: &str, texts: &[&str]| -> Vec<Vec<f64>> {
        let args = [&["--dtype", "f32", "--prompt-name", prompt, "--"], texts].concat();
        let lines = home.encode(&args).expect(0).lines();
        lines.iter().map(|line| serde_json::from_value(line["dense"].clone()).expect("numbers")).collect()
    };
    // As sentence-transformers' encode_query and encode_document choose the prompts.
    let (query, texts) = (vectors("query", &["a river"]), vectors("passage", &documents));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let cosine = |a: &[f64], b: &[f64]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        let text = &texts[line["index"].as_u64().expect("an index") as usize];
        near(&line["score"], &json!(cosine(&query[0], text)));
    }
    assert!(lines[0]["score"].as_f64() >= lines[1]["score"].as_f64());
}

#[test]
fn spans_are_those_of_transformers() {
    let home = Home::new();
    TAGGERS.iter().for_each(|name| check_spans(&home, name));
    let few = run(&home, "extract", "ner", &["--label", "PER", "--threshold", "0.3", "--", "Ada Lovelace"]);
    for span in few.expect(0).lines()[0]["spans"].as_array().expect("spans") {
        assert!(span["label"] == "PER" && span["score"].as_f64() >= Some(0.3), "{span}");
    }
}

fn check_spans(home: &Home, name: &str) {
    let golden = told(name);
    let cases = golden["cases"].as_array().expect("cases");
    let texts: Vec<&str> = cases.iter().filter_map(|case| case["text"].as_str()).collect();
    let args: Vec<&str> = ["--"].into_iter().chain(texts).collect();
    let lines = run(home, "extract", name, &args).expect(0).lines();
    assert_eq!(lines.len(), cases.len());
    for (index, (line, case)) in lines.iter().zip(cases).enumerate() {
        assert_eq!(line["index"], index);
        let (found, expected) = (line["spans"].as_array(), case["spans"].as_array());
        let (found, expected) = (found.expect("spans"), expected.expect("spans"));
        assert_eq!(found.len(), expected.len(), "{case}: {line}");
        for (found, expected) in found.iter().zip(expected) {
            let place = |span: &Value| (span["start"].clone(), span["end"].clone(), span["label"].clone());
            assert_eq!(place(found), place(expected), "{case}");
            near(&found["score"], &expected["score"]);
            let chars = case["text"].as_str().expect("a text").chars();
            let (start, end) = (found["start"].as_u64().expect("start"), found["end"].as_u64().expect("end"));
            let stretch: String = chars.skip(start as usize).take((end - start) as usize).collect();
            assert_eq!(found["text"], stretch);
        }
    }
}

#[test]
fn classes_are_those_of_transformers_best_first() {
    let home = Home::new();
    let golden = told("classes");
    let cases = golden["cases"].as_array().expect("cases");
    let texts: Vec<&str> = cases.iter().filter_map(|case| case["text"].as_str()).collect();
    let args: Vec<&str> = ["--"].into_iter().chain(texts).collect();
    let lines = run(&home, "extract", "classes", &args).expect(0).lines();
    for (line, case) in lines.iter().zip(cases) {
        let (found, expected) = (&line["labels"], case["labels"].as_array().expect("labels"));
        for (at, expected) in expected.iter().enumerate() {
            assert_eq!(found[at]["label"], expected["label"], "{case}: {line}");
            near(&found[at]["score"], &expected["score"]);
        }
    }
}

#[test]
fn labels_of_the_callers_own_are_those_of_the_zero_shot_pipeline() {
    let home = Home::new();
    ENTAILERS.iter().for_each(|name| check_entailment(&home, name));
    let own = run(&home, "extract", "nli", &["--label", "neutral", "--", "x"]).expect(0).lines();
    assert_eq!(own[0]["labels"][0]["label"], "neutral", "a label that the model knows is its own");
    let long = "river ".repeat(100);
    let refused =
        run(&home, "extract", "nli", &["--label", "boat", "--label", "sea", "--", &long, "x"]).expect(4);
    assert_eq!(refused.lines()[0]["error"]["code"], "too_long", "{}", refused.out);
    assert_eq!(refused.lines()[1]["labels"].as_array().map(Vec::len), Some(2));
    for (model, flags) in [("classes", &["--multi-label"][..]), ("ner", &["--hypothesis", "It is {}"])] {
        let ran = run(&home, "extract", model, &[flags, &["--", "x"]].concat()).expect(3);
        assert!(ran.err.contains("only a model of entailment takes a hypothesis"), "{}", ran.err);
    }
}

fn check_entailment(home: &Home, name: &str) {
    let golden = told(name);
    for case in golden["cases"].as_array().expect("cases") {
        let labels = case["labels"].as_array().expect("labels").iter().filter_map(Value::as_str);
        let mut args: Vec<&str> = labels.flat_map(|label| ["--label", label]).collect();
        args.extend(case["hypothesis"].as_str().iter().flat_map(|asked| ["--hypothesis", asked]));
        args.extend(case["multi_label"].as_bool().filter(|multi| *multi).map(|_| "--multi-label"));
        args.extend(["--truncate", "--", case["text"].as_str().expect("a text")]);
        let lines = run(home, "extract", name, &args).expect(0).lines();
        let (found, expected) = (&lines[0]["labels"], case["scores"].as_array().expect("scores"));
        assert_eq!(found.as_array().map(Vec::len), Some(expected.len()), "{case}");
        for (at, expected) in expected.iter().enumerate() {
            assert_eq!(found[at]["label"], expected["label"], "{case}: {}", lines[0]);
            near(&found[at]["score"], &expected["score"]);
        }
    }
}

#[test]
fn what_a_model_cannot_do_names_what_it_has() {
    let home = Home::new();
    let refused = |command: &str, name: &str, args: &[&str], words: &str| {
        let ran = run(&home, command, name, args).expect(3);
        assert!(ran.err.contains(words), "{command} {name}: {}", ran.err);
    };
    refused("encode", "rerank", &["--", "x"], "no head for encode: it gives classes");
    refused("score", "ner", &["--query", "q", "--", "x"], "no head for score: it gives token_classes");
    refused("score", "classes", &["--query", "q", "--", "x"], "one label, and this one has 3");
    refused("extract", "ner", &["--label", "nobody", "--", "x"], "it has PER, ORG, LOC");
    let encoder = golden(MODEL).display().to_string();
    let ran = home.run(["extract", "--model", &encoder, "--", "x"]).expect(3);
    assert!(ran.err.contains("no head for extract: it gives dense"), "{}", ran.err);
    for labels in [&["--label", ""][..], &["--label", "a", "--label", "a"]] {
        let ran = run(&home, "extract", "ner", &[labels, &["--", "x"]].concat()).expect(3);
        assert!(ran.err.contains("label"), "{}", ran.err);
    }
    let bare = golden("bare-f16-gamma").display().to_string();
    let ran = home.run(["score", "--model", &bare, "--query", "q", "--", "x"]).expect(3);
    assert!(ran.err.contains("no head for score: no file says"), "{}", ran.err);
    let long = "river ".repeat(1000);
    let ran = run(&home, "score", "rerank", &["--query", &long, "--", "x"]).expect(4);
    assert_eq!(ran.lines()[0]["error"]["code"], "too_long", "{}", ran.out);
    let encoder = golden(MODEL).display().to_string();
    let ran = home.run(["score", "--model", &encoder, "--query", &long, "--", "x"]).expect(4);
    assert!(ran.err.contains("the query: "), "{}", ran.err);
    let usage = run(&home, "score", "rerank", &["--", "x"]).expect(2);
    assert!(usage.err.contains("--query"), "{}", usage.err);
}

#[test]
fn spans_are_found_by_the_labels_that_are_given() {
    let home = Home::new();
    let dir = model("../gliner/deberta");
    let text = std::fs::read_to_string(dir.with_extension("json")).expect("golden data");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let spans = |case: &Value| case["spans"].as_array().expect("spans").clone();
    let cases = golden["cases"].as_array().expect("cases").iter();
    let mut of_several = cases.filter(|case| case["nested"] == true && spans(case).len() > 2);
    let case = of_several.next().expect("a case with several spans");
    let threshold = case["threshold"].to_string();
    let labels = case["labels"].as_array().expect("labels").iter().filter_map(Value::as_str);
    let mut args: Vec<&str> = labels.flat_map(|label| ["--label", label]).collect();
    args.extend(["--nested", "--threshold", &threshold]);
    args.extend(case["multi_label"].as_bool().filter(|multi| *multi).map(|_| "--multi-label"));
    args.extend(["--", case["text"].as_str().expect("a text")]);
    let lines = run(&home, "extract", "../gliner/deberta", &args).expect(0).lines();
    let (found, expected) = (lines[0]["spans"].as_array().expect("spans"), spans(case));
    assert_eq!(found.len(), expected.len(), "{case}: {}", lines[0]);
    for (found, expected) in found.iter().zip(&expected) {
        for field in ["start", "end", "label"] {
            assert_eq!(found[field], expected[field], "{case}");
        }
        near(&found["score"], &expected["score"]);
    }
    let explained = home.run(["models", "explain", &dir.display().to_string()]).expect(0);
    assert!(
        explained.out.contains("spans: words (cls of their tokens) of 24 -> lstm both ways"),
        "{}",
        explained.out
    );
    let ran = run(&home, "extract", "ner", &["--nested", "--", "x"]).expect(3);
    assert!(ran.err.contains("can nest them: this one gives token_classes"), "{}", ran.err);
}
