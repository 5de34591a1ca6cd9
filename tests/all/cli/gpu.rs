//! GPUs as operators and callers see them, on the stand-in for NVIDIA's driver: the same binary finds it as it would find the
//! real one.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use shoal_tests::golden::cosine;

use super::serve::{get, post};
use super::{Home, Serving, golden};

/// A machine with a driver, of whose devices these are visible.
pub(super) fn machine(visible: &str) -> Home {
    let mut home = Home::new();
    let libraries = home.path("lib");
    std::fs::create_dir(&libraries).expect("a directory");
    symlink(shoal_standin::library(), libraries.join("libcuda.so.1")).expect("a link");
    home.set("LD_LIBRARY_PATH", libraries.display().to_string());
    home.set("CUDA_VISIBLE_DEVICES", visible.to_owned());
    home
}

fn path(model: &str) -> String {
    golden(model).display().to_string()
}

fn head(model: &str) -> String {
    golden("mean").with_file_name(format!("../heads/{model}")).display().to_string()
}

/// What the answer says: the vectors, and the device.
fn embedded(address: &str, model: &str, texts: &[&str]) -> (Vec<Vec<f64>>, String) {
    let answer = post(address, "/v1/embeddings", "", &json!({ "model": model, "input": texts }));
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    let items = body["data"].as_array().unwrap_or_else(|| panic!("no vectors: {body}"));
    let vector = |item: &Value| item["embedding"].as_array().expect("numbers").iter().map(number).collect();
    let device = head.lines().find_map(|line| line.strip_prefix("x-shoal-device: ")).expect("it says where");
    (items.iter().map(vector).collect(), device.to_owned())
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn scores(address: &str, model: &str) -> Vec<f64> {
    let body = json!({ "model": model, "query": "a river", "documents": ["water runs", "the evening"] });
    let answer = post(address, "/v1/rerank", "", &body);
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    let mut results: Vec<(u64, f64)> = body["results"]
        .as_array()
        .unwrap_or_else(|| panic!("no scores: {body}"))
        .iter()
        .map(|result| (result["index"].as_u64().expect("a place"), number(&result["relevance_score"])))
        .collect();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, score)| score).collect()
}

const TEXTS: [&str; 3] = ["the river runs south", "evening", "a node of its own answers"];

/// A model on each of two GPUs, and what comes of them is what the CPU makes in f32.
#[test]
fn models_on_two_gpus_answer_like_the_cpu() {
    let home = machine("5,3");
    let mut text =
        "version = 1\n[http]\naddr = \"127.0.0.1:0\"\n[gpu]\nrequire = true\n[models]\n".to_owned();
    text.push_str(
        "devices = { \"mean\" = \"cuda:1\", \"dense-f16\" = \"cuda:0\", \"cls-bf16-prefixed\" = \"cpu\" }\n",
    );
    let config = home.write("node.toml", text).display().to_string();
    let models = [path("mean"), path("dense-f16"), path("cls-bf16-prefixed")].join(",");
    let args = ["--config", &config, "--gpu-memory", "32MiB", "--preload", &models, "--threads", "1"];
    let gpus = Serving::start(&home, args);
    let names: Vec<_> = gpus.ready["devices"].as_array().expect("devices").iter().collect();
    assert_eq!(names.len(), 3, "{}", gpus.ready);
    assert_eq!(names[1]["name"], "cuda:0 Shoal stand-in");
    let reason = names[2]["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("GPU-03030303-") && reason.contains("takes 32 of 128 MiB, 4 of these"),
        "{reason}"
    );

    let plain = Home::new();
    let args = [
        "--http",
        "127.0.0.1:0",
        "--dtype",
        "f32",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--preload",
        &models,
    ];
    let cpu = Serving::start(&plain, args);
    let [gpu_at, cpu_at] = [&gpus, &cpu].map(|node| node.address("http"));
    for (model, device) in [("mean", "cuda:1 Shoal stand-in"), ("cls-bf16-prefixed", "cpu ")] {
        let (found, on) = embedded(&gpu_at, model, &TEXTS);
        let (expected, _) = embedded(&cpu_at, model, &TEXTS);
        assert!(on.starts_with(device), "{model} on {on}");
        for (found, expected) in found.iter().zip(&expected) {
            let found: Vec<f32> = found.iter().map(|value| *value as f32).collect();
            let cosine = cosine(&found, expected);
            assert!(cosine >= 0.9999, "{model}: cosine {cosine}");
        }
    }
    let [found, expected] = [&gpu_at, &cpu_at].map(|address| scores(address, "dense-f16"));
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 2e-3), "{found:?}, not {expected:?}");
    let metrics = get(&gpu_at, "/metrics");
    let loads: Vec<_> = metrics.lines().filter(|line| line.starts_with("shoal_model_loads_total{")).collect();
    assert!(loads.len() == 3 && loads.iter().all(|line| line.ends_with(" 1")), "one model each: {loads:?}");
}

