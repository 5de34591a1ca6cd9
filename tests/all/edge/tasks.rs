//! Rerankers' dialects, TEI's sparse vectors and labels, and the primitives as they are.

use serde_json::{Value, json};

use super::{Edge, extend};

fn near(value: &Value, expected: f64) {
    assert!(
        (value.as_f64().expect("a number") - expected).abs() < 1e-6,
        "{value} where {expected} was expected"
    );
}

fn indices(results: &Value) -> Vec<u64> {
    results.as_array().expect("a list").iter().filter_map(|result| result["index"].as_u64()).collect()
}

#[tokio::test]
async fn texts_are_reranked_as_tei_does_it() {
    let edge = Edge::start(|_| {}).await;
    let body = json!({"model": "hash", "query": "a b c", "texts": ["x", "a b", "a", "b a"]});
    for path in ["/rerank", "/v1/rerank"] {
        let reply = edge.post(path, &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let rows = reply.json();
        assert_eq!(indices(&rows), [1, 3, 2, 0], "best first, equal ones in order");
        near(&rows[0]["score"], 0.2);
        assert_eq!(rows[0].as_object().expect("a row").len(), 2, "{}", rows[0]);
        assert_eq!(reply.header("x-compute-tokens"), Some("14"));
    }
    let told = extend(body, &json!({"return_text": true, "raw_scores": true, "top_n": 2}));
    let rows = edge.post("/rerank", &told).await.json();
    assert_eq!(rows.as_array().map(Vec::len), Some(2));
    assert_eq!(rows[0]["text"], "a b");
    near(&rows[0]["score"], 2.0);
}

#[tokio::test]
async fn documents_are_reranked_as_cohere_and_jina_do_it() {
    let edge = Edge::start(|options| options.default_model = Some("hash".into())).await;
    let long = "a ".repeat(9);
    let body = json!({"model": "hash", "query": "a b", "documents": ["x", {"text": "b a"}, &long], "return_documents": true});
    let reply = edge.post("/v2/rerank", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let json = reply.json();
    assert_eq!((&json["object"], &json["model"]), (&json!("rerank"), &json!("hash")));
    assert_eq!(indices(&json["results"]), [2, 1, 0], "a long document is cut and not refused");
    assert_eq!(reply.header("x-truncated-inputs"), Some("1"));
    assert_eq!(json["results"][1]["document"], json!({"text": "b a"}));
    near(&json["results"][1]["relevance_score"], 0.2);
    assert_eq!(json["usage"]["total_tokens"], json["usage"]["prompt_tokens"]);
    assert!(json["id"].is_string() && json["created"].is_u64() && json["meta"]["billed_units"].is_object());
    let few =
        edge.post("/rerank", &json!({"query": "a b", "documents": ["x", "a"], "top_n": 1})).await.json();
    assert_eq!((indices(&few["results"]), few["results"][0].get("document")), (vec![1], None));
    let refused = extend(body, &json!({"truncate": false}));
    assert_eq!(edge.post("/v1/rerank", &refused).await.status, 400);
}

#[tokio::test]
async fn bad_reranks_are_refused_in_the_routes_dialect() {
    let edge = Edge::start(|_| {}).await;
    for (extra, words) in [
        (json!({"documents": null}), "is missing"),
        (json!({"texts": ["x"]}), "not both"),
        (json!({"query": null}), "`query` is missing"),
        (json!({"top_n": 0}), "at least 1"),
        (json!({"documents": []}), "is empty"),
        (json!({"documents": [1]}), "a text or an object"),
        (json!({"query": "q".repeat(300_000)}), "query too long"),
        (json!({"model": "gone"}), "does not exist"),
    ] {
        let body = extend(json!({"model": "hash", "query": "q", "documents": ["x"]}), &extra);
        let cohere = edge.post("/v1/rerank", &body).await;
        assert!((400..=404).contains(&cohere.status), "{extra}: {}", cohere.text());
        let json = cohere.json();
        assert_eq!(json["message"], json["error"]["message"], "{extra}");
        assert!(json["message"].as_str().is_some_and(|message| message.contains(words)), "{extra}: {json}");
        let tei = edge.post("/rerank", &body).await.json();
        assert!(tei["error"].is_string() && tei["error_type"].is_string(), "{tei}");
    }
    let unsupported = json!({"model": "model_unsupported", "query": "q", "documents": ["x"]});
    assert_eq!(edge.post("/v1/rerank", &unsupported).await.status, 422);
}

#[tokio::test]
async fn sparse_vectors_and_labels_are_teis() {
    let edge = Edge::start(|options| options.default_model = Some("hash".into())).await;
    let sparse = edge.post("/embed_sparse", &json!({"inputs": ["abc", ""]})).await.json();
    assert_eq!(sparse, json!([[{"index": 3, "value": 0.5}], [{"index": 0, "value": 0.5}]]));
    let one = edge.post("/predict", &json!({"inputs": "abc"})).await;
    assert_eq!(one.status, 200, "{}", one.text());
    let one = one.json();
    assert_eq!((&one[0]["label"], &one[1]["label"]), (&json!("spam"), &json!("ham")));
    near(&one[0]["score"], 0.9);
    let many = edge.post("/predict", &json!({"inputs": [["a"], ["b"]]})).await.json();
    assert_eq!(many.as_array().map(Vec::len), Some(2));
    assert_eq!(many[1][0]["label"], "spam");
    for (inputs, words) in [
        (json!(["a", "b"]), "pairs of texts"),
        (json!([["a", "b"]]), "pairs of texts"),
        (json!(3), "a text, a pair"),
        (json!(null), "missing"),
    ] {
        let refused = edge.post("/predict", &json!({"inputs": inputs})).await;
        assert!(
            (400..=422).contains(&refused.status) && refused.text().contains(words),
            "{}",
            refused.text()
        );
    }
    let spans = edge.post("/predict", &json!({"inputs": "Ada", "model": "mrl"})).await;
    assert!(spans.text().contains("labels spans, not texts"), "{}", spans.text());
}

#[tokio::test]
async fn the_primitives_are_served_as_they_are() {
    let edge = Edge::start(|_| {}).await;
    let items = json!([{"id": "first", "text": "say Ada"}, "b c"]);
    let params = json!({"output_types": ["dense", "sparse"]});
    let encoded = edge.post("/v1/encode/org/hash", &json!({"items": items, "params": params})).await;
    assert_eq!(encoded.status, 200, "{}", encoded.text());
    let encoded = encoded.json();
    assert_eq!((&encoded["model"], &encoded["items"][0]["id"]), (&json!("org/hash"), &json!("first")));
    let dense = &encoded["items"][1]["dense"];
    assert_eq!((&dense["dims"], &dense["dtype"]), (&json!(8), &json!("float32")));
    assert_eq!(dense["values"].as_array().map(Vec::len), Some(8));
    assert_eq!(encoded["items"][1]["sparse"], json!({"indices": [3], "values": [0.5]}));
    assert!(encoded["timing"]["total_ms"].is_number());

    let scored = edge.post("/v1/score/hash", &json!({"query": "b c", "items": items})).await.json();
    let best = &scored["scores"][0];
    assert_eq!((&best["item_id"], &best["index"], &best["rank"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(scored["scores"][1]["item_id"], "first");

    let labels = json!({"labels": ["person"], "options": {"threshold": 0.5}});
    let found = edge.post("/v1/extract/mrl", &json!({"items": items, "params": labels})).await.json();
    assert_eq!(
        found["items"][0]["entities"],
        json!([{"text": "Ada", "label": "person", "score": 0.75, "start": 4, "end": 7}])
    );
    assert_eq!(found["items"][1]["entities"], json!([]));
    let classes = edge.post("/v1/extract/hash", &json!({"items": ["x"], "params": labels})).await.json();
    assert_eq!(
        classes["items"][0]["classifications"].as_array().map(Vec::len),
        Some(1),
        "over the threshold"
    );

    for (path, body, words) in [
        ("/v1/score/hash", json!({"items": ["x"]}), "`query` is missing"),
        ("/v1/encode/hash", json!({"items": []}), "is empty"),
        ("/v1/encode/hash", json!({"items": [{"id": 1}]}), "an object with a `text`"),
        ("/v1/extract/hash", json!({"items": ["x"], "params": {"labels": [""]}}), "an empty label"),
        (
            "/v1/extract/hash",
            json!({"items": ["x"], "params": {"labels": ["a", "a"]}}),
            "the same label twice",
        ),
    ] {
        let refused = edge.post(path, &body).await;
        assert_eq!(refused.status, 400, "{path}: {}", refused.text());
        let told = refused.json()["error"]["message"].to_string();
        assert!(told.contains(words), "{path}: {told}");
    }
}
