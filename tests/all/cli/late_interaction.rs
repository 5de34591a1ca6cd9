//! Vectors of tokens, from text to answer, with models that sentence-transformers has answered for.

use serde_json::Value;
use shoal_tests::golden::{self, MultivectorCase, TINY_MULTIVECTOR, TinyHead, error_max};

use super::Home;

/// A right f32 implementation stays within this many times the reference's own f32 error.
const F32_ERRORS_MAX: f64 = 4.0;
/// Of a score, a sum of up to 24 products.
const SCORE_ERROR_MAX: f64 = 1e-4;

fn of_task<'a>(golden: &'a TinyHead<MultivectorCase>, task: &str) -> Vec<&'a MultivectorCase> {
    golden.cases.iter().filter(|case| case.task == task).collect()
}

fn run(home: &Home, command: &str, model: &str, args: &[&str], cases: &[&MultivectorCase]) -> Vec<Value> {
    let dir = golden::tiny_head_dir(model).display().to_string();
    let base = [command, "--model", &dir, "--threads", "1", "--dtype", "f32", "--truncate"];
    let texts = cases.iter().map(|case| case.text.as_str());
    home.run(base.into_iter().chain(args.iter().copied()).chain(["--"]).chain(texts)).expect(0).lines()
}

#[test]
fn queries_and_documents_have_the_references_vectors() {
    let home = Home::new();
    for model in TINY_MULTIVECTOR {
        let golden: TinyHead<MultivectorCase> = golden::tiny_head(model);
        for task in ["query", "document"] {
            let cases = of_task(&golden, task);
            let args = ["--output", "multivector", "--input-type", task];
            let lines = run(&home, "encode", model, &args, &cases);
            assert_eq!(lines.len(), cases.len());
            for (line, case) in lines.iter().zip(&cases) {
                let what = format!("{model}, {task} {:?}", case.text);
                assert_eq!(line["tokens"], case.ids.len(), "{what}");
                let rows: Vec<Vec<f32>> = serde_json::from_value(line["multivector"].clone()).expect("rows");
                assert_eq!(rows.len(), case.rows, "{what}");
                let error = error_max(&rows.concat(), &case.vectors);
                let allowed = F32_ERRORS_MAX * golden.f32_error_max;
                assert!(error <= allowed, "{what}: off by {error:e}, allowed {allowed:e}");
            }
        }
    }
}

/// For each vector of the query the best product with one of the document, summed.
fn max_sim(query: &MultivectorCase, document: &MultivectorCase) -> f64 {
    let dims = query.vectors.len() / query.rows;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let best = |row: &[f64]| document.vectors.chunks(dims).map(|other| dot(row, other)).reduce(f64::max);
    query.vectors.chunks(dims).filter_map(best).sum()
}

#[test]
fn documents_are_ranked_by_the_best_products_of_their_vectors() {
    let home = Home::new();
    for model in TINY_MULTIVECTOR {
        let golden: TinyHead<MultivectorCase> = golden::tiny_head(model);
        let (query, documents) = (of_task(&golden, "query")[2], of_task(&golden, "document"));
        let lines = run(&home, "score", model, &["--query", &query.text], &documents);
        assert_eq!(lines.len(), documents.len());
        for line in &lines {
            let document = documents[line["index"].as_u64().expect("an index") as usize];
            let (score, expected) = (line["score"].as_f64().expect("a score"), max_sim(query, document));
            assert!(
                (score - expected).abs() < SCORE_ERROR_MAX,
                "{model}, {document:?}: {score}, not {expected}"
            );
        }
        let scores: Vec<f64> = lines.iter().filter_map(|line| line["score"].as_f64()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{model}: {scores:?}");
    }
}
