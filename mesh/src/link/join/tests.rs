//! Newcomers, members and those who pretend to be.

mod hostile;
mod renewal;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::EndpointConfig;
use shoal_protocol::Message;
use shoal_protocol::message::{JoinRequest, RefusalReason, RenewRequest, Role};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::ask::ask;
use super::transport::{member_config, newcomer_config};
use super::*;
use crate::core::Lease;
use crate::identity::{
    Authority, Identity, Issuer, LiveIdentity, Newcomer, Registrar, Token, TokenTerms, unix_time_s,
};
use crate::link::{ConnectError, TokioNet};
use crate::testing::LOOPBACK;

/// An issuer's node, listening.
struct Ground {
    dir: TempDir,
    root: Authority,
    issuer: Issuer,
    server: JoinServer,
    addr: SocketAddr,
}

fn listen(dir: &Path, clock_ahead_s: u64) -> JoinServer {
    let clock = Arc::new(move || unix_time_s() + clock_ahead_s);
    let registrar = Registrar::open(dir, vec!["issuer:1".to_owned()], clock()).unwrap();
    let identity = Identity::load(dir).unwrap();
    let options = JoinServerOptions::new(LOOPBACK, identity).clock(clock);
    JoinServer::bind(options.seeds(|| vec!["10.0.0.1:7002".to_owned()]), registrar).unwrap()
}

fn ground() -> Ground {
    let root = Authority::create().unwrap();
    let (dir, issuer) = issuer_dir(&root);
    let server = listen(dir.path(), 0);
    let addr = server.local_addr();
    Ground { dir, root, issuer, server, addr }
}

fn issuer_dir(root: &Authority) -> (TempDir, Issuer) {
    let (dir, issuer) = (tempfile::tempdir().unwrap(), root.issuer().unwrap());
    issuer.issue(Role::Node, "issuer").unwrap().save(dir.path()).unwrap();
    issuer.save(dir.path()).unwrap();
    (dir, issuer)
}

impl Ground {
    fn token_at(&self, role: Role, uses_max: u32, now_unix_s: u64) -> Token {
        let terms = TokenTerms {
            role,
            label: String::new(),
            ttl: Duration::from_secs(600),
            uses_max,
            issuer: Identity::load(self.dir.path()).unwrap().node_id(),
            issuer_address: self.addr.to_string(),
        };
        let token = self.issuer.mint(terms, now_unix_s).unwrap();
        token.to_string().parse().expect("what is printed can be read")
    }

    fn token(&self, role: Role, uses_max: u32) -> Token {
        self.token_at(role, uses_max, unix_time_s())
    }

    async fn join(&self, token: &Token, role: Role) -> Result<Identity, JoinError> {
        join(JoinOptions::new(&self.addr.to_string(), token.clone(), role)).await
    }

    /// Sends a message as a newcomer with `token`.
    async fn ask(&self, token: &Token, message: Message) -> Result<Identity, JoinError> {
        let config = newcomer_config(token.message()).unwrap();
        let net = TokioNet::new(Handle::current());
        let asked = ask(self.addr, EndpointConfig::default(), config, None, message, &net).await;
        asked.map(|_| panic!("nothing is to be granted"))
    }
}

#[track_caller]
fn refused(result: Result<Identity, JoinError>) -> (RefusalReason, String) {
    match result {
        Err(JoinError::Refused { reason, message, .. }) => (reason, message),
        other => panic!("not refused by type: {other:?}"),
    }
}

#[tokio::test]
async fn a_newcomer_gets_what_its_token_says() {
    let ground = ground();
    let token = ground.token(Role::Client, 1);
    let identity = ground.join(&token, Role::Client).await.unwrap();
    assert_eq!(identity.role(), Role::Client);
    let short = identity.node_id().to_string();
    assert_eq!(identity.name(), format!("client-{}", &short[..8]), "the newcomer has no say in its name");
    let here = ground.addr.to_string();
    assert_eq!(identity.issuers(), [here.as_str(), "issuer:1"], "where it was asked, then where it was told");
    let life = identity.lease().until_unix_s - unix_time_s();
    assert!((86_300..=86_400).contains(&life), "{life}");
    let dir = tempfile::tempdir().unwrap();
    identity.save(dir.path()).unwrap();
    let again = Identity::load(dir.path()).unwrap();
    assert_eq!((again.node_id(), again.issuers()), (identity.node_id(), identity.issuers()));
}

#[tokio::test]
async fn a_new_node_is_told_where_to_start_from_and_remembers_it() {
    let ground = ground();
    let client = ground.join(&ground.token(Role::Client, 1), Role::Client).await.unwrap();
    assert!(client.seeds().is_empty(), "callers have no business with members");
    let node = ground.join(&ground.token(Role::Node, 1), Role::Node).await.unwrap();
    assert_eq!(node.seeds(), ["10.0.0.1:7002"]);
    let dir = tempfile::tempdir().unwrap();
    node.save(dir.path()).unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap().seeds(), node.seeds());
    let later = ["10.0.0.2:7002".to_owned(), "10.0.0.3:7002".to_owned()];
    Identity::save_seeds(dir.path(), &later).unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap().seeds(), later);
}

/// A joined node serves a joined client: the chains that were granted are good for TLS on both sides.
#[tokio::test]
async fn those_who_joined_trust_each_other() {
    let ground = ground();
    let node = ground.join(&ground.token(Role::Node, 1), Role::Node).await.unwrap();
    let client = ground.join(&ground.token(Role::Client, 1), Role::Client).await.unwrap();
    let options = crate::QuicServerOptions::new(LOOPBACK, node);
    let server = crate::QuicServer::bind(options, crate::testing::TestService::new()).unwrap();
    let options = crate::ConnectOptions::new([server.local_addr()], client);
    crate::Client::connect(options).await.unwrap().status(false).await.unwrap();
}

#[tokio::test]
async fn a_token_is_good_for_its_uses_and_not_after_a_restart_either() {
    let mut ground = ground();
    let token = ground.token(Role::Node, 2);
    let first = Newcomer::new(token.clone(), Role::Node).unwrap();
    let net = TokioNet::new(Handle::current());
    for _ in 0..3 {
        // The same key again, as after a lost answer: one use.
        let message = Message::JoinRequest(Box::new(first.request(unix_time_s()).unwrap()));
        let config = newcomer_config(token.message()).unwrap();
        let grant = ask(ground.addr, EndpointConfig::default(), config, None, message, &net).await.unwrap();
        first.handle_grant(grant).unwrap();
    }
    ground.join(&token, Role::Node).await.unwrap();
    assert_eq!(refused(ground.join(&token, Role::Node).await).0, RefusalReason::Exhausted);

    ground.server.shutdown().await;
    ground.server = listen(ground.dir.path(), 0);
    ground.addr = ground.server.local_addr();
    assert_eq!(refused(ground.join(&token, Role::Node).await).0, RefusalReason::Exhausted);
    let other = ground.token(Role::Node, 1);
    ground.join(&other, Role::Node).await.expect("tokens of before the restart are still taken");
}

#[tokio::test]
async fn one_process_at_a_time_issues_from_a_directory() {
    let ground = ground();
    let second = Registrar::open(ground.dir.path(), Vec::new(), 0);
    assert!(matches!(second, Err(crate::IdentityError::Busy { .. })), "{second:?}");
}
