//! `/v1/embeddings` and `/v1/models` as OpenAI's clients speak them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use shoal::config::TokenIdsPolicy;
use shoal_protocol::message::Input;

use super::service::{DEVICE, DIMS, NODE, vector};
use super::{Edge, extend, table};

fn floats(value: &Value) -> Vec<f32> {
    let number = |value: &Value| value.as_f64().expect("a number") as f32;
    value.as_array().expect("a list").iter().map(number).collect()
}

#[tokio::test]
async fn one_text_and_many_get_their_vectors_in_order() {
    let edge = Edge::start(|_| {}).await;
    let texts = ["a text", "", "héllo wörld\n", "a text"];
    let one = edge.post("/v1/embeddings", &json!({"model": "hash", "input": texts[0]})).await;
    assert_eq!(one.status, 200, "{}", one.text());
    let many = edge
        .post("/v1/embeddings", &json!({"model": "hash", "input": texts, "user": "u", "more": {"x": [1]}}))
        .await;
    let body = many.json();
    assert_eq!(body["object"], "list");
    assert_eq!(body["model"], "hash");
    assert_eq!(body["usage"], json!({"prompt_tokens": 14, "total_tokens": 14}));
    let data = body["data"].as_array().expect("data");
    assert_eq!(data.len(), texts.len());
    for (index, (entry, text)) in data.iter().zip(texts).enumerate() {
        assert_eq!(entry["object"], "embedding");
        assert_eq!(entry["index"], index);
        assert_eq!(floats(&entry["embedding"]), vector(&Input::Text(text.into())), "{text:?}");
    }
    assert_eq!(one.json()["data"][0], data[0]);
}

#[tokio::test]
async fn base64_holds_the_same_bits() {
    let edge = Edge::start(|_| {}).await;
    let request = |format| json!({"model": "hash", "input": ["x", "y z"], "encoding_format": format});
    let base64 = edge.post("/v1/embeddings", &request("base64")).await.json();
    let float = edge.post("/v1/embeddings", &request("float")).await.json();
    for index in 0..2 {
        let text = base64["data"][index]["embedding"].as_str().expect("base64");
        let bytes = STANDARD.decode(text).expect("valid base64");
        let (values, rest) = bytes.as_chunks::<4>();
        let values: Vec<_> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert!(rest.is_empty() && values.len() == DIMS);
        assert_eq!(values, floats(&float["data"][index]["embedding"]));
    }
}

#[tokio::test]
async fn every_reply_says_where_it_ran_and_where_the_time_went() {
    let edge = Edge::start(|_| {}).await;
    let reply = edge.post("/v1/embeddings", &json!({"model": "hash", "input": "x"})).await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("x-shoal-device"), Some(DEVICE));
    assert_eq!(reply.header("x-shoal-node"), Some(NODE.to_string().as_str()));
    let minted = reply.header("x-request-id").expect("an id");
    assert_eq!(minted.len(), 32, "{minted}");
    assert!(minted.ends_with(&NODE.to_string()[..16]), "{minted} names the node");
    let timing = reply.header("server-timing").expect("timings");
    for stage in ["tokenize;dur=1.250", "queue;dur=2.000", "compute;dur=3.999", "parse;dur=0.", "total;dur="]
    {
        assert!(timing.contains(stage), "{timing}");
    }
    let body = json!({"model": "hash", "input": "x"}).to_string();
    for (sent, echoed) in [("my-id.7", true), ("with space", false)] {
        let headers = format!("x-request-id: {sent}\r\n");
        let reply = super::request(edge.addr, "POST", "/v1/embeddings", &headers, body.as_bytes()).await;
        let id = reply.header("x-request-id").expect("an id");
        assert_eq!(id == sent, echoed, "{id}");
        assert_eq!(reply.header("x-shoal-request-id").is_some(), echoed);
    }
    let error = edge.get("/v1/nothing").await;
    assert!(error.header("x-request-id").is_some() && error.header("server-timing").is_some());
}

