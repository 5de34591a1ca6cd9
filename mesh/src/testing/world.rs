//! A node and its client, over one link or the other.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use shoal_protocol::message::Role;

use super::service::TestService;
use crate::client::{Client, ConnectOptions};
use crate::identity::{Authority, Identity, Issuer};
use crate::link::{QuicServer, QuicServerOptions};

pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The mesh of all tests.
pub(crate) static ISSUER: LazyLock<Issuer> =
    LazyLock::new(|| Authority::create().and_then(|root| root.issuer()).expect("randomness"));

pub(crate) fn identity(role: Role) -> Identity {
    ISSUER.issue(role, "test").expect("randomness")
}

pub(crate) struct World {
    pub(crate) service: Arc<TestService>,
    pub(crate) client: Client,
    pub(crate) server: Option<QuicServer>,
}

pub(crate) async fn in_process() -> World {
    let service = TestService::new();
    World { client: Client::in_process(service.clone()), service, server: None }
}

pub(crate) async fn over_quic() -> World {
    let service = TestService::new();
    let server = serve(&service, LOOPBACK);
    let client = connect(server.local_addr()).await;
    World { service, client, server: Some(server) }
}

pub(crate) fn serve(service: &Arc<TestService>, addr: SocketAddr) -> QuicServer {
    let options = QuicServerOptions::new(addr, identity(Role::Node));
    QuicServer::bind(options, service.clone()).expect("loopback is free")
}

pub(crate) async fn connect(addr: SocketAddr) -> Client {
    let options = ConnectOptions::new([addr], identity(Role::Client));
    Client::connect(options).await.expect("the node listens")
}
