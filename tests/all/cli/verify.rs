//! `shoal verify` and `shoal models explain`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use shoal_tests::changed::copy;

use super::{Home, MODEL, golden, golden_cases};

/// The tiny model in a directory of its own, with golden answers for two texts.
fn with_golden(home: &Home, spoil: f64) -> String {
    let dir = home.path("tiny");
    copy(&golden(MODEL), &dir);
    let cases = golden_cases(MODEL);
    let case = |index: usize| {
        let case = &cases["cases"][index];
        let mut vector: Vec<f64> = serde_json::from_value(case["vector"].clone()).expect("numbers");
        vector[0] += spoil;
        json!({ "text": case["text"], "dense": vector })
    };
    let whole: Vec<_> = (0..cases["cases"].as_array().expect("cases").len())
        .filter(|index| cases["cases"][index]["truncated"] == false)
        .take(2)
        .map(case)
        .collect();
    fs::write(dir.join("shoal.golden.json"), json!({ "made_by": "a test", "cases": whole }).to_string())
        .expect("write");
    dir.display().to_string()
}

#[test]
fn right_answers_pass_and_wrong_ones_do_not() {
    let home = Home::new();
    let dir = with_golden(&home, 0.0);
    let right = home.run(["verify", &dir, "--dtype", "f32", "--json"]).expect(0);
    let right: Value = serde_json::from_str(&right.out).expect("JSON");
    assert_eq!(
        (&right["version"], &right["ok"], &right["golden"]["cases"]),
        (&1.into(), &true.into(), &2.into())
    );
    assert!(right["golden"]["cosine"].as_f64().is_some_and(|cosine| cosine > 0.999_999), "{right}");
    assert!(right["golden"]["device"].as_str().is_some_and(|device| device.starts_with("cpu")), "{right}");

    let dir = with_golden(&home, 0.1);
    let wrong = home.run(["verify", &dir, "--dtype", "f32"]).expect(3);
    assert!(wrong.out.contains("answers: WRONG"), "{}", wrong.out);
}

#[test]
fn a_model_without_golden_answers_says_so() {
    let home = Home::new();
    let dir = golden(MODEL).display().to_string();
    let ran = home.run(["verify", &dir]).expect(0);
    assert!(ran.out.contains("nobody states their hashes") && ran.out.contains("nothing to compare with"));
    let unknown = home.run(["verify", "gpt-9"]).expect(3);
    assert!(unknown.err.contains("gpt-9"), "{}", unknown.err);
    let absent = home.run(["verify", "all-minilm-l6-v2"]).expect(3);
    assert!(absent.err.contains("shoal pull") && absent.err.contains("Hugging Face hub"), "{}", absent.err);
}

/// What transformers answered beside a model of `tasks/` or `heads/`, in the form that is verified.
fn with_cases(home: &Home, model: &Path, cases: &Value) -> String {
    let dir = home.path(&model.file_name().expect("a name").to_string_lossy());
    copy(model, &dir);
    fs::write(dir.join("shoal.golden.json"), json!({"made_by": "a test", "cases": cases}).to_string())
        .expect("written");
    dir.display().to_string()
}

fn told(path: &str) -> (PathBuf, Value) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(path);
    let json = fs::read(dir.with_extension("json")).expect("golden data is there");
    (dir, serde_json::from_slice(&json).expect("JSON"))
}

/// Each kind of answer, right as it was told and wrong after a change.
#[test]
fn every_kind_of_answer_is_verified() {
    let home = Home::new();
    let whole = |cases: &Value| -> Vec<Value> {
        let all = cases.as_array().expect("cases").iter();
        all.filter(|case| case["truncated"] != true && case["text"] != "").cloned().collect()
    };
    let of = |path: &str, make: &dyn Fn(&Value, &Value) -> Value| {
        let (dir, told) = told(path);
        let cases: Vec<_> = whole(&told["cases"]).iter().take(4).map(|case| make(&told, case)).collect();
        (dir, cases)
    };
    let classes = |case: &Value| -> Value {
        let all = case["labels"].as_array().expect("labels").iter();
        all.map(|label| (label["label"].as_str().expect("a name").to_owned(), label["score"].clone()))
            .collect()
    };
    let kinds = [
        of(
            "tasks/rerank",
            &|told, case| json!({"query": told["query"], "text": case["text"], "score": case["score"]}),
        ),
        of("tasks/classes", &|_, case| json!({"text": case["text"], "classes": classes(case)})),
        of("tasks/ner", &|_, case| json!({"text": case["text"], "spans": case["spans"]})),
        of(
            "heads/splade-max",
            &|_, case| json!({"text": case["text"], "sparse": {"indices": case["indices"], "values": case["values"]}}),
        ),
        of("heads/colbert-attend", &|_, case| {
            let rows: Vec<_> = case["vectors"].as_array().expect("values").chunks(24).collect();
            json!({"text": case["text"], "input_type": case["task"], "multivector": rows})
        }),
    ];
    for (dir, cases) in kinds {
        let name = with_cases(&home, &dir, &json!(cases));
        let right = home.run(["verify", &name, "--dtype", "f32", "--json"]).expect(0);
        let right: Value = serde_json::from_str(&right.out).expect("JSON");
        assert_eq!((&right["ok"], &right["golden"]["cases"]), (&true.into(), &cases.len().into()), "{name}");
        let mut spoiled = cases;
        let text = spoiled[1]["text"].take();
        spoiled[1]["text"] = spoiled[2]["text"].take();
        spoiled[2]["text"] = text;
        let name = with_cases(&home, &dir, &json!(spoiled));
        let wrong = home.run(["verify", &name, "--dtype", "f32"]).expect(3);
        assert!(wrong.out.contains("answers: WRONG") || wrong.err.contains("golden answer"), "{}", wrong.out);
    }
}

#[test]
fn golden_answers_that_do_not_fit_are_told() {
    let home = Home::new();
    let dir = with_golden(&home, 0.0);
    for (golden, what) in [
        (json!({ "made_by": "x", "cases": [{ "text": "a", "dense": [1.0] }] }).to_string(), "32 values"),
        ("{".to_owned(), "shoal.golden.json"),
    ] {
        fs::write(home.path("tiny/shoal.golden.json"), golden).expect("write");
        let ran = home.run(["verify", &dir]).expect(3);
        assert!(ran.err.contains(what), "{}", ran.err);
    }
}

#[test]
fn a_model_is_explained_or_what_it_lacks() {
    let home = Home::new();
    let dir = golden(MODEL).display().to_string();
    let ran = home.run(["models", "explain", &dir, "--cpu-isa", "portable"]).expect(0);
    for part in ["at most 48 tokens", "prompt query", "encoder: hidden 32", "portable"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    copy(&golden(MODEL), &home.path("odd"));
    let config = home.path("odd/config.json");
    let odd = fs::read_to_string(&config).expect("read").replace("\"BertModel\"", "\"GptModel\"");
    fs::write(&config, odd).expect("write");
    let odd = home.path("odd").display().to_string();
    let ran = home.run(["models", "explain", &odd]).expect(3);
    assert!(ran.err.contains("GptModel is not covered"), "{}", ran.err);
}
