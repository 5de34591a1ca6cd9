//! What operators ask: explain, status and top.

use std::time::Duration;

use serde_json::Value;

use super::{Home, MODEL, Serving, golden};

const ID_OF_NOBODY: &str = "00112233445566770000000000000000";

fn serving(home: &Home) -> Serving {
    home.run(["mesh", "init"]).expect(0);
    let model = golden(MODEL).display().to_string();
    Serving::start(home, ["--http", "off", "--quic", "127.0.0.1:0", "--preload", &model])
}

#[test]
fn a_request_is_explained_by_the_id_that_its_summary_told() {
    let home = Home::new();
    let serving = serving(&home);
    let quic = serving.address("quic");
    let ran = home.run(["encode", "--mesh", &quic, "--model", MODEL, "--json", "--", "a", "b"]).expect(0);
    let summary: Value = serde_json::from_str(ran.err.trim()).expect("a JSON summary");
    let id = summary["request_id"].as_str().expect("an id").to_owned();
    let ran = home.run(["explain", &id, "--mesh", &quic, "--json"]).expect(0);
    let told: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((&told["version"], &told["request_id"]), (&1.into(), &id.as_str().into()));
    let node = &told["nodes"][0];
    assert_eq!(node["node"], serving.ready["node"]);
    let attempt = &node["attempts"][0];
    assert_eq!((&attempt["outcome"], &attempt["items"]), (&"answered".into(), &2.into()));
    assert!(
        attempt["timings"]["total_us"].as_u64() >= attempt["timings"]["compute_us"].as_u64(),
        "{attempt}"
    );
    assert!(attempt["decision"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{attempt}");
    let people = home.run(["explain", &id, "--mesh", &quic]).expect(0).out;
    assert!(people.contains("2 texts for mean") && people.contains("  why "), "{people}");

    let unknown = home.run(["explain", ID_OF_NOBODY, "--mesh", &quic]).expect(4);
    assert!(unknown.err.contains("is remembered") && unknown.out.is_empty(), "{}", unknown.err);
    let elsewhere = ID_OF_NOBODY.replace("0000000000000000", "1111111111111111");
    let gone = home.run(["explain", &elsewhere, "--mesh", &quic]).expect(5);
    assert!(gone.err.contains("not in this mesh"), "{}", gone.err);
    home.run(["explain", &elsewhere, "--mesh", &quic, "--all"]).expect(4);
    home.run(["explain", "no-id", "--mesh", &quic]).expect(2);
    let nowhere = home.run(["explain", &id]).expect(2);
    assert!(nowhere.err.contains("--mesh"), "{}", nowhere.err);
}

#[test]
fn top_prints_one_look_where_there_is_no_terminal() {
    let home = Home::new();
    let serving = serving(&home);
    let quic = serving.address("quic");
    home.run(["encode", "--mesh", &quic, "--model", MODEL, "--", "a"]).expect(0);
    let look = home.run(["top", "--mesh", &quic]).expect(0).out;
    assert!(!look.contains('\x1b'), "no terminal is there to obey: {look:?}");
    assert!(look.starts_with("1 node; latencies since the nodes' start\n"), "{look}");
    for part in ["P99.9", "ready", "HOT MODEL", MODEL, "total", "compute"] {
        assert!(look.contains(part), "{part}: {look}");
    }
    home.run(["top", "--mesh", &quic, "--interval", "1ms"]).expect(2);
}

/// How long two nodes may take to know of each other's models, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn one_entry_tells_of_the_whole_mesh() {
    let (first, second) = (Home::new(), Home::new());
    let on_loopback = ["--http", "off", "--quic", "127.0.0.1:0"];
    first.run(["mesh", "init"]).expect(0);
    let entry = Serving::start(&first, on_loopback);
    let token = second.write("token", first.run(["mesh", "token"]).expect(0).out);
    let (join, token) = (entry.address("join"), token.display().to_string());
    let model = golden(MODEL).display().to_string();
    let joined =
        on_loopback.into_iter().chain(["--join", &join, "--token-file", &token, "--preload", &model]);
    let holder = Serving::start(&second, joined);
    let (quic, id) = (entry.address("quic"), holder.ready["node"].clone());

    // The status is each node's own word, asked through one entry.
    let start = shoal::clock::now();
    let status = loop {
        let ran = first.run(["status", "--mesh", &quic, "--json"]).expect(0);
        let status: Value = serde_json::from_str(&ran.out).expect("JSON");
        if status["members"][1]["status"]["ready"] == true {
            break status;
        }
        assert!(shoal::clock::now().saturating_duration_since(start) < PATIENCE, "{status:#}");
    };
    assert_eq!((&status["node"], &status["members"][1]["node"]), (&entry.ready["node"], &id));
    assert_eq!(status["members"][1]["status"]["devices"].as_array().map(Vec::len), Some(1));
    let hot = &status["models_hot"][0];
    assert_eq!((&hot["name"], &hot["places"][0]["node"]), (&MODEL.into(), &id), "{status:#}");
    let id = id.as_str().expect("an id");
    let people = first.run(["status", "--mesh", &quic]).expect(0).out;
    assert!(people.starts_with("2 nodes: 2 alive") && people.contains("HOT MODEL"), "{people}");
    let look = first.run(["top", "--mesh", &quic, "--once"]).expect(0).out;
    assert!(look.starts_with("2 nodes;") && look.contains(&id[..8]), "{look}");

    // A request goes where the model is, and its id leads there.
    let ran = first.run(["encode", "--mesh", &quic, "--model", MODEL, "--json", "--", "a"]).expect(0);
    let summary: Value = serde_json::from_str(ran.err.trim()).expect("a JSON summary");
    assert_eq!(summary["node"], id);
    let request = summary["request_id"].as_str().expect("an id").to_owned();
    let ran = first.run(["explain", &request, "--mesh", &quic, "--json"]).expect(0);
    let told: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((&told["nodes"][0]["node"], told["nodes"].as_array().map(Vec::len)), (&id.into(), Some(1)));
    let candidate = &told["nodes"][0]["attempts"][0]["decision"]["candidates"][0];
    assert_eq!(candidate["node"], id, "{told:#}");

    // Its memory goes with it.
    holder.signal("-KILL");
    drop(holder);
    let gone = first.run(["explain", &request, "--mesh", &quic]).expect(5);
    assert!(gone.err.contains(id) || gone.err.contains("not in this mesh"), "{}", gone.err);
}
