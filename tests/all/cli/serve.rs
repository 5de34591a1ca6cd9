//! `shoal serve`: ready line, configuration errors, leaving.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Home, MODEL, Serving, golden};

/// One HTTP request; the whole answer.
fn http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.write_all(request.as_bytes()).expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    answer
}

pub(super) fn get(address: &str, path: &str) -> String {
    http(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

pub(super) fn post(address: &str, path: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n");
    http(address, &format!("{head}{headers}Content-Length: {length}\r\n\r\n{body}"))
}

pub(super) fn preload() -> String {
    golden(MODEL).display().to_string()
}

#[test]
fn a_ready_node_serves_until_sigterm_and_prints_one_line() {
    let home = Home::new();
    let serving = Serving::start(&home, ["--http", "127.0.0.1:0", "--threads", "1", "--preload", &preload()]);
    let address = serving.address("http");
    assert!(serving.ready["devices"][0]["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    assert_eq!(serving.ready["quic"], Value::Null);
    assert!(get(&address, "/readyz").starts_with("HTTP/1.1 200"), "{}", get(&address, "/readyz"));
    let answer = post(&address, "/v1/embeddings", "", &json!({ "model": MODEL, "input": "the river" }));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("embedding"), "{answer}");
    serving.signal("-TERM");
    let (code, rest) = serving.ended();
    assert_eq!((code, rest.as_str()), (Some(0), ""));
}

#[test]
fn sigterm_finishes_what_is_in_flight() {
    let home = Home::new();
    // Slow by configuration, so that the request is in flight for about two seconds.
    let config = home.write(
        "node.toml",
        "version = 1\n[http]\naddr = \"127.0.0.1:0\"\n[device]\ntokens_per_s_max = 1000\n",
    );
    let config = config.display().to_string();
    let serving = Serving::start(&home, ["--config", &config, "--threads", "1", "--preload", &preload()]);
    let address = serving.address("http");
    let texts = vec!["the river runs south in the evening"; 200];
    let busy = address.clone();
    let request = std::thread::spawn(move || {
        post(&busy, "/v1/embeddings", "", &json!({ "model": MODEL, "input": texts }))
    });
    let is_admitted = |line: &str| line.starts_with("shoal_admitted_bytes{") && !line.ends_with(" 0");
    wait_until(|| get(&address, "/metrics").lines().any(is_admitted));
    serving.signal("-TERM");
    let answer = request.join().expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..answer.len().min(300)]);
    assert_eq!(serving.ended().0, Some(0));
}

/// A metadata service that holds its answer back until the test says so.
#[test]
fn a_noticed_node_takes_nothing_new_at_once_and_leaves() {
    let home = Home::new();
    let service = TcpListener::bind("127.0.0.1:0").expect("binds");
    let url = service.local_addr().expect("an address");
    let (noticed, notice) = std::sync::mpsc::sync_channel::<()>(0);
    let cloud = std::thread::spawn(move || {
        for body in ["FALSE", "TRUE"] {
            let (mut stream, _) = service.accept().expect("asked");
            let mut head = BufReader::new(stream.try_clone().expect("clones")).lines().map_while(Result::ok);
            head.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
            if body == "TRUE" {
                notice.recv().expect("told");
            }
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nETag: e1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).expect("writes");
        }
    });
    let text = format!("version = 1\n[notices]\nsource = \"gcp\"\nbase_url = \"http://{url}\"\n[device]\n");
    let config = home.write("node.toml", text + "tokens_per_s_max = 1000\n").display().to_string();
    let args = ["--config", &config, "--http", "127.0.0.1:0", "--threads", "1", "--preload", &preload()];
    let serving = Serving::start(&home, args);
    let address = serving.address("http");
    let busy = address.clone();
    let texts = vec!["the river runs south in the evening"; 200];
    let request = std::thread::spawn(move || {
        post(&busy, "/v1/embeddings", "", &json!({ "model": MODEL, "input": texts }))
    });
    let is_admitted = |line: &str| line.starts_with("shoal_admitted_bytes{") && !line.ends_with(" 0");
    wait_until(|| get(&address, "/metrics").lines().any(is_admitted));
    let is_ready = || get(&address, "/readyz").starts_with("HTTP/1.1 200");
    assert!(is_ready());
    let noticed_at = tokio::time::Instant::now();
    noticed.send(()).expect("it listens");
    wait_until(|| !is_ready());
    let late = noticed_at.elapsed();
    let answer = request.join().expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..answer.len().min(300)]);
    assert_eq!(serving.ended().0, Some(0));
    cloud.join().expect("no panic");
    assert!(late < Duration::from_secs(1), "{late:?}");
}

