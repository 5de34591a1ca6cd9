//! The edge in front of a whole node on a tiny checkpoint: right numbers and honest refusals, end to end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use shoal::config::{Environment, Machine, NodeConfig, Overrides, TokenIdsPolicy, resolve};
use shoal::edge::{EdgeOptions, HttpEdge};
use shoal::node::Node;
use shoal_kernels::{Dtype, DtypePolicy};
use shoal_tests::golden::{Case, error_max, tiny_bert, tiny_bert_dir};
use tokio::task::JoinSet;

use super::http::{Connection, Response, bytes_of, request};

const MODEL: &str = "mean";
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node and its edge. The node ends with it.
struct Running {
    node: Node,
    addr: SocketAddr,
    _edge: HttpEdge,
    _home: tempfile::TempDir,
}

impl Running {
    async fn start(configure: impl FnOnce(&mut NodeConfig)) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let path = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        let flags = Overrides {
            http: Some("127.0.0.1:0".to_owned()),
            preload: vec![path(tiny_bert_dir(MODEL))],
            dtype: Some(DtypePolicy::Exact(Dtype::F32)),
            threads: Some(2),
            offline: true,
            ..Overrides::default()
        };
        let home_dir = path(home.path().to_owned());
        let environment = Environment::from_vars([("HOME", home_dir.as_str())]);
        let mut config =
            resolve(None, &flags, &environment, Machine::detect()).expect("a sound configuration");
        configure(&mut config);
        let http = config.http.as_ref().expect("HTTP is on");
        let options = EdgeOptions::from_config(http, &config.models);
        let node = Node::start(config).await.expect("the node starts");
        let edge = HttpEdge::bind(options, node.client(), Arc::new(node.view())).await.expect("a free port");
        Self { addr: edge.local_addr(), node, _edge: edge, _home: home }
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        request(self.addr, "POST", path, "", body.to_string().as_bytes()).await
    }

    async fn get(&self, path: &str) -> Response {
        request(self.addr, "GET", path, "", b"").await
    }

    /// Waits until the node holds no request any more.
    async fn until_idle(&self) {
        let idle = async {
            while self.node.status(false).await.devices[0].load.requests > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, idle).await.expect("every slot is freed");
    }
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).expect("numbers")
}

/// Holds answers against the golden vectors, with the room that the reference's own f32 needs, and some.
fn check(answers: &[Vec<f32>], cases: &[&Case], f32_error_max: f64) {
    assert_eq!(answers.len(), cases.len());
    for (answer, case) in answers.iter().zip(cases) {
        let error = error_max(answer, &case.vector);
        assert!(error <= 4.0 * f32_error_max, "{:?}: off by {error}", case.text);
    }
}

#[tokio::test]
async fn the_dialects_give_the_golden_vectors() {
    let running = Running::start(|_| {}).await;
    let golden = tiny_bert(MODEL);
    let limit = golden.tokens_max as usize;
    let (short, _): (Vec<&Case>, Vec<&Case>) =
        golden.cases.iter().partition(|case| case.tokens_untruncated <= limit);
    let texts: Vec<_> = short.iter().map(|case| case.text.as_str()).collect();
    let body = |format| json!({"model": MODEL, "input": texts, "encoding_format": format});
    let float = running.post("/v1/embeddings", &body("float")).await;
    assert_eq!(float.status, 200, "{}", float.text());
    let answer = float.json();
    let tokens: usize = short.iter().map(|case| case.ids.len()).sum();
    assert_eq!(answer["usage"]["prompt_tokens"], tokens);
    let data = answer["data"].as_array().expect("a list");
    let vectors: Vec<_> = data.iter().map(|entry| floats(&entry["embedding"])).collect();
    check(&vectors, &short, golden.f32_error_max);

    let base64 = running.post("/v1/embeddings", &body("base64")).await.json();
    for (entry, vector) in base64["data"].as_array().expect("a list").iter().zip(&vectors) {
        let text = entry["embedding"].as_str().expect("base64");
        let bytes = STANDARD.decode(text).expect("valid base64");
        let bits: Vec<_> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(bytes, bits, "both forms hold the same bits");
    }

    let all: Vec<&Case> = golden.cases.iter().collect();
    let texts: Vec<_> = all.iter().map(|case| case.text.as_str()).collect();
    let cut = running.post("/embed", &json!({"inputs": texts, "truncate": true})).await;
    assert_eq!(cut.status, 200, "{}", cut.text());
    let truncated = (all.len() - short.len()).to_string();
    assert_eq!(cut.header("x-truncated-inputs"), Some(truncated.as_str()));
    let vectors: Vec<Vec<f32>> = serde_json::from_slice(&cut.body).expect("rows");
    check(&vectors, &all, golden.f32_error_max);

    for prompted in &golden.prompts {
        let name = prompted.prompt_name.as_str();
        let body = json!({"inputs": prompted.text, "prompt_name": name});
        let vectors = running.post("/embed", &body).await;
        let vectors: Vec<Vec<f32>> = serde_json::from_slice(&vectors.body).expect("rows");
        check(&vectors, &[prompted], golden.f32_error_max);
    }
}

