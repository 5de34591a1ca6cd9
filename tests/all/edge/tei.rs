//! The dialect of text-embeddings-inference.

use serde_json::{Value, json};
use shoal::config::TokenIdsPolicy;
use shoal_protocol::message::Input;

use super::service::{DEVICE, vector};
use super::{Edge, extend, request, table};

fn rows(value: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).expect("a list of lists of numbers")
}

#[tokio::test]
async fn embed_answers_a_list_of_vectors() {
    let edge = Edge::start(|options| options.default_model = Some("hash".into())).await;
    let expected = vector(&Input::Text("a b".into())).to_vec();
    for path in ["/embed", "/", "/m/hash/embed", "/m/hash", "/m/org/hash/embed", "/m/org%2Fhash/embed"] {
        let reply = edge.post(path, &json!({"inputs": "a b", "normalize": true, "prompt_name": null})).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_eq!(rows(&reply.json()), [expected.as_slice()], "{path}");
        for (name, value) in [
            ("x-compute-type", DEVICE),
            ("x-compute-characters", "3"),
            ("x-compute-tokens", "4"),
            ("x-tokenization-time", "1"),
            ("x-queue-time", "2"),
            ("x-inference-time", "3"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{name}");
        }
        assert!(reply.header("x-total-time").is_some_and(|time| time.parse::<u64>().is_ok()));
    }
    let many = edge.post("/embed", &json!({"inputs": ["a b", "c"]})).await.json();
    assert_eq!(rows(&many)[0], expected);
    assert_eq!(rows(&many).len(), 2);
}

#[tokio::test]
async fn the_model_comes_from_path_body_header_or_default() {
    let edge = Edge::start(|_| {}).await;
    let ask = async |path: &str, header: &str, body: Value| {
        let body = body.to_string();
        request(edge.addr, "POST", path, header, body.as_bytes()).await
    };
    let text = || json!({"inputs": "x"});
    let none = ask("/embed", "", text()).await;
    assert_eq!(none.status, 422);
    assert!(none.text().contains("no model is named"), "{}", none.text());
    assert_eq!(ask("/embed", "x-model: hash\r\n", text()).await.status, 200);
    assert_eq!(ask("/embed", "x-model: gone\r\n", json!({"inputs": "x", "model": "hash"})).await.status, 200);
    assert_eq!(ask("/m/hash/embed", "", json!({"inputs": "x", "model": "gone"})).await.status, 200);
    assert_eq!(ask("/m/gone/embed", "x-model: hash\r\n", text()).await.status, 404);
}

#[tokio::test]
async fn long_texts_are_refused_or_cut_as_asked() {
    let edge = Edge::start(|_| {}).await;
    let ask = async |extra: Value| {
        let body = extend(json!({"inputs": ["short", "a b c d e f g"], "model": "hash"}), &extra);
        edge.post("/embed", &body).await
    };
    for extra in [json!({}), json!({"truncate": false}), json!({"truncate": null})] {
        let refused = ask(extra).await;
        assert_eq!(refused.status, 422);
        let error = refused.json();
        assert_eq!(error["error_type"], "Validation");
        let message = error["error"].as_str().unwrap();
        assert!(
            message.contains("inputs[1] has 9 tokens") && message.contains("\"truncate\": true"),
            "{message}"
        );
    }
    for direction in ["Left", "left", "Right", "right"] {
        let cut = ask(json!({"truncate": true, "truncation_direction": direction})).await;
        assert_eq!(cut.status, 200, "{}", cut.text());
        assert_eq!(cut.header("x-truncated-inputs"), Some("1"));
    }
    assert_eq!(ask(json!({"truncation_direction": "up"})).await.status, 422);
    let auto = Edge::start(|options| options.tei_auto_truncate = true).await;
    let body = json!({"inputs": "a b c d e f g", "model": "hash"});
    assert_eq!(auto.post("/embed", &body).await.status, 200);
}

/// What is put on top of a request that names the model; then the status and `error_type` and some of the words.
const REFUSALS: &str = r#"
{"inputs": []} | 400 | Empty | `inputs` is empty
{} | 422 | Validation | `inputs` is missing
{"inputs": {"a": 1}} | 422 | Validation | expected a text
{"inputs": "x", "truncate": "yes"} | 422 | Validation | `truncate`
{"inputs": "x", "dimensions": 0} | 422 | Validation | `dimensions`
{"inputs": "x", "dimensions": 4} | 422 | Validation | cannot be cut
{"inputs": "x", "encoding_format": "base64"} | 422 | Validation | base64
{"inputs": [[1], [500]]} | 422 | Validation | inputs[1]: token id 500
{"inputs": ["a", "b", "c", "d"]} | 422 | Validation | 4 texts; at most 3
{"inputs": "x", "model": "overloaded"} | 429 | Overloaded | as asked
{"inputs": "x", "model": "draining"} | 503 | Unhealthy | as asked
{"inputs": "x", "model": "unavailable"} | 503 | Unhealthy | as asked
{"inputs": "x", "model": "device_failed"} | 424 | Backend | as asked
{"inputs": "x", "model": "gone"} | 404 | Validation | served here: hash
"#;

#[tokio::test]
async fn errors_have_teis_form_and_statuses() {
    let edge = Edge::start(|options| {
        options.token_ids = TokenIdsPolicy::Model;
        options.limits.items_max = 3;
    })
    .await;
    for [fields, status, error_type, words] in table(REFUSALS) {
        let fields = serde_json::from_str(fields).expect(fields);
        let reply = edge.post("/embed", &extend(json!({"model": "hash"}), &fields)).await;
        assert_eq!(reply.status.to_string(), status, "{fields}: {}", reply.text());
        let error = reply.json();
        assert_eq!(error["error_type"], error_type, "{fields}");
        assert!(error["error"].as_str().is_some_and(|error| error.contains(words)), "{fields}: {error}");
        assert_eq!(reply.header("retry-after").is_some(), ["429", "503"].contains(&status));
    }
}

#[tokio::test]
async fn info_tells_what_the_model_takes() {
    let edge = Edge::start(|options| options.default_model = Some("hash-alias".into())).await;
    let info = edge.get("/info").await.json();
    assert_eq!(info["model_id"], "hash");
    assert_eq!(info["model_dtype"], "float32");
    assert_eq!(info["model_type"]["embedding"]["pooling"], "mean");
    assert_eq!(info["max_input_length"], 8);
    assert_eq!(info["max_client_batch_size"], 2048);
    assert_eq!(info["auto_truncate"], false);
    let stored = request(edge.addr, "GET", "/info", "x-model: org/stored\r\n", b"").await.json();
    assert_eq!(stored["max_input_length"], Value::Null);
    assert_eq!(stored["model_type"]["embedding"]["pooling"], Value::Null);
}