/// Connections that wait for a request, in every way: after one, before one, in the middle of a head and of a body.
/// Three tries, because a busy machine may hold the process up; what waits for a timer does so every time.
#[test]
fn idle_connections_do_not_hold_up_the_exit() {
    let home = Home::new();
    let exit_time = || {
        let serving =
            Serving::start(&home, ["--http", "127.0.0.1:0", "--threads", "1", "--preload", &preload()]);
        let address = serving.address("http");
        let idle: Vec<TcpStream> = (0..20)
            .map(|index| {
                let mut stream = TcpStream::connect(&address).expect("connects");
                let sent = [
                    "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
                    "",
                    "GET /hea",
                    "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
                ][index % 4];
                stream.write_all(sent.as_bytes()).expect("writes");
                if index % 4 == 0 {
                    assert!(stream.read(&mut [0; 1024]).expect("reads") > 0);
                }
                stream
            })
            .collect();
        // Accepted, with what was sent before it read: an exchange that follows them all is answered.
        assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"));
        let asked_at = tokio::time::Instant::now();
        serving.signal("-TERM");
        assert_eq!(serving.ended().0, Some(0));
        drop(idle);
        asked_at.elapsed()
    };
    let times: Vec<Duration> = (0..3).map(|_| exit_time()).collect();
    assert!(times.iter().any(|time| *time < Duration::from_millis(500)), "{times:?}");
}

/// Asks again until it holds; the bound is far above what a loaded machine needs.
fn wait_until(holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("did not happen");
}

#[test]
fn the_service_manager_is_told() {
    let home = Home::new();
    let socket = home.path("notify");
    let manager = UnixDatagram::bind(&socket).expect("bind");
    let mut command = home.shoal(["serve", "--http", "127.0.0.1:0", "--threads", "1"]);
    let mut child =
        command.env("NOTIFY_SOCKET", &socket).stdout(std::process::Stdio::null()).spawn().expect("runs");
    let told = || {
        let mut buffer = [0; 64];
        let count = manager.recv(&mut buffer).expect("receives");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    assert_eq!(told(), "READY=1");
    let pid = child.id().to_string();
    std::process::Command::new("kill").args(["-INT", &pid]).status().expect("runs");
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_taken_port_is_told() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    let ran = home.run(["serve", "--http", &address]).expect(5);
    assert!(ran.err.contains(&address) && ran.err.contains("in use"), "{}", ran.err);
    assert_eq!(ran.out, "", "never ready");

    home.run(["mesh", "init"]).expect(0);
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    let ran = home.run(["serve", "--http", "off", "--quic", &address]).expect(5);
    assert!(ran.err.contains(&address), "{}", ran.err);
}

#[test]
fn a_bad_configuration_names_file_line_and_key() {
    let home = Home::new();
    let refused = |text: &str| {
        let file = home.write("node.toml", text).display().to_string();
        home.run(["serve", "--config", &file]).expect(3).err
    };
    let unknown = refused("version = 1\n[device]\nthread = 1\n");
    assert!(unknown.contains("node.toml:3: device.thread: unknown field"), "{unknown}");
    let range = refused("version = 1\n[http]\ndeadline_ms = 0\n");
    assert!(range.contains("node.toml:3: http.deadline_ms = 0: must be 1 to 3600000"), "{range}");
    assert!(refused("version = 1\n[http]\naddr = \"off\"\n").contains("nothing to serve on"));
    let missing = home.run(["serve", "--config", "/nonexistent.toml"]).expect(3);
    assert!(missing.err.contains("/nonexistent.toml"), "{}", missing.err);
}

#[test]
fn a_public_address_needs_keys_and_keys_are_asked_for() {
    let home = Home::new();
    let public = home.run(["serve", "--http", "0.0.0.0:0"]).expect(3);
    assert!(public.err.contains("api_key_file"), "{}", public.err);

    let keys = home.write("keys", "0123456789abcdef\n").display().to_string();
    let serving =
        Serving::start(&home, ["--http", "127.0.0.1:0", "--api-key-file", &keys, "--preload", &preload()]);
    let address = serving.address("http");
    let body = json!({ "model": MODEL, "input": "x" });
    assert!(post(&address, "/v1/embeddings", "", &body).starts_with("HTTP/1.1 401"));
    let key = "Authorization: Bearer 0123456789abcdef\r\n";
    assert!(post(&address, "/v1/embeddings", key, &body).starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"), "probes are open");

    home.write("keys", "another-key-of-16\n");
    wait_until(|| post(&address, "/v1/embeddings", key, &body).starts_with("HTTP/1.1 401"));
    let new = "Authorization: Bearer another-key-of-16\r\n";
    assert!(post(&address, "/v1/embeddings", new, &body).starts_with("HTTP/1.1 200"));
}

#[test]
fn what_cannot_be_served_is_told_before_ready() {
    let home = Home::new();
    let gpu = home.run(["serve", "--require-gpu"]).expect(3);
    assert!(gpu.err.contains("no GPU: libcuda.so.1 not found"), "{}", gpu.err);
    let dtype = home.run(["serve", "--http", "127.0.0.1:0", "--dtype", "int8"]).expect(3);
    assert!(dtype.err.contains("has no int8 kernels"), "{}", dtype.err);
    home.run(["status", "--dtype", "int8"]).expect(3);
    let missing = home.run(["serve", "--http", "127.0.0.1:0", "--preload", "all-minilm-l6-v2"]).expect(3);
    assert!(missing.err.contains("shoal pull"), "{}", missing.err);
    let none = home.run(["serve", "--http", "off", "--quic", "127.0.0.1:0"]).expect(3);
    assert!(none.err.contains("identity"), "{}", none.err);
}
