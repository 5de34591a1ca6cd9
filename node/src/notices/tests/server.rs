//! An HTTP server of a few lines: one request a connection, answered by a closure.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

pub(super) struct Request {
    /// For example `GET /path HTTP/1.1`.
    pub(super) line: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

pub(super) enum Reply {
    /// These bytes, and the end of the connection.
    Raw(String),
    /// Nothing, until the client gives up.
    Silence,
}

impl Reply {
    pub(super) fn text(status: u16, body: &str) -> Self {
        Self::with(status, "", body)
    }

    pub(super) fn tagged(body: &str, etag: &str) -> Self {
        Self::with(200, &format!("ETag: {etag}\r\n"), body)
    }

    fn with(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n");
        Self::Raw(format!("{head}{headers}\r\n{body}"))
    }
}

pub(super) struct MetadataServer {
    addr: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl MetadataServer {
    pub(super) fn start(mut answer: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("an address");
        let stopping = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stopping);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if is_over.load(Ordering::Acquire) {
                    return;
                }
                serve(stream.expect("accepts"), &mut answer);
            }
        });
        Self { addr, stopping, thread }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Ends it, with its closure.
    pub(super) fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes it.
        drop(TcpStream::connect(self.addr));
        self.thread.join().expect("no panic");
    }
}

fn serve(stream: TcpStream, answer: &mut impl FnMut(&Request) -> Reply) {
    let mut lines = BufReader::new(stream.try_clone().expect("clones")).lines().map_while(Result::ok);
    let line = lines.next().unwrap_or_default();
    let headers = lines.by_ref().take_while(|line| !line.is_empty());
    let headers = headers.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    });
    let request = Request { line, headers: headers.collect() };
    let mut stream = stream;
    match answer(&request) {
        // The client may have given up already.
        Reply::Raw(bytes) => drop(stream.write_all(bytes.as_bytes())),
        Reply::Silence => drop(stream.read(&mut [0; 1])),
    }
}
