//! Where requests go, and their bytes, rendered once.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::pipeline::AnyError;

/// A server's address and one ready request for every text.
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    requests: Vec<Vec<u8>>,
}

impl Target {
    pub(crate) fn new(
        url: &str,
        model: &str,
        texts: &[String],
        encoding: &str,
        api_key: Option<&str>,
        patience: Option<Duration>,
    ) -> Result<Self, AnyError> {
        let rest = url.strip_prefix("http://").ok_or("the URL must begin with http://")?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let host_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let addr = host_port.to_socket_addrs()?.next().ok_or("the host has no address")?;
        if texts.is_empty() {
            return Err("the file holds no texts".into());
        }
        let patience = patience
            .map_or(String::new(), |patience| format!("x-request-timeout-ms: {}\r\n", patience.as_millis()));
        let key = api_key.map_or(String::new(), |key| format!("authorization: Bearer {key}\r\n"));
        let render = |text: &String| {
            let body = if path.ends_with("/embed") {
                serde_json::json!({"inputs": text, "model": model})
            } else {
                serde_json::json!({"model": model, "input": text, "encoding_format": encoding})
            };
            let body = body.to_string();
            let length = body.len();
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{key}{patience}\
                 content-length: {length}\r\n\r\n"
            );
            (head + &body).into_bytes()
        };
        Ok(Self { addr, requests: texts.iter().map(render).collect() })
    }

    /// The bytes of the `index`-th request, cycling through the texts.
    pub(crate) fn request(&self, index: u64) -> &[u8] {
        let count = self.requests.len() as u64;
        let index = usize::try_from(index % count).expect("below a length");
        &self.requests[index]
    }
}
