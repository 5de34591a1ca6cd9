//! The HTTP edge over real TCP sockets. The dialects' shapes are tested against [`service::HashService`], a node
//! whose vectors are hashes of the texts and whose failures are chosen by the model's name.

mod hostile;
mod http;
mod node;
mod openai;
mod operators;
mod service;
mod tasks;
mod tei;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use shoal::edge::{EdgeOptions, HttpEdge, NodeView, Readiness};
use shoal_mesh::{BoxFuture, Client};
use shoal_protocol::NodeId;
use shoal_protocol::message::{Input, Truncate};

use http::{Response, request};
use service::{HashService, NODE};

/// Why the node is not ready.
#[derive(Default)]
struct View(Mutex<Vec<String>>);

impl NodeView for View {
    fn node(&self) -> NodeId {
        NODE
    }

    fn readiness(&self) -> Readiness {
        Readiness { reasons: self.0.lock().expect("no panic under it").clone() }
    }

    /// Not known: the edge then counts the tokens of the answers.
    fn count_tokens(&self, _: &str, _: Arc<[Input]>, _: Truncate, _: u64) -> BoxFuture<'static, Option<u64>> {
        Box::pin(async { None })
    }
}

/// An object with the fields of another on top.
fn extend(mut object: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().expect("an object") {
        object[name] = value.clone();
    }
    object
}

/// The rows of a table with ` | ` between its columns.
fn table<const COLUMNS: usize>(text: &str) -> impl Iterator<Item = [&str; COLUMNS]> {
    let rows = text.lines().filter(|line| !line.is_empty());
    rows.map(|row| {
        let columns: Vec<_> = row.split(" | ").collect();
        columns.try_into().unwrap_or_else(|_| panic!("not {COLUMNS} columns: {row}"))
    })
}

/// An edge in front of a [`HashService`].
struct Edge {
    edge: HttpEdge,
    addr: SocketAddr,
    service: Arc<HashService>,
    view: Arc<View>,
}

impl Edge {
    /// Starts one on a free port.
    async fn start(configure: impl FnOnce(&mut EdgeOptions)) -> Self {
        let mut options = EdgeOptions::new((Ipv4Addr::LOCALHOST, 0).into());
        configure(&mut options);
        let service = Arc::new(HashService::default());
        let view = Arc::new(View::default());
        let client = Client::in_process(service.clone());
        let edge = HttpEdge::bind(options, client, view.clone()).await.expect("a free port");
        Self { addr: edge.local_addr(), edge, service, view }
    }

    async fn get(&self, path: &str) -> Response {
        request(self.addr, "GET", path, "", b"").await
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        let headers = "content-type: application/json\r\n";
        request(self.addr, "POST", path, headers, body.to_string().as_bytes()).await
    }
}
