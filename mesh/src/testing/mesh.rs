//! Real members, each with a small node behind its port for clients, in virtual time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::message::{DeviceFact, ModelFact, ModelState, Numerics, Role};
use shoal_protocol::{Bytes, DeviceIndex, Micros, NodeId};

use super::net::VirtualNet;
use super::service::TestService;
use super::world::identity;
use crate::client::{Client, ConnectOptions};
use crate::core::OwnFacts;
use crate::identity::{Authority, Identity};
use crate::link::{QuicServer, QuicServerOptions};
use crate::peer::{MeshState, PeerOptions, PeerServer};

/// The client's own host.
const CLIENT: usize = 99;
/// More than any wait here takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Member {
    pub(crate) identity: Identity,
    generation: u64,
    host: usize,
    pub(crate) service: Arc<TestService>,
    _server: QuicServer,
    pub(crate) peer: PeerServer,
}

pub(crate) struct Mesh {
    pub(crate) net: VirtualNet,
    pub(crate) members: Vec<Member>,
}

/// The address of a machine.
fn host(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(number + 1).expect("a small world"))
}

fn at(number: usize, port: u16) -> SocketAddr {
    (host(number), port).into()
}

const CALLERS: u16 = 7101;
const MEMBERS: u16 = 7102;

impl Mesh {
    /// So many members that all know each other, and none has a model.
    pub(crate) async fn new(seed: u64, count: usize) -> Self {
        let net = VirtualNet::new(seed, Duration::from_millis(2));
        let mut mesh = Self { net, members: Vec::new() };
        for number in 0..count {
            let member = mesh.start(identity(Role::Node), 1_000_000, number).await;
            mesh.members.push(member);
        }
        let know = |state: &MeshState| state.facts.len() == count;
        mesh.everybody(know).await;
        mesh
    }

    async fn start(&self, identity: Identity, generation: u64, on: usize) -> Member {
        let net = self.net.on(host(on));
        let service = TestService::of(identity.node_id());
        let options = QuicServerOptions::new(at(on, CALLERS), identity.clone()).generation(generation);
        let server = QuicServer::bind(options.net(net.clone()), service.clone()).expect("a free address");
        let options = PeerOptions::new(at(on, MEMBERS), identity.clone(), generation);
        let seeds = (0..3).map(|seed| at(seed, MEMBERS));
        let peer = PeerServer::bind(options.seeds(seeds).net(net)).expect("a free address");
        // Nobody else sets it.
        let _ = service.mesh.set(peer.state());
        let member = Member { identity, generation, host: on, service, _server: server, peer };
        member.publish(&[]).await;
        member
    }

    pub(crate) fn id(&self, number: usize) -> NodeId {
        self.members[number].identity.node_id()
    }

    /// A client that was given the address of one of them.
    pub(crate) async fn client_of(&self, number: usize) -> Client {
        let address = at(self.members[number].host, CALLERS);
        let options = ConnectOptions::new([address], identity(Role::Client));
        Client::connect(options.net(self.net.on(host(CLIENT)))).await.expect("the node listens")
    }

    /// The client's host and this member's do not reach each other.
    pub(crate) fn part_client_from(&self, number: usize) {
        self.net.part(host(CLIENT), host(self.members[number].host));
    }

    /// The process is no more, and says nothing.
    pub(crate) fn kill(&self, number: usize) {
        let on = self.members[number].host;
        self.net.kill(at(on, CALLERS));
        self.net.kill(at(on, MEMBERS));
    }

    /// A killed one starts again: on this host, and as another where it is given a new identity.
    pub(crate) async fn restart(&mut self, number: usize, on: usize, new: Option<Identity>) {
        let former = &self.members[number];
        let generation = former.generation + 1;
        let identity = new.unwrap_or_else(|| former.identity.clone());
        self.members[number] = self.start(identity, generation, on).await;
    }

    /// A stranger listens where a killed one did.
    pub(crate) fn usurp(&self, number: usize) -> QuicServer {
        let on = self.members[number].host;
        let elsewhere = Authority::create().and_then(|root| root.issuer()).expect("randomness");
        let stranger = elsewhere.issue(Role::Node, "stranger").expect("randomness");
        let options = QuicServerOptions::new(at(on, CALLERS), stranger).net(self.net.on(host(on)));
        QuicServer::bind(options, TestService::new()).expect("a free address")
    }

    /// Waits until all members see the mesh so.
    pub(crate) async fn everybody(&self, sees: impl Fn(&MeshState) -> bool) {
        for member in &self.members {
            let mut state = member.peer.state();
            let seen = state.wait_for(|state| sees(state));
            tokio::time::timeout(PATIENCE, seen).await.expect("they converge").expect("they live");
        }
    }

    /// Lets a member say where its models stand, and waits until all have heard it.
    pub(crate) async fn publish(&self, number: usize, models: &[(&str, ModelState)]) {
        let member = &self.members[number];
        member.publish(models).await;
        let id = self.id(number);
        let count = models.len();
        self.everybody(|state| state.facts.get(&id).is_some_and(|facts| facts.models.len() == count)).await;
    }
}

impl Member {
    /// Says where its models stand.
    pub(crate) async fn publish(&self, models: &[(&str, ModelState)]) {
        let model = |(name, state): &(&str, ModelState)| ModelFact {
            name: (*name).to_owned(),
            aliases: Vec::new(),
            device: DeviceIndex(0),
            state: *state,
            numerics: Numerics::F32,
            bytes: Bytes(1 << 20),
            load_us: Micros(100_000),
        };
        let device = DeviceFact {
            device: DeviceIndex(0),
            name: "test".to_owned(),
            budget_bytes: Bytes(1 << 30),
            tokens_per_s: 10_000,
        };
        let facts = OwnFacts {
            peer_addresses: vec![at(self.host, MEMBERS).to_string()],
            client_addresses: vec![at(self.host, CALLERS).to_string()],
            draining: false,
            devices: vec![device],
            models: models.iter().map(model).collect(),
        };
        self.peer.set_facts(facts).await;
    }
}
