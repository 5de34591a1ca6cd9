//! GPUs that fail under requests: whoever asked gets one answer all the same.

use std::time::Duration;

use serde_json::json;

use super::gpu::machine;
use super::serve::{get, post};
use super::{Home, MODEL, Serving, golden};

const PATIENCE: Duration = Duration::from_secs(30);
/// Requests, one after another, of which one meets the fault.
const REQUESTS: usize = 24;

/// The head without its lines that differ, and the vector.
fn ask(address: &str) -> (String, String) {
    let body = json!({ "model": MODEL, "input": "the river", "encoding_format": "base64" });
    let answer = post(address, "/v1/embeddings", "", &body);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let node = answer.split("x-shoal-node:").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let vector = answer.split("\"embedding\":\"").nth(1).and_then(|rest| rest.split('"').next());
    (node.trim().to_owned(), vector.expect("a vector").to_owned())
}

/// A member where there are seeds, perhaps none but itself.
fn serve(home: &Home, seeds: Option<&str>, more: &[&str]) -> Serving {
    let mesh = |seeds| format!("[mesh]\naddr = \"127.0.0.1:0\"\nseeds = [{seeds}]\n");
    let text = format!("version = 1\n{}", seeds.map_or_else(String::new, mesh));
    let config = home.write("node.toml", text).display().to_string();
    let args = ["--config", &config, "--http", "127.0.0.1:0", "--threads", "1", "--gpu-memory", "16MiB"];
    Serving::start(home, args.iter().chain(more).copied())
}

/// The machine's first device, with these faults.
fn faulty(device: u32, faults: &[String]) -> Home {
    let mut home = machine(&device.to_string());
    home.set("SHOAL_STANDIN_FAULTS", faults.join(","));
    home
}

fn restarts(address: &str) -> String {
    let metrics = get(address, "/metrics");
    let mut lines = metrics.lines().filter(|line| line.starts_with("shoal_device_restarts_total{"));
    lines.next().and_then(|line| line.split_whitespace().last()).unwrap_or("none").to_owned()
}

/// A kernel that went astray, and one that does not end: the context is given up, the device opened anew with its model, and
/// what was under way is done again.
#[test]
fn a_gpu_that_fails_is_opened_again_and_its_work_done() {
    let preload = golden(MODEL).display().to_string();
    for (device, fault) in [(30, "illegal-address"), (31, "hang")] {
        let home = faulty(device, &[format!("{device}:cuMemcpyDtoHAsync_v2:9:{fault}")]);
        let serving = serve(&home, None, &["--quic", "off", "--device", "cuda:0", "--preload", &preload]);
        let address = serving.address("http");
        let (_, expected) = ask(&address);
        for _ in 1..REQUESTS {
            assert_eq!(ask(&address).1, expected, "{fault}");
        }
        assert_eq!(restarts(&address), "1", "{fault}");
    }
}

/// One of two holders loses its GPU for good: callers hear nothing of it, and the node says what is wrong.
#[test]
fn what_a_lost_gpu_had_is_answered_by_another_node() {
    let preload = golden(MODEL).display().to_string();
    let mut faults = vec!["32:cuMemcpyDtoHAsync_v2:16:illegal-address".to_owned()];
    faults.push("32:cuCtxCreate_v4:1:no-memory".to_owned());
    faults.extend((0..30).map(|_| "32:cuCtxCreate_v4:0:no-memory".to_owned()));
    let homes = [Home::new(), faulty(32, &faults), machine("33")];
    homes[0].run(["mesh", "init"]).expect(0);
    let edge = serve(&homes[0], Some(""), &["--quic", "127.0.0.1:0"]);
    let (seed, join) = (format!("\"{}\"", edge.address("mesh")), edge.address("join"));
    let holders = [1, 2].map(|number| {
        let token = homes[0].run(["mesh", "token"]).expect(0).out.trim().to_owned();
        let more = [
            "--quic",
            "127.0.0.1:0",
            "--device",
            "cuda:0",
            "--join",
            &join,
            "--token",
            &token,
            "--preload",
            &preload,
        ];
        serve(&homes[number], Some(&seed), &more)
    });
    let [lost, sound] = &holders;
    let (address, start) = (edge.address("http"), shoal::clock::now());
    let is_late = || shoal::clock::now().saturating_duration_since(start) > PATIENCE;
    // Until the device has failed, whoever is asked.
    let is_lost = || get(&lost.address("http"), "/readyz").starts_with("HTTP/1.1 503");
    let mut answers = Vec::new();
    let has_model = || get(&address, "/v1/models").contains(&format!("\"{MODEL}\""));
    while !has_model() {
        assert!(!is_late(), "the edge hears of no holder");
    }
    while !is_lost() {
        answers.push(ask(&address));
        assert!(!is_late(), "the fault is not met: {} answers", answers.len());
    }
    let ids = [lost, sound].map(|holder| holder.ready["node"].as_str().expect("an id").to_owned());
    assert!(answers.iter().any(|(node, _)| *node == ids[0]), "it had a part in it");
    let after: Vec<_> = (0..8).map(|_| ask(&address)).collect();
    assert!(after.iter().all(|(node, _)| *node == ids[1]), "{after:?}");
    assert!(answers.iter().chain(&after).all(|(_, vector)| *vector == after[0].1), "the same bits from both");
    let why = get(&lost.address("http"), "/readyz");
    assert!(why.contains("the device failed and is being restarted"), "{why}");
}