/// What is put on top of a sound request (`null` leaves a field out); then the status, `param` and `code` of its error
/// and some of its words.
const REFUSALS: &str = r#"
{"input": []} | 400 | input | invalid_value | `input` is empty
{"input": null} | 400 | input | invalid_value | `input`: invalid type: null
{"model": null} | 400 | model | invalid_value | `model` is missing
{"input": 5} | 400 | input | invalid_value | integer `5`
{"input": ["a", null]} | 400 | input | invalid_value | null
{"model": 5} | 400 | model | invalid_value | integer `5`
{"encoding_format": "hex"} | 400 | encoding_format | invalid_value | `hex`
{"dimensions": 0} | 400 | dimensions | invalid_value | from 1
{"dimensions": -3} | 400 | dimensions | invalid_value | -3
{"dimensions": 1.5} | 400 | dimensions | invalid_value | 1.5
{"dimensions": 4} | 400 | dimensions | invalid_request | cannot be cut
{"input": [1, 2]} | 400 | input | invalid_value | check_embedding_ctx_length=False
{"input": ["a", [1]]} | 400 | input | invalid_value | input[1] is a token array
{"input": ["a", "b c d e f g h", "b c d e f g h"]} | 400 | input | context_length_exceeded | input[1] has 9 tokens
{"input": "b c d e f g h"} | 400 | input | context_length_exceeded | this model's maximum context length of 8 tokens
{"model": "gone"} | 404 | model | model_not_found | served here: hash, mrl, org/stored
{"model": "nan"} | 500 | - | internal | not finite
{"model": "model_unsupported"} | 422 | - | model_unsupported | as asked
{"model": "model_broken"} | 500 | - | model_broken | as asked
{"model": "device_failed"} | 500 | - | device_failed | as asked
{"model": "forbidden"} | 403 | - | forbidden | as asked
{"model": "deadline_exceeded"} | 504 | - | deadline_exceeded | as asked
"#;

#[tokio::test]
async fn refusals_have_openais_form_and_name_the_field() {
    let edge = Edge::start(|_| {}).await;
    for [fields, status, param, code, words] in table(REFUSALS) {
        let fields = serde_json::from_str(fields).expect(fields);
        let request = extend(json!({"model": "hash", "input": "x"}), &fields);
        let reply = edge.post("/v1/embeddings", &request).await;
        assert_eq!(reply.status.to_string(), status, "{fields}: {}", reply.text());
        let error = &reply.json()["error"];
        assert_eq!(error["param"].as_str().unwrap_or("-"), param, "{fields}: {error}");
        assert_eq!(error["code"], code, "{fields}: {error}");
        assert!(error["type"].is_string(), "{fields}: {error}");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(words), "{fields}: {message}");
    }
    let missing = edge.post("/v1/embeddings", &json!({"model": "hash"})).await;
    assert!(missing.text().contains("`input` is missing"), "{}", missing.text());
}

#[tokio::test]
async fn dimensions_are_cut_where_the_model_allows_it() {
    let edge = Edge::start(|_| {}).await;
    for (model, dims) in [("mrl", 3), ("hash", DIMS)] {
        let request = json!({"model": model, "input": "x", "dimensions": dims});
        let reply = edge.post("/v1/embeddings", &request).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(floats(&reply.json()["data"][0]["embedding"]).len(), dims);
    }
}