#[tokio::test]
async fn what_the_model_cannot_do_is_said() {
    // So that a text over it is not too long for a busy machine to tokenize in time.
    let small = |config: &mut NodeConfig| config.http.as_mut().expect("HTTP is on").request_tokens_max = 1000;
    let running = Running::start(small).await;
    let limit = tiny_bert(MODEL).tokens_max;
    let words = |count: usize| vec!["river"; count].join(" ");
    for (fields, status, param, expected) in [
        (json!({"input": ["a", words(47)]}), 400, "input", "input[1] has 49 tokens".to_owned()),
        (json!({"input": words(1001)}), 400, "input", format!("context length of {limit} tokens")),
        (
            json!({"dimensions": 8}),
            400,
            "dimensions",
            "8 dims were asked for; this model's vectors have 32 dims and cannot be cut".to_owned(),
        ),
        (json!({"model": "gone"}), 404, "model", "served here: ".to_owned()),
        (json!({"input": [[1, 2]]}), 400, "input", "check_embedding_ctx_length=False".to_owned()),
    ] {
        let body = super::extend(json!({"model": MODEL, "input": "x"}), &fields);
        let reply = running.post("/v1/embeddings", &body).await;
        assert_eq!(reply.status, status, "{}", reply.text());
        let error = &reply.json()["error"];
        assert_eq!(error["param"], param, "{error}");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(&expected), "{message}");
    }
    let native = json!({"model": MODEL, "input": "x", "dimensions": 32});
    assert_eq!(running.post("/v1/embeddings", &native).await.status, 200);
}

#[tokio::test]
async fn token_ids_of_the_model_give_its_vectors() {
    let running = Running::start(|config| config.models.token_ids = TokenIdsPolicy::Model).await;
    let golden = tiny_bert(MODEL);
    let case = &golden.cases[0];
    let body = |ids: Value| json!({"model": MODEL, "input": ids});
    let answer = running.post("/v1/embeddings", &body(json!([case.ids]))).await.json();
    check(&[floats(&answer["data"][0]["embedding"])], &[case], golden.f32_error_max);
    let outside = running.post("/v1/embeddings", &body(json!([[2, 3], [2, 40_000, 3]]))).await;
    assert_eq!(outside.status, 400);
    assert!(outside.text().contains("input[1]") && outside.text().contains("40000"), "{}", outside.text());
}

#[tokio::test]
async fn the_node_is_seen_as_it_is() {
    let running = Running::start(|_| {}).await;
    let reply = running.post("/v1/embeddings", &json!({"model": MODEL, "input": "x"})).await;
    let node = running.node.id().to_string();
    assert_eq!(reply.header("x-shoal-node"), Some(node.as_str()));
    assert_eq!(reply.header("x-shoal-device"), Some(running.node.devices()[0].name.as_str()));
    let models = running.get("/v1/models").await.json();
    let model = models["data"].as_array().expect("a list").iter().find(|model| model["id"] == MODEL);
    let model = model.expect("the preloaded model is listed");
    assert_eq!(model["status"], "ready");
    assert_eq!((&model["dims"], &model["tokens_max"]), (&json!(32), &json!(48)), "{model}");
    assert_eq!((&model["pooling"], &model["dtype"]), (&json!("mean"), &json!("f32")), "{model}");
    let info = running.get("/info").await.json();
    assert_eq!((&info["model_id"], &info["max_input_length"]), (&json!(MODEL), &json!(48)));
    assert_eq!(running.get("/readyz").await.status, 200);
    let metrics = running.get("/metrics").await;
    for words in [
        "shoal_ready 1",
        "shoal_model_ready{model=\"mean\"} 1",
        "shoal_stage_duration_seconds_count{model=\"mean\",op=\"encode\",stage=\"compute\"}",
        "shoal_request_duration_seconds_bucket{model=\"mean\",op=\"encode\",le=\"+Inf\"}",
    ] {
        assert!(metrics.text().contains(words), "{words}\n{}", metrics.text());
    }
}