#[test]
fn what_a_gpu_has_no_kernel_for_is_refused_or_said_to_be_elsewhere() {
    let home = machine("7");
    let model = head("splade-log-6");
    let args = ["serve", "--http", "127.0.0.1:0", "--gpu-memory", "16MiB", "--preload", &model];
    let refused = home.run(args).expect(3);
    assert!(refused.err.contains("CUDA devices do not compute its sparse outputs"), "{}", refused.err);
    assert!(refused.err.contains("gpu.without_kernel"), "{}", refused.err);
    let text = "version = 1\n[http]\naddr = \"127.0.0.1:0\"\n[gpu]\nwithout_kernel = \"cpu\"\n";
    let config = home.write("node.toml", text).display().to_string();
    let args = ["--config", &config, "--gpu-memory", "16MiB", "--threads", "1", "--preload", &model];
    let serving = Serving::start(&home, args);
    let device = |name: &str| {
        let metrics = get(&serving.address("http"), "/metrics");
        let line = metrics.lines().find(|line| {
            line.starts_with("shoal_model_loads_total{") && line.contains(&format!("device_name=\"{name}"))
        });
        line.map(|line| line.ends_with(" 1"))
    };
    assert_eq!((device("cpu"), device("cuda:0")), (Some(true), Some(false)));
}

#[test]
fn a_model_larger_than_the_memory_is_refused_by_name() {
    let home = machine("9");
    let model = path("mean");
    let args = ["serve", "--http", "127.0.0.1:0", "--gpu-memory", "64KiB", "--preload", &model];
    let refused = home.run(args).expect(3);
    let says = |what: &str| assert!(refused.err.contains(what), "{what}: {}", refused.err);
    ["model mean", "bytes, and models on cuda:0 may hold 57344", "gpu.memory_bytes"]
        .into_iter()
        .for_each(says);
}

#[test]
fn a_gpu_that_is_asked_for_is_there_or_the_reason_is() {
    let home = machine("11,12");
    let model = path("mean");
    let encode = |device: &'static str| {
        ["encode", "--model", &model, "--device", device, "--gpu-memory", "16MiB", "--", "the river"]
            .map(str::to_owned)
    };
    let run = |home: &Home, args: &[String], code| home.run(args.iter().map(String::as_str)).expect(code);
    let ran = run(&home, &encode("cuda:1"), 0);
    assert!(ran.err.contains("on cuda:1 Shoal stand-in (GPU-0c0c0c0c-"), "{}", ran.err);
    let missing = run(&home, &encode("cuda:2"), 3);
    assert!(
        missing.err.contains("there is no cuda:2, only cuda:0 Shoal stand-in, cuda:1"),
        "{}",
        missing.err
    );
    let hidden = run(&machine(""), &encode("cuda:0"), 3);
    assert!(hidden.err.contains("CUDA_VISIBLE_DEVICES=\"\" hides"), "{}", hidden.err);
    let contradiction = home.run(["serve", "--require-gpu", "--device", "cpu"]).expect(3);
    assert!(contradiction.err.contains("no GPU: the CPU was asked for"), "{}", contradiction.err);
}