#[tokio::test]
async fn token_arrays_are_ids_of_the_model_where_configured() {
    let edge = Edge::start(|options| options.token_ids = TokenIdsPolicy::Model).await;
    let request = |input: Value| json!({"model": "hash", "input": input});
    let reply = edge.post("/v1/embeddings", &request(json!([[1, 2, 3], [99]]))).await;
    let body = reply.json();
    assert_eq!(body["usage"]["total_tokens"], 4, "{body}");
    assert_eq!(floats(&body["data"][0]["embedding"]), vector(&Input::TokenIds(vec![1, 2, 3])));
    let single = edge.post("/v1/embeddings", &request(json!([1, 2, 3]))).await.json();
    assert_eq!(single["data"][0], body["data"][0]);
    for (input, words) in [
        (json!([[1], [100]]), "input[1]: token id 100 is outside"),
        (json!([[1], []]), "input[1] is an empty token array"),
        (json!([-1]), "a token array or a token id"),
        (json!([1, 2, 3, 4, 5, 6, 7, 8, 9]), "input[0] has 9 tokens"),
    ] {
        let reply = edge.post("/v1/embeddings", &request(input)).await;
        assert_eq!(reply.status, 400);
        let message = reply.json()["error"]["message"].to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn a_request_is_bounded_in_texts_and_tokens() {
    let edge = Edge::start(|options| options.token_ids = TokenIdsPolicy::Model).await;
    let request = |input: Value| json!({"model": "hash", "input": input});
    let most = edge.post("/v1/embeddings", &request(json!(vec!["a"; 2048]))).await;
    assert_eq!(most.status, 200);
    assert_eq!(most.json()["data"].as_array().unwrap().len(), 2048);
    let over = edge.post("/v1/embeddings", &request(json!(vec!["a"; 2049]))).await;
    assert_eq!(over.status, 400);
    assert!(over.text().contains("2049 texts; at most 2048"), "{}", over.text());
    let ids: Vec<Vec<u32>> = (0..1001).map(|index| vec![7; if index == 0 { 1 } else { 300 }]).collect();
    let over = edge.post("/v1/embeddings", &request(json!(ids))).await;
    assert_eq!(over.status, 400);
    assert!(over.text().contains("300001 tokens in all; at most 300000"), "{}", over.text());

    let small = Edge::start(|options| options.limits.tokens_max = 10).await;
    let fits = small.post("/v1/embeddings", &request(json!(["a b c", "d e f"]))).await;
    assert_eq!(fits.status, 200);
    let over = small.post("/v1/embeddings", &request(json!(["a b c", "d e f", ""]))).await;
    assert_eq!(over.status, 400);
    assert!(over.text().contains("more than 10 tokens in all"), "{}", over.text());
}

#[tokio::test]
async fn overload_and_draining_say_when_to_come_back() {
    let edge = Edge::start(|_| {}).await;
    for (model, status) in [("overloaded", 429), ("draining", 503)] {
        let reply = edge.post("/v1/embeddings", &json!({"model": model, "input": "x"})).await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("retry-after"), Some("2"));
        assert_eq!(reply.header("retry-after-ms"), Some("1500"));
        assert_eq!(reply.header("x-should-retry"), Some("true"));
        assert_eq!(reply.json()["error"]["code"], model);
    }
    let late = edge.post("/v1/embeddings", &json!({"model": "deadline_exceeded", "input": "x"})).await;
    assert_eq!(late.header("x-should-retry"), Some("false"));
    assert_eq!(late.header("retry-after"), None);
}

#[tokio::test]
async fn models_are_listed_with_their_state() {
    let edge = Edge::start(|_| {}).await;
    let list = edge.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!(names, ["hash", "mrl", "org/stored"]);
    let hash = &list["data"][0];
    assert_eq!((hash["object"].as_str(), hash["status"].as_str()), (Some("model"), Some("ready")));
    assert_eq!((hash["dims"].as_u64(), hash["tokens_max"].as_u64()), (Some(8), Some(8)));
    assert_eq!(hash["device"], DEVICE);
    assert!(hash["created"].as_u64().is_some_and(|created| created > 1_700_000_000));
    assert_eq!(edge.get("/v1/models/hash-alias").await.json(), *hash);
    for path in ["/v1/models/org/stored", "/v1/models/org%2Fstored"] {
        let stored = edge.get(path).await.json();
        assert_eq!(stored["id"], "org/stored", "{path}");
        assert_eq!((&stored["dims"], &stored["device"]), (&Value::Null, &Value::Null));
    }
    let gone = edge.get("/v1/models/gone").await;
    assert_eq!(gone.status, 404);
    assert_eq!(gone.json()["error"]["code"], "model_not_found");
}
