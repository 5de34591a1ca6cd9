//! One mesh behind every node: real processes, HTTP at a node that has no model.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use super::serve::{post, preload};
use super::{Home, MODEL, Serving};

/// How long the mesh may take to know itself, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests before the kill, and after it.
const REQUESTS: usize = 60;
/// Callers at a time.
const CALLERS: usize = 4;

struct Answer {
    is_ok: bool,
    node: String,
    embedding: String,
    whole: String,
}

fn ask(address: &str) -> Answer {
    let body = json!({ "model": MODEL, "input": "the river", "encoding_format": "base64" });
    let whole = post(address, "/v1/embeddings", "", &body);
    let after = |mark: &str, end: char| {
        let start = whole.find(mark).map(|at| at + mark.len());
        let rest = start.map_or("", |start| &whole[start..]);
        rest.split(end).next().unwrap_or("").trim().to_owned()
    };
    let (node, embedding) = (after("x-shoal-node:", '\r'), after("\"embedding\":\"", '"'));
    Answer { is_ok: whole.starts_with("HTTP/1.1 200"), node, embedding, whole }
}

fn serve(home: &Home, seeds: &str, more: &[&str]) -> Serving {
    let text = format!("version = 1\n[mesh]\naddr = \"127.0.0.1:0\"\nseeds = [{seeds}]\n");
    let config = home.write("node.toml", text).display().to_string();
    let args = ["--config", &config, "--http", "127.0.0.1:0", "--quic", "127.0.0.1:0", "--threads", "1"];
    Serving::start(home, args.iter().chain(more).copied())
}

#[test]
fn http_at_any_node_reaches_every_model_and_outlives_the_node_that_serves_it() {
    let homes = [Home::new(), Home::new(), Home::new()];
    homes[0].run(["mesh", "init"]).expect(0);
    let edge = serve(&homes[0], "", &[]);
    let (seed, join) = (format!("\"{}\"", edge.address("mesh")), edge.address("join"));
    let holders = [1, 2].map(|number| {
        let token = homes[0].run(["mesh", "token"]).expect(0).out.trim().to_owned();
        let more = ["--join", &join, "--token", &token, "--preload", &preload()];
        Some(serve(&homes[number], &seed, &more))
    });
    let mut holders = Vec::from(holders);
    let address = edge.address("http");

    // Both holders are known once both have answered.
    let start = shoal::clock::now();
    let mut seen: Vec<Answer> = Vec::new();
    while seen.iter().filter(|answer| answer.is_ok).map(|answer| &answer.node).max()
        == seen.iter().filter(|answer| answer.is_ok).map(|answer| &answer.node).min()
    {
        seen.push(ask(&address));
        assert!(shoal::clock::now().saturating_duration_since(start) < PATIENCE, "{}", seen[0].whole);
    }
    let expected = &seen.iter().find(|answer| answer.is_ok).expect("served").embedding;
    assert!(!expected.is_empty());

    let (begun, killed) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let victim = holders[0].as_ref().expect("alive").ready["node"].as_str().expect("an id").to_owned();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let call = || {
            let mut answers = Vec::new();
            while begun.fetch_add(1, Ordering::SeqCst)
                < killed.load(Ordering::SeqCst).saturating_add(REQUESTS)
            {
                answers.push(ask(&address));
            }
            answers
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(call)).collect();
        while begun.load(Ordering::SeqCst) < REQUESTS {
            std::thread::yield_now();
        }
        let holder = holders[0].take().expect("alive");
        holder.signal("-KILL");
        killed.store(begun.load(Ordering::SeqCst), Ordering::SeqCst);
        callers.into_iter().flat_map(|caller| caller.join().expect("no caller panics")).collect()
    });
    assert!(answers.len() >= 2 * REQUESTS);
    for answer in &answers {
        assert!(answer.is_ok, "a caller noticed the death: {}", answer.whole);
        assert_eq!(answer.embedding, *expected, "the same text has the same bits");
        assert_ne!(answer.node, edge.ready["node"].as_str().expect("an id"), "it has no model");
    }
    assert!(answers.iter().any(|answer| answer.node == victim), "both served");
    assert_ne!(ask(&address).node, victim);
}
