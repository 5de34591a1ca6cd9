//! A mesh of real endpoints, each at an address of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use shoal_protocol::NodeId;
use shoal_protocol::message::Role;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::core::MemberState;
use crate::identity::Identity;
use crate::peer::{MeshState, News, PeerCounters, PeerOptions, PeerServer};
use crate::testing::{VirtualNet, identity};

/// The generation of everybody's first life.
const GENERATION: u64 = 1_000_000;

struct Node {
    identity: Identity,
    generation: u64,
    server: Option<PeerServer>,
    /// What its listener heard.
    news: Option<mpsc::UnboundedReceiver<News>>,
}

pub(super) struct Ground {
    pub(super) net: VirtualNet,
    seed: u64,
    nodes: Vec<Node>,
}

/// Hosts have addresses of their own, as limits by source want it.
pub(super) fn address(index: usize) -> SocketAddr {
    let host = u8::try_from(index + 1).expect("a small world");
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, host).into(), 7102)
}

impl Ground {
    pub(super) fn new(seed: u64, latency: Duration) -> Self {
        Self { net: VirtualNet::new(seed, latency), seed, nodes: Vec::new() }
    }

    /// Starts so many nodes at once; the first is everybody's seed.
    pub(super) fn start(&mut self, count: usize) {
        (0..count).for_each(|_| self.join());
    }

    /// Starts one more.
    pub(super) fn join(&mut self) {
        let node = Node { identity: identity(Role::Node), generation: GENERATION, server: None, news: None };
        self.nodes.push(node);
        self.bind(self.nodes.len() - 1);
    }

    fn bind(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let (heard, news) = mpsc::unbounded_channel();
        node.news = Some(news);
        let options = PeerOptions::new(address(index), node.identity.clone(), node.generation)
            .seeds([address(0)])
            .chance(self.seed * 1000 + index as u64)
            .listener(move |news| drop(heard.send(news.clone())))
            .net(self.net.clone());
        node.server = Some(PeerServer::bind(options).expect("a virtual address is free"));
    }

    pub(super) fn node(&self, index: usize) -> &PeerServer {
        self.nodes[index].server.as_ref().expect("a living node")
    }

    /// The next news of a node that `wanted` wants.
    pub(super) async fn news<T>(&mut self, index: usize, wanted: impl Fn(News) -> Option<T>) -> T {
        let news = self.nodes[index].news.as_mut().expect("a started node");
        let found = async {
            loop {
                if let Some(found) = wanted(news.recv().await.expect("the driver lives")) {
                    return found;
                }
            }
        };
        timeout(Duration::from_secs(5), found).await.expect("heard within five seconds")
    }

    pub(super) fn id(&self, index: usize) -> NodeId {
        self.nodes[index].identity.node_id()
    }

    pub(super) fn generation(&self, index: usize) -> u64 {
        self.nodes[index].generation
    }

    pub(super) fn kill(&mut self, index: usize) {
        self.net.kill(address(index));
        self.nodes[index].server = None;
    }

    pub(super) fn restart(&mut self, index: usize) {
        self.nodes[index].generation += 1;
        self.bind(index);
    }

    /// Somebody else starts where a node was.
    pub(super) fn replace(&mut self, index: usize) {
        self.nodes[index].identity = identity(Role::Node);
        self.bind(index);
    }

    pub(super) async fn leave(&mut self, index: usize) {
        self.nodes[index].server.take().expect("a living node").leave().await;
    }

    fn living(&self) -> impl Iterator<Item = (usize, &PeerServer)> {
        self.nodes.iter().enumerate().filter_map(|(index, node)| Some((index, node.server.as_ref()?)))
    }

    /// Waits until `holds` for every living node, `within` a time for all of them.
    pub(super) async fn everybody(
        &self,
        what: &str,
        within: Duration,
        holds: impl Fn(&MeshState) -> bool,
    ) -> Duration {
        let start = Instant::now();
        for (index, node) in self.living() {
            let mut state = node.state();
            let reached = timeout(within.saturating_sub(start.elapsed()), state.wait_for(|mesh| holds(mesh)));
            let reached = reached.await.map(|state| drop(state.expect("the driver lives")));
            let state = node.state().borrow().clone();
            assert!(
                reached.is_ok(),
                "seed {}: {what} at node {index} within {within:?}: {state:#?}",
                self.seed
            );
        }
        start.elapsed()
    }

    /// Everybody sees everybody else alive.
    pub(super) async fn all_alive(&self, within: Duration) -> Duration {
        let all: Vec<_> = self.living().map(|(index, _)| self.id(index)).collect();
        let alive = |mesh: &MeshState| {
            let is_alive = |node: &NodeId| {
                let mut members = mesh.members.iter();
                members.any(|seen| seen.life.node == *node && seen.state == MemberState::Alive)
            };
            all.iter().filter(|node| **node != mesh.life.node).all(is_alive)
        };
        self.everybody("everybody alive", within, alive).await
    }

    pub(super) async fn counters(&self, index: usize) -> PeerCounters {
        self.node(index).counters().await.expect("the driver lives")
    }

    /// Every living node has exactly so many connections.
    pub(super) async fn linked(&self, links: usize, within: Duration) {
        let start = Instant::now();
        loop {
            let mut counts = Vec::new();
            for (index, _) in self.living() {
                counts.push(self.counters(index).await.links);
            }
            if counts.iter().all(|count| *count == links) {
                return;
            }
            assert!(start.elapsed() < within, "seed {}: connections: {counts:?}", self.seed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
