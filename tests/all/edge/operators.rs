//! What operators rely on: keys, probes, metrics, bounds, callers that leave, and leaving itself.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use shoal::config::ApiKeys;
use shoal::edge::{BindError, EdgeOptions, EdgeShutdown, HttpEdge};
use shoal_mesh::Client;

use super::http::{Connection, bytes_of};
use super::{Edge, request};

const KEY: &str = "0123456789abcdef-key";

fn keys() -> ApiKeys {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("keys");
    std::fs::write(&file, format!("{KEY}\nanother-key-0123456789\n")).expect("written");
    ApiKeys::read(&file).expect("two keys")
}

fn slow() -> Vec<u8> {
    bytes_of("POST", "/v1/embeddings", "", br#"{"model":"slow","input":"x"}"#)
}

#[tokio::test]
async fn keys_guard_everything_but_probes_and_metrics() {
    let edge = Edge::start(|options| options.api_keys = Some(keys())).await;
    let body = br#"{"model":"hash","input":"x","inputs":"x"}"#;
    for (header, status) in [
        (String::new(), 401),
        (format!("authorization: Bearer {KEY}\r\n"), 200),
        (format!("Authorization: bearer {KEY}\r\n"), 200),
        (format!("authorization: {KEY}\r\n"), 200),
        ("authorization: Bearer another-key-0123456789\r\n".to_owned(), 200),
        (format!("authorization: Bearer {KEY}x\r\n"), 401),
        ("authorization: Bearer \r\n".to_owned(), 401),
        (format!("authorization: Basic {KEY}\r\n"), 401),
        (format!("x-api-key: {KEY}\r\n"), 401),
    ] {
        for path in ["/v1/embeddings", "/embed"] {
            let reply = request(edge.addr, "POST", path, &header, body).await;
            assert_eq!(reply.status, status, "{path} {header}: {}", reply.text());
            assert_eq!(reply.header("www-authenticate"), (status == 401).then_some("Bearer"));
        }
    }
    let refused = edge.post("/v1/embeddings", &json!({})).await;
    assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
    for path in ["/v1/models", "/info", "/nothing"] {
        assert_eq!(edge.get(path).await.status, 401, "{path}");
    }
    for path in ["/healthz", "/health", "/readyz", "/metrics"] {
        assert_eq!(edge.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn readiness_says_why_not() {
    let edge = Edge::start(|_| {}).await;
    assert_eq!(edge.get("/readyz").await.json(), json!({"ready": true, "reasons": []}));
    *edge.view.0.lock().unwrap() = vec!["draining".into()];
    let reply = edge.get("/readyz").await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json(), json!({"ready": false, "reasons": ["draining"]}));
    assert_eq!(edge.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn metrics_come_in_both_forms() {
    let edge = Edge::start(|_| {}).await;
    edge.post("/v1/embeddings", &json!({"model": "hash", "input": "x"})).await;
    edge.post("/v1/embeddings", &json!({"model": "overloaded", "input": "x"})).await;
    let prometheus = edge.get("/metrics").await;
    assert_eq!(prometheus.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "# TYPE shoal_http_requests_total counter",
        "shoal_http_requests_total{route=\"/v1/embeddings\",status=\"200\"} 1",
        "shoal_http_requests_total{route=\"/v1/embeddings\",status=\"429\"} 1",
        "shoal_http_request_duration_seconds_count{route=\"/v1/embeddings\"} 2",
        "shoal_queue_tokens{device=\"0\",device_name=\"cpu hash\"} 321",
        "shoal_requests_shed_total{device=\"0\",device_name=\"cpu hash\"} 3",
        "shoal_model_requests_total{model=\"hash\"} 7",
        "shoal_model_ready{model=\"org/stored\"} 0",
        "shoal_ready 1",
        "shoal_uptime_seconds 5",
    ] {
        assert!(prometheus.text().lines().any(|found| found == line), "{line}\n{}", prometheus.text());
    }
    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let open = request(edge.addr, "GET", "/metrics", accept, b"").await;
    assert!(open.text().ends_with("# EOF\n"));
    assert!(open.text().contains("# TYPE shoal_http_requests counter\n"));
}

#[tokio::test]
async fn requests_beyond_the_bound_are_told_to_come_back() {
    let edge = Edge::start(|options| options.limits.requests_max = 1).await;
    let mut first = Connection::open(edge.addr).await;
    first.send(&slow()).await;
    edge.service.until_waiting(1).await;
    let second = edge.post("/v1/embeddings", &json!({"model": "hash", "input": "x"})).await;
    assert_eq!(second.status, 429);
    assert_eq!(second.header("retry-after"), Some("1"));
    assert_eq!(edge.get("/healthz").await.status, 200, "probes need no room");
    edge.service.release.notify_one();
    assert_eq!(first.response().await.status, 200);
    assert_eq!(edge.get("/v1/models").await.status, 200);
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so() {
    let edge = Edge::start(|options| options.limits.connections_max = 1).await;
    let mut first = Connection::open(edge.addr).await;
    let ok = bytes_of("GET", "/healthz", "", b"");
    assert_eq!(first.exchange(&ok).await.status, 200);
    let mut second = Connection::open(edge.addr).await;
    let refused = second.exchange(&ok).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"]["code"], "too_many_connections");
    assert!(second.is_closed().await);
    assert_eq!(first.exchange(&ok).await.status, 200, "the first one lives on");
}

#[tokio::test]
async fn a_caller_that_leaves_frees_its_slot() {
    let edge = Edge::start(|_| {}).await;
    let mut caller = Connection::open(edge.addr).await;
    caller.send(&slow()).await;
    edge.service.until_waiting(1).await;
    drop(caller);
    edge.service.until_waiting(0).await;
    let metrics = edge.get("/metrics").await;
    let counted = "shoal_http_requests_total{route=\"/v1/embeddings\",status=\"499\"} 1";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
}

#[tokio::test]
async fn a_trace_crosses_to_the_node() {
    let edge = Edge::start(|_| {}).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let seen = async |headers: &str| {
        let body = br#"{"model":"hash","input":"x"}"#;
        let reply = request(edge.addr, "POST", "/v1/embeddings", headers, body).await;
        assert_eq!(reply.status, 200);
        let id = reply.header("x-request-id").expect("an id").to_owned();
        (*edge.service.trace.lock().expect("no panic under it"), id)
    };
    let (trace, id) = seen(&format!("traceparent: {parent}\r\n")).await;
    // The node's span hangs below this request's, whose id is the caller's part of the request id.
    let below = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", &id[..16]);
    assert_eq!(trace.map(|trace| trace.to_string()), Some(below));
    for broken in [
        String::new(),
        "traceparent: 00-short\r\n".to_owned(),
        format!("traceparent: {}\r\n", parent.to_uppercase()),
        format!("traceparent: {parent}\r\ntraceparent: {parent}\r\n"),
        format!("traceparent: {parent}{}\r\n", "-x".repeat(2000)),
    ] {
        assert_eq!(seen(&broken).await.0, None, "{broken}");
    }
}

#[tokio::test]
async fn a_deadline_ends_the_request_and_frees_its_slot() {
    let edge = Edge::start(|_| {}).await;
    let body = br#"{"model":"slow","input":"x"}"#;
    let ask = async |timeout: &str| {
        let header = format!("x-request-timeout-ms: {timeout}\r\n");
        request(edge.addr, "POST", "/v1/embeddings", &header, body).await
    };
    let late = ask("30").await;
    assert_eq!(late.status, 504);
    assert_eq!(late.json()["error"]["code"], "deadline_exceeded");
    edge.service.until_waiting(0).await;
    for wrong in ["0", "-1", "soon", "600001"] {
        assert_eq!(ask(wrong).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn shutdown_finishes_what_has_begun() {
    let edge = Edge::start(|_| {}).await;
    let mut idle = Connection::open(edge.addr).await;
    assert_eq!(idle.exchange(&bytes_of("GET", "/healthz", "", b"")).await.status, 200);
    let mut busy = Connection::open(edge.addr).await;
    busy.send(&slow()).await;
    edge.service.until_waiting(1).await;
    let shutdown = edge.edge.shutdown(Duration::from_secs(10));
    let finish = async {
        assert!(idle.is_closed().await, "an idle connection ends at once");
        edge.service.release.notify_one();
        let reply = busy.response().await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("connection"), Some("close"));
    };
    let (ended, ()) = tokio::join!(shutdown, finish);
    assert_eq!(ended, EdgeShutdown { cut: 0 });
    let refused = tokio::net::TcpStream::connect(edge.addr).await;
    assert!(refused.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn shutdown_cuts_what_does_not_finish() {
    let edge = Edge::start(|_| {}).await;
    let mut busy = Connection::open(edge.addr).await;
    busy.send(&slow()).await;
    edge.service.until_waiting(1).await;
    let ended = edge.edge.shutdown(Duration::from_millis(50)).await;
    assert_eq!(ended, EdgeShutdown { cut: 1 });
    assert!(busy.is_closed().await);
    edge.service.until_waiting(0).await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let edge = Edge::start(|_| {}).await;
    let again = async |addr: SocketAddr| {
        let client = Client::in_process(edge.service.clone());
        HttpEdge::bind(EdgeOptions::new(addr), client, edge.view.clone()).await
    };
    match again(edge.addr).await.err() {
        Some(error @ BindError::InUse { .. }) => assert!(error.to_string().contains("in use"), "{error}"),
        other => panic!("{other:?}"),
    }
    let foreign = again("203.0.113.1:1".parse().unwrap()).await;
    assert!(matches!(foreign.err(), Some(BindError::Io { .. })));
}
