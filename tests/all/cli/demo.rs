//! The demo with a local model: everything but the fetch.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::{Home, MODEL, Ran, golden};

/// For three processes to start or to end, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(40);

fn model() -> String {
    golden(MODEL).display().to_string()
}

#[test]
fn the_demo_answers_every_text_once() {
    let home = Home::new();
    let model = model();
    let ran: Ran = home.run(["demo", "--model", &model, "--time", "6s", "--json"]).expect(0);
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((&report["failures"], &report["duplicates"]), (&0.into(), &0.into()));
    assert!(report["requests"].as_u64() > Some(10), "{report}");
    assert!(report["p50_us"].as_u64() <= report["p99_us"].as_u64());
    assert!(
        report["stages"]
            .as_array()
            .is_some_and(|stages| stages.iter().any(|stage| stage["stage"] == "compute"))
    );
    assert!(report["events"].as_array().is_some_and(|events| events.len() >= 7), "{report}");
    let mesh = &report["mesh"];
    assert_eq!(mesh["models"].as_array().map(Vec::len), Some(2), "{mesh}");
    let seconds = mesh["seconds"].as_array().expect("a list");
    let sent: u64 = seconds.iter().filter_map(|second| second["requests"].as_u64()).sum();
    assert_eq!((seconds.len(), Some(sent)), (6, mesh["requests"].as_u64()));
    let nodes = |second: &Value| second["nodes"].as_object().map(serde_json::Map::len);
    assert!(seconds.iter().any(|second| nodes(second) >= Some(2)), "more than one node served: {mesh}");
}

/// The nodes that were started with files below this directory.
fn nodes_below(dir: &Path) -> usize {
    let dir = dir.display().to_string();
    let all = std::fs::read_dir("/proc").expect("proc").filter_map(Result::ok);
    let commands = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    commands.filter(|command| command.contains("--until-stdin-ends") && command.contains(&dir)).count()
}

fn wait_until(holds: impl Fn() -> bool) {
    let start = shoal::clock::now();
    while !holds() {
        assert!(shoal::clock::now().saturating_duration_since(start) < PATIENCE, "did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn the_nodes_of_a_demo_do_not_outlive_it() {
    let home = Home::new();
    let mut demo = home.shoal(["demo", "--model", &model()]);
    let mut demo = demo.env("TMPDIR", home.path("")).stdout(Stdio::null()).spawn().expect("runs");
    wait_until(|| nodes_below(&home.path("")) == 3);
    demo.kill().expect("it runs");
    demo.wait().expect("ends");
    wait_until(|| nodes_below(&home.path("")) == 0);
}
