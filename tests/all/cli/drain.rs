//! Nodes that are asked to leave, as real processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;
use shoal_mesh::{Client, ConnectOptions, Encode, Identity, ItemResult};

use super::members::sees;
use super::{Home, MODEL, Serving, golden};

const ON_LOOPBACK: [&str; 6] = ["--http", "off", "--quic", "127.0.0.1:0", "--threads", "1"];

/// Two nodes of one mesh that hold the same model.
fn pair(first: &Home, second: &Home) -> [Serving; 2] {
    let model = golden(MODEL).display().to_string();
    let preload = ["--preload", model.as_str()];
    first.run(["mesh", "init"]).expect(0);
    let here = Serving::start(first, ON_LOOPBACK.into_iter().chain(preload));
    let token = first.run(["mesh", "token"]).expect(0).out;
    let (join, token) = (here.address("join"), token.trim());
    let joining = ["--join", join.as_str(), "--token", token];
    let there = Serving::start(second, ON_LOOPBACK.into_iter().chain(preload).chain(joining));
    let ids = [here.ready["node"].clone(), there.ready["node"].clone()];
    for serving in [&here, &there] {
        sees(first, serving, &[(&ids[0], "alive"), (&ids[1], "alive")]);
    }
    [here, there]
}

#[test]
fn the_node_of_this_machine_is_drained_by_its_own_identity() {
    let home = Home::new();
    home.run(["mesh", "init"]).expect(0);
    let never = home.run(["drain", "self"]).expect(3);
    assert!(never.err.contains("listening"), "{}", never.err);
    let serving = Serving::start(&home, ON_LOOPBACK);
    let node = serving.ready["node"].as_str().expect("an id").to_owned();
    let ran = home.run(["drain", "self"]).expect(0);
    assert!(ran.out.starts_with(&format!("node {node} left after ")), "{}", ran.out);
    assert_eq!(serving.ended().0, Some(0));
    home.run(["drain", "self"]).expect(5);
    home.run(["drain", &node]).expect(2);
}

#[test]
fn an_operator_drains_a_node_under_load_and_no_request_fails() {
    let (first, second) = (Home::new(), Home::new());
    let [here, there] = pair(&first, &second);
    let (entry, node) = (here.address("quic"), there.ready["node"].as_str().expect("an id").to_owned());
    let mesh = ["--mesh", entry.as_str()];
    let client = first.run(["drain", &node[..8]].into_iter().chain(mesh)).expect(3);
    assert!(client.err.contains("operator"), "a client may not: {}", client.err);
    let token = first.run(["mesh", "token", "--role", "operator"]).expect(0).out;
    let operator = first.path("operator").display().to_string();
    first.run(["mesh", "join", &here.address("join"), "--token", token.trim(), "--out", &operator]).expect(0);
    let operator = mesh.into_iter().chain(["--identity", operator.as_str()]);
    let unknown = first.run(["drain", "zz"].into_iter().chain(operator.clone())).expect(2);
    assert!(unknown.err.contains("no member"), "{}", unknown.err);

    let load = Load::start(&first, &[&here, &there]);
    load.answers(200);
    first.run(["drain", &node[..8]].into_iter().chain(operator)).expect(0);
    assert_eq!(there.ended().0, Some(0));
    load.answers(200);
    let left = here.ready["node"].clone();
    sees(&first, &here, &[(&left, "alive"), (&Value::String(node), "down")]);
    load.stop();
}

/// Callers that never stop asking.
struct Load {
    answered: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Load {
    const CALLERS: usize = 4;

    fn start(home: &Home, entries: &[&Serving]) -> Self {
        let identity = Identity::load(&home.path("client")).expect("a client's identity");
        let entries: Vec<String> = entries.iter().map(|serving| serving.address("quic")).collect();
        let (answered, stopping) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop) = (Arc::clone(&answered), Arc::clone(&stopping));
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let client =
                    Client::connect(ConnectOptions::new(&entries, identity)).await.expect("connects");
                let callers = (0..Self::CALLERS).map(|_| call(&client, &count, &stop));
                futures_util::future::join_all(callers).await;
            });
        });
        Self { answered, stopping, thread }
    }

    /// Waits for so many more answers.
    fn answers(&self, more: u64) {
        let until = self.answered.load(Ordering::Relaxed) + more;
        while self.answered.load(Ordering::Relaxed) < until {
            assert!(!self.thread.is_finished(), "a call failed");
            std::thread::yield_now();
        }
    }

    fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.join().expect("no call failed");
    }
}

async fn call(client: &Client, answered: &AtomicU64, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Relaxed) {
        let encoded = client.encode(Encode::new(MODEL, ["the river runs south in the evening"])).await;
        let items = encoded.expect("no call fails").items;
        assert!(matches!(items[..], [ItemResult::Answered { .. }]), "{items:?}");
        answered.fetch_add(1, Ordering::Relaxed);
    }
}
