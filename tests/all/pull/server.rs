//! A hub on loopback that speaks what `huggingface_hub` relies on: HEAD with commit and ETag, a redirect to another
//! "host" for large files, ranges, and every refusal.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the hub behaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Behaviour {
    /// Path and content of the files.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// The first requests are answered with this status and headers.
    pub(super) refusals: Vec<(u16, String)>,
    /// Large content is cut off after so many bytes, this many times.
    pub(super) cuts: Vec<usize>,
    /// Ranges are ignored (200 from the beginning).
    pub(super) no_ranges: bool,
    /// The token that is asked for.
    pub(super) token: Option<String>,
}

/// A running hub; it ends with the test's process.
pub(super) struct HubServer {
    pub(super) endpoint: String,
    state: Arc<Mutex<State>>,
}

struct State {
    behaviour: Behaviour,
    /// Request lines with the headers that matter.
    seen: Vec<String>,
}

impl HubServer {
    pub(super) fn start(behaviour: Behaviour) -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").expect("bind");
        let cdn = TcpListener::bind("127.0.0.1:0").expect("bind");
        let endpoint = format!("http://{}", hub.local_addr().expect("address"));
        let cdn_address = format!("http://{}", cdn.local_addr().expect("address"));
        let state = Arc::new(Mutex::new(State { behaviour, seen: Vec::new() }));
        for listener in [hub, cdn] {
            let (state, cdn_address) = (Arc::clone(&state), cdn_address.clone());
            thread::spawn(move || {
                for connection in listener.incoming().flatten() {
                    serve(connection, &state, &cdn_address);
                }
            });
        }
        Self { endpoint, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no request panicked")
    }

    /// What was asked so far.
    pub(super) fn seen(&self) -> Vec<String> {
        self.state().seen.clone()
    }
}

/// One request a connection.
fn serve(connection: TcpStream, state: &Mutex<State>, cdn: &str) {
    let mut lines = BufReader::new(&connection).lines();
    let Some(Ok(request)) = lines.next() else { return };
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let found = headers.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        });
        found.unwrap_or_default()
    };
    let (range, authorization) = (header("range"), header("authorization"));
    let mut state = state.lock().expect("no request panicked");
    state.seen.push(format!("{request} [{range}] [{authorization}]"));
    let answer = answer(&mut state.behaviour, &request, &range, &authorization, cdn);
    // A client that went away is its own business.
    drop((&connection).write_all(&answer));
}

fn answer(hub: &mut Behaviour, request: &str, range: &str, authorization: &str, cdn: &str) -> Vec<u8> {
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !hub.refusals.is_empty() {
        let (status, headers) = hub.refusals.remove(0);
        return response(status, &headers, &[], false);
    }
    if let Some(name) = path.strip_prefix("/cdn/") {
        assert!(authorization.is_empty(), "the token must not reach another host");
        return content(hub, name, range);
    }
    if let Some(token) = &hub.token
        && authorization != format!("Bearer {token}")
    {
        return response(401, "", &[], false);
    }
    let renamed = "/old/name/resolve/";
    if let Some(rest) = path.strip_prefix(renamed) {
        return response(307, &format!("Location: /org/model/resolve/{rest}\r\n"), &[], false);
    }
    let Some(name) = path.strip_prefix(&format!("/org/model/resolve/{COMMIT}/")) else {
        return response(404, "", &[], false);
    };
    let Some((_, bytes)) = hub.files.iter().find(|(file, _)| file == name) else {
        return response(404, "", &[], false);
    };
    let commit = format!("X-Repo-Commit: {COMMIT}\r\n");
    if bytes.len() < 1000 {
        let headers = format!("{commit}ETag: \"{}\"\r\n", etag(name));
        return response(200, &headers, bytes, method == "HEAD");
    }
    let headers = format!(
        "{commit}X-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\nLocation: {cdn}/cdn/{name}\r\n",
        etag(name),
        bytes.len()
    );
    response(302, &headers, &[], false)
}

/// Any plain word serves as an ETag.
fn etag(name: &str) -> String {
    name.bytes().filter(u8::is_ascii_alphanumeric).map(char::from).collect()
}

fn content(hub: &mut Behaviour, name: &str, range: &str) -> Vec<u8> {
    let (_, bytes) = hub.files.iter().find(|(file, _)| file == name).expect("listed");
    let from = range.strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse().ok());
    let mut answer = match from.filter(|_| !hub.no_ranges) {
        Some(from) => {
            let header = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            response(206, &header, &bytes[from..], false)
        }
        None => response(200, "Accept-Ranges: bytes\r\n", bytes, false),
    };
    if !hub.cuts.is_empty() {
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        answer.truncate(head + hub.cuts.remove(0));
    }
    answer
}

fn response(status: u16, headers: &str, body: &[u8], head_only: bool) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    if !head_only {
        bytes.extend_from_slice(body);
    }
    bytes
}
