//! One keep-alive connection, with no more HTTP than a load generator needs.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A larger answer to a single text is taken for a mistake.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `total_tokens` of an OpenAI answer, or the header `x-compute-tokens` of a TEI one; 0 if it has neither.
    pub(crate) tokens: u64,
    /// When to ask again, as the header `retry-after-ms` says or else `retry-after`.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the server closes the connection after it.
    pub(crate) closes: bool,
    /// The body of what is not a 200.
    pub(crate) body: String,
}

pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 << 10) })
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let mut head = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if head.is_none() {
                head = Head::parse(&self.buffer)?;
            }
            if let Some(head) = &head
                && self.buffer.len() >= head.len + head.body_len
            {
                return Ok(head.answer(&self.buffer));
            }
            if self.buffer.len() > ANSWER_BYTES_MAX {
                return Err(io::Error::other("the answer is too large"));
            }
        }
    }
}

struct Head {
    status: u16,
    len: usize,
    body_len: usize,
    tokens: u64,
    retry_after: Option<Duration>,
    closes: bool,
}

impl Head {
    /// The head, once it is complete.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(bytes).map_err(io::Error::other)?;
        let httparse::Status::Complete(len) = parsed else {
            return Ok(None);
        };
        let text = |name: &str| {
            let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            Some(std::str::from_utf8(header.value).ok()?.trim())
        };
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let retry_after_s = || number("retry-after").map(Duration::from_secs);
        let body_len = number("content-length").and_then(|length| usize::try_from(length).ok());
        Ok(Some(Self {
            status: response.code.unwrap_or_default(),
            len,
            body_len: body_len.ok_or_else(|| io::Error::other("the answer has no content-length"))?,
            tokens: number("x-compute-tokens").unwrap_or_default(),
            retry_after: number("retry-after-ms").map(Duration::from_millis).or_else(retry_after_s),
            closes: text("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        }))
    }

    fn answer(&self, bytes: &[u8]) -> Answer {
        let body = &bytes[self.len..];
        Answer {
            status: self.status,
            tokens: total_tokens(body).unwrap_or(self.tokens),
            retry_after: self.retry_after,
            closes: self.closes,
            body: if self.status == 200 { String::new() } else { String::from_utf8_lossy(body).into_owned() },
        }
    }
}

/// The number behind the last `"total_tokens":`, which stands at the end of the body.
fn total_tokens(body: &[u8]) -> Option<u64> {
    let tail = &body[body.len().saturating_sub(160)..];
    let tail = String::from_utf8_lossy(tail);
    let (_, number) = tail.rsplit_once("\"total_tokens\":")?;
    let number = number.trim_start();
    let end = number.find(|character: char| !character.is_ascii_digit())?;
    number[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_without_a_json_parser() {
        let bytes =
            b"HTTP/1.1 200 OK\r\nContent-Length: 37\r\n\r\n{\"usage\":{\"total_tokens\": 12},\"x\":{}}";
        assert!(Head::parse(&bytes[..30]).unwrap().is_none());
        let head = Head::parse(bytes).unwrap().unwrap();
        assert_eq!((head.status, head.body_len), (200, bytes.len() - head.len));
        assert_eq!(head.answer(bytes).tokens, 12);
        assert_eq!(total_tokens(b"[]"), None);
        let refusal = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 2\r\nretry-after-ms: 1500\r\nConnection: close\r\n\
                        content-length: 0\r\n\r\n";
        let refused = Head::parse(refusal).unwrap().unwrap().answer(refusal);
        assert_eq!((refused.retry_after, refused.closes), (Some(Duration::from_millis(1500)), true));
    }
}