/// The count comes before the work: a device that would take an hour for these texts is not asked.
#[tokio::test]
async fn too_many_tokens_are_refused_before_they_cost_anything() {
    let running = Running::start(|config| {
        config.device.tokens_per_s_max = Some(100);
        config.http.as_mut().expect("HTTP is on").request_tokens_max = 20_000;
    })
    .await;
    let texts = vec!["river ".repeat(40); 500];
    for (path, body) in [
        ("/v1/embeddings", json!({"model": MODEL, "input": texts})),
        ("/embed", json!({"model": MODEL, "inputs": texts, "truncate": true})),
    ] {
        let before = running.node.status(false).await.devices[0].load.batches_done;
        let reply = running.post(path, &body).await;
        assert!([400, 422].contains(&reply.status), "{}", reply.text());
        assert!(reply.text().contains("more than 20000 tokens in all"), "{}", reply.text());
        let after = running.node.status(false).await.devices[0].load.batches_done;
        assert_eq!(before, after, "nothing ran");
    }
}

/// Callers on 32 connections, half of which leave without waiting: the others get what they asked for, and nothing
/// of those who left stays behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_leave_cost_nobody_else() {
    let running = Running::start(|_| {}).await;
    let golden = Arc::new(tiny_bert(MODEL));
    let addr = running.addr;
    let mut callers = JoinSet::new();
    for caller in 0..32 {
        let golden = golden.clone();
        callers.spawn(async move {
            for round in 0..8 {
                let case = &golden.cases[(caller + round) % 9];
                let body = json!({"model": MODEL, "input": case.text}).to_string();
                let bytes = bytes_of("POST", "/v1/embeddings", "", body.as_bytes());
                let mut connection = Connection::open(addr).await;
                connection.send(&bytes).await;
                if caller % 2 == 0 {
                    continue;
                }
                let answer = connection.response().await.json();
                let vector = floats(&answer["data"][0]["embedding"]);
                check(&[vector], &[case], golden.f32_error_max);
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.expect("no caller fails");
    }
    running.until_idle().await;
}

/// A device that is slow by configuration, with room for a few texts: the rest is told when to come back.
#[tokio::test]
async fn a_full_queue_is_a_429_with_a_measured_hint() {
    let running = Running::start(|config| {
        config.device.tokens_per_s_max = Some(200);
        config.device.queue_tokens_max = 100;
    })
    .await;
    let body = json!({"model": MODEL, "input": vec!["river"; 40].join(" ")}).to_string();
    let bytes = bytes_of("POST", "/v1/embeddings", "x-request-timeout-ms: 20000\r\n", body.as_bytes());
    let mut callers = Vec::new();
    for _ in 0..12 {
        let mut caller = Connection::open(running.addr).await;
        caller.send(&bytes).await;
        callers.push(caller);
    }
    let mut statuses = Vec::new();
    for mut caller in callers {
        let reply = caller.response().await;
        if reply.status == 429 {
            let after = reply.header("retry-after-ms").and_then(|after| after.parse::<u64>().ok());
            assert!(after.is_some_and(|after| (1..=120_000).contains(&after)), "{after:?}");
            assert_eq!(reply.header("x-should-retry"), Some("true"));
            assert_eq!(reply.json()["error"]["code"], "overloaded");
        }
        statuses.push(reply.status);
    }
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert!(count(200) >= 1 && count(429) >= 1, "{statuses:?}");
    assert_eq!(count(200) + count(429), statuses.len(), "{statuses:?}");
    running.until_idle().await;
}
