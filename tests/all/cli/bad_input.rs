//! What a caller may ask for that a model cannot do: each is an error that names the property.

use std::path::Path;

use super::Home;

#[test]
fn what_a_model_cannot_do_is_told_by_which_property() {
    let home = Home::new();
    let long = "river ".repeat(300);
    let many: Vec<String> = (0..1025).map(|label| format!("label{label}")).collect();
    let many: Vec<&str> = many.iter().flat_map(|label| ["--label", label]).chain(["--", "a"]).collect();
    let table: [(&str, &str, &[&str], &str); 11] = [
        ("encode", "tasks/rerank", &["--", "a"], "the model has no head for encode: it gives classes"),
        (
            "encode",
            "bert/mean",
            &["--output", "sparse", "--", "a"],
            "sparse was asked for and the model gives dense",
        ),
        (
            "encode",
            "bert/mean",
            &["--dims", "33", "--", "a"],
            "33 dims were asked for; this model's vectors have 32 dims",
        ),
        (
            "encode",
            "bert/mean",
            &["--prompt-name", "nobody", "--", "a"],
            "the model has no prompt \"nobody\"",
        ),
        ("score", "tasks/ner", &["--query", "q", "--", "a"], "the model has no head for score"),
        (
            "score",
            "bert/bare-f16-gamma",
            &["--query", "q", "--", "a"],
            "no file says how its token vectors become one",
        ),
        ("score", "bert/mean", &["--query", &long, "--", "a"], "the query: the text has"),
        ("extract", "bert/mean", &["--", "a"], "the model has no head for extract: it gives dense"),
        ("extract", "tasks/nli", &["--label", " ", "--", "a"], "an empty label"),
        ("extract", "tasks/nli", &["--label", "x", "--label", "x", "--", "a"], "the same label twice"),
        ("extract", "tasks/nli", &many, "too many labels"),
    ];
    for (command, model, args, expected) in table {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(model).display().to_string();
        let flags = [command, "--model", &dir, "--threads", "1", "--dtype", "f32"];
        let ran = home.run(flags.iter().chain(args).copied());
        assert!(matches!(ran.code, Some(3 | 4)), "{command} {model}: {:?} {}", ran.code, ran.err);
        let told = format!("{}{}", ran.out, ran.err);
        assert!(told.contains(expected), "{command} {model}: {told}");
    }
}
