//! Input that no client library would send. Whatever it is, the answer is typed, the next request is served, and
//! nothing panics.

use std::time::Duration;

use serde_json::json;

use super::Edge;
use super::http::{Connection, bytes_of};

const PATH: &str = "/v1/embeddings";

async fn raw(edge: &Edge, bytes: &[u8]) -> Option<u16> {
    let mut connection = Connection::open(edge.addr).await;
    connection.send(bytes).await;
    connection.try_response().await.map(|response| response.status)
}

#[tokio::test]
async fn hostile_bodies_get_a_400_with_the_place() {
    let edge = Edge::start(|_| {}).await;
    let deep = format!(r#"{{"model":"hash","input":{}"#, "[".repeat(10_000));
    let deep_closed = format!(r#"{{"model":"hash","input":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let bodies: [&[u8]; 16] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\"input\"",
        b"\xff\xfe{\"a\":1}",
        b"{\"model\":\"hash\",\"input\":\"\xc3\x28\"}",
        b"{\"model\":\"hash\",\"input\":\"\\ud800\"}",
        b"{\"model\":\"hash\",\"input\":\"a\x00b\"}",
        b"{\"model\":\"hash\",\"input\":NaN}",
        b"{\"model\":\"hash\",\"input\":[1e999]}",
        b"{\"model\":\"hash\",\"input\":[123456789012345678901234567890]}",
        b"{\"model\":\"hash\",\"input\":\"x\",\"dimensions\":-99999999999999999999}",
        b"{\"model\":\"hash\",\"input\":\"x\"}{}",
        deep.as_bytes(),
        deep_closed.as_bytes(),
    ];
    for body in bodies {
        let bytes = bytes_of("POST", PATH, "content-type: application/json\r\n", body);
        let reply = Connection::open(edge.addr).await.exchange(&bytes).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert_eq!(reply.status, 400, "{shown}");
        let message = reply.json()["error"]["message"].to_string();
        assert!(message.contains("line 1 column"), "{shown}: {message}");
    }
    let fine = format!(
        r#"{{"x":{}{},"input":"no","model":"no","model":"hash","input":"x"}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let reply =
        Connection::open(edge.addr).await.exchange(&bytes_of("POST", PATH, "", fine.as_bytes())).await;
    assert_eq!(reply.status, 200, "depth in an unknown field, and the last of two fields counts");
}

/// Bodies made by mutating a sound one, with a fixed seed: each is answered, none with a 5xx.
#[tokio::test]
async fn mutated_bodies_are_answered() {
    let edge = Edge::start(|_| {}).await;
    let sound =
        br#"{"model":"hash","input":["one two",[3,4],"\u00e9"],"encoding_format":"base64","dimensions":8}"#;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    let mut connection = Connection::open(edge.addr).await;
    for _ in 0..2000 {
        let mut body = sound.to_vec();
        for _ in 0..=next(4) {
            let at = next(body.len());
            match next(3) {
                0 => body[at] = u8::try_from(next(256)).unwrap(),
                1 => drop(body.remove(at)),
                _ => body.insert(at, b"{}[]\",:0-9.\\e"[next(13)]),
            }
        }
        let path = [PATH, "/embed"][next(2)];
        let reply = connection.exchange(&bytes_of("POST", path, "", &body)).await;
        let shown = String::from_utf8_lossy(&body);
        assert!([200, 400, 404, 422].contains(&reply.status), "{} for {shown}", reply.status);
    }
}

#[tokio::test]
async fn names_over_their_bound_are_not_sent_on() {
    let edge = Edge::start(|_| {}).await;
    let long = "x".repeat(1 << 20);
    let model = edge.post(PATH, &json!({"model": long, "input": "x"})).await;
    let prompt = edge.post("/embed", &json!({"model": "hash", "inputs": "x", "prompt_name": long})).await;
    assert_eq!((model.status, prompt.status), (400, 422));
    assert!(model.body.len() < 300 && prompt.body.len() < 300, "nor back");
    assert_eq!(model.json()["error"]["param"], "model");
}

#[tokio::test]
async fn bodies_over_their_bound_get_a_413() {
    let edge = Edge::start(|options| options.limits.body_bytes_max = 1000).await;
    let large = vec![b' '; 300_000];
    assert_eq!(raw(&edge, &bytes_of("POST", PATH, "", &large)).await, Some(413));
    let mut chunked =
        format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..300 {
        chunked.extend_from_slice(b"3e8\r\n");
        chunked.extend_from_slice(&large[..1000]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(raw(&edge, &chunked).await, Some(413));
    let huge = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n");
    assert_eq!(raw(&edge, huge.as_bytes()).await, Some(413), "refused by its declared length");
}

#[tokio::test]
async fn the_bytes_of_all_bodies_are_bounded() {
    let edge = Edge::start(|options| options.limits.bodies_bytes_max = 64 << 10).await;
    let mut holder = Connection::open(edge.addr).await;
    let body = format!(r#"{{"model":"slow","input":"{}"}}"#, "a".repeat(40_000));
    holder.send(&bytes_of("POST", PATH, "", body.as_bytes())).await;
    edge.service.until_waiting(1).await;
    let refused =
        Connection::open(edge.addr).await.exchange(&bytes_of("POST", PATH, "", body.as_bytes())).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.header("retry-after-ms").is_some());
    edge.service.release.notify_one();
    assert_eq!(holder.response().await.status, 200);
}

#[tokio::test]
async fn odd_framing_is_understood_or_refused() {
    let edge = Edge::start(|_| {}).await;
    let body = r#"{"model":"hash","input":"x"}"#;
    let (head, tail) = body.split_at(10);
    let chunked = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{head}\r\n{:x}\r\n{tail}\r\n0\r\n\r\n",
        head.len(),
        tail.len()
    );
    assert_eq!(raw(&edge, chunked.as_bytes()).await, Some(200));
    let length = body.len();
    let old = format!("POST {PATH} HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{body}");
    let mut connection = Connection::open(edge.addr).await;
    assert_eq!(connection.exchange(old.as_bytes()).await.status, 200);
    assert!(connection.is_closed().await, "HTTP/1.0 closes");
    for (bytes, status) in [
        ("\r\n\r\n\x00\x01\x02garbage\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), 400),
        (format!("POST {PATH} HTTP/1.1\r\ncontent-length: -5\r\n\r\n"), 400),
        (format!("POST {PATH} HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{{}}"), 400),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)), 414),
        (format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(100_000)), 431),
        (format!("GET /healthz HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1000)), 431),
    ] {
        let got = raw(&edge, bytes.as_bytes()).await;
        assert!(got == Some(status) || got == Some(431), "{got:?} for {:?}", &bytes[..bytes.len().min(60)]);
    }
    assert_eq!(edge.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let edge = Edge::start(|_| {}).await;
    let one = |text: &str| {
        let body = json!({"model": "hash", "input": text}).to_string();
        bytes_of("POST", PATH, "", body.as_bytes())
    };
    let texts = ["a", "b b", "c c c"];
    let mut connection = Connection::open(edge.addr).await;
    connection.send(&texts.map(one).concat()).await;
    for tokens in [3, 4, 5] {
        assert_eq!(connection.response().await.json()["usage"]["total_tokens"], tokens);
    }
}

#[tokio::test]
async fn wrong_routes_methods_and_media_types_are_named() {
    let edge = Edge::start(|_| {}).await;
    let unknown = edge.get("/v1/nothing").await;
    assert_eq!((unknown.status, unknown.json()["error"]["code"].as_str()), (404, Some("unknown_url")));
    let unknown = edge.get("/nothing").await;
    assert_eq!((unknown.status, unknown.json()["error_type"].as_str()), (404, Some("Validation")));
    let wrong = edge.get(PATH).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    assert_eq!(edge.post("/healthz", &json!({})).await.status, 405);
    for (header, named) in [
        ("content-type: application/x-www-form-urlencoded\r\n", "application/json"),
        ("content-encoding: gzip\r\n", "gzip"),
    ] {
        let reply = super::request(edge.addr, "POST", PATH, header, b"{}").await;
        assert_eq!(reply.status, 415);
        assert!(reply.text().contains(named), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_model_that_is_named_badly_is_not_the_default_one() {
    let edge = Edge::start(|options| options.default_model = Some("hash".to_owned())).await;
    let body = br#"{"inputs":"x"}"#;
    let status = async |method: &str, path: &str, headers: &str| {
        super::request(edge.addr, method, path, headers, body).await.status
    };
    assert_eq!(status("POST", "/embed", "").await, 200);
    for path in ["/m/%ff/embed", "/m/%ff", "/m//embed"] {
        assert_eq!(status("POST", path, "").await, 422, "{path}");
    }
    assert_eq!(status("POST", "/embed", "x-model: h\u{e4}sh\r\n").await, 422);
    assert_eq!(status("GET", "/info", "x-model: h\u{e4}sh\r\n").await, 422);
    assert_eq!(status("GET", "/v1/models/%ff", "").await, 404);
}

#[tokio::test]
async fn heads_and_preflights_carry_no_work() {
    let edge = Edge::start(|_| {}).await;
    let mut connection = Connection::open(edge.addr).await;
    // A head has no body, so that the next answer follows at once.
    connection
        .send(b"HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\nOPTIONS /embed HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let head = connection.head().await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: "), "{head}");
    let refused = connection.response().await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")));
    assert_eq!(refused.header("access-control-allow-origin"), None, "no page of another origin may call");
}

#[tokio::test]
async fn a_caller_that_does_not_read_is_cut_off() {
    let edge = Edge::start(|options| options.limits.write_timeout = Duration::from_millis(100)).await;
    // Far more than the kernel's buffers hold; the sending, too, ends when the connection does.
    const REQUESTS: usize = 200;
    let texts = vec!["x"; 2048];
    let body = json!({"model": "hash", "input": texts}).to_string();
    let one = bytes_of("POST", PATH, "", body.as_bytes());
    let mut deaf = Connection::open(edge.addr).await;
    deaf.send(&one.repeat(REQUESTS)).await;
    let metric = async |name: &str| {
        let metrics = edge.get("/metrics").await;
        let line = metrics.text().lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse::<usize>().ok()).expect("a number")
    };
    let gone = async { while metric("shoal_http_connections ").await > 1 {} };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("cut off");
    let answered = metric("shoal_http_requests_total{route=\"/v1/embeddings\",status=\"200\"}").await;
    assert!((1..REQUESTS).contains(&answered), "{answered}: what was not read was not made");
    drop(deaf);
}

#[tokio::test]
async fn callers_that_dawdle_are_given_up() {
    let edge = Edge::start(|options| {
        options.limits.head_timeout = Duration::from_millis(50);
        options.limits.body_timeout = Duration::from_millis(50);
    })
    .await;
    let mut head = Connection::open(edge.addr).await;
    head.send(b"POST /v1/embeddings HTTP/1.1\r\nhost:").await;
    assert!(head.is_closed().await, "a head that does not come ends the connection");
    let mut body = Connection::open(edge.addr).await;
    body.send(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{").await;
    assert_eq!(body.response().await.status, 408);
    let mut vanished = Connection::open(edge.addr).await;
    vanished.send(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{").await;
    drop(vanished);
    assert_eq!(edge.get("/healthz").await.status, 200);
}
