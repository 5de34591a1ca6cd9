//! HTTP/1.1 by hand, so that the tests can also say what no client library would.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer takes longer unless something hangs, however busy the machine is.
const WAIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Response {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }
}

/// One connection.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(addr: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(addr).await.expect("connect"), buffer: Vec::new() }
    }

    /// Sends bytes; the other end may have closed, which the answer will show.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// More bytes, or `false` at the end.
    async fn fill(&mut self) -> bool {
        let read = tokio::time::timeout(WAIT, self.stream.read_buf(&mut self.buffer));
        match read.await.expect("an answer in time") {
            Ok(bytes) => bytes > 0,
            Err(_) => false,
        }
    }

    async fn try_head(&mut self) -> Option<String> {
        let head_len = loop {
            let end = self.buffer.windows(4).position(|window| window == b"\r\n\r\n");
            match end {
                Some(end) => break end + 4,
                None if self.fill().await => {}
                None => return None,
            }
        };
        Some(String::from_utf8(self.buffer.drain(..head_len).collect()).expect("an ASCII head"))
    }

    /// The next response to a HEAD request.
    pub(super) async fn head(&mut self) -> String {
        self.try_head().await.expect("a head")
    }

    /// The next response, `None` if the connection ends instead.
    pub(super) async fn try_response(&mut self) -> Option<Response> {
        let head = self.try_head().await?;
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.and_then(|(_, length)| length.parse().ok()).expect("a length");
        while self.buffer.len() < length {
            assert!(self.fill().await, "the body ended early");
        }
        Some(Response {
            status: status.expect("a status"),
            headers,
            body: self.buffer.drain(..length).collect(),
        })
    }

    pub(super) async fn response(&mut self) -> Response {
        self.try_response().await.expect("a response")
    }

    /// Sends and reads.
    pub(super) async fn exchange(&mut self, bytes: &[u8]) -> Response {
        self.send(bytes).await;
        self.response().await
    }

    /// Whether the other end has closed and left nothing more to read.
    pub(super) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill().await
    }
}

/// The bytes of a request. `headers` end with `\r\n` each.
pub(super) fn bytes_of(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// One request on a connection of its own.
pub(super) async fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Response {
    let bytes = bytes_of(method, path, headers, body);
    Connection::open(addr).await.exchange(&bytes).await
}
