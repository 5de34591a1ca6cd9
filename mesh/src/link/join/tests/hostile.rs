//! What must get no certificate, and learns why.

use quinn::Connection;
use shoal_protocol::header::Header;
use shoal_protocol::limits::JOIN_BODY_BYTES_MAX;
use shoal_protocol::message::JoinToken;
use shoal_protocol::{Kind, WIRE_VERSION, encode};

use super::*;
use crate::link::codes::Code;
use crate::link::dial::{endpoint_for, handshake};
use crate::testing::VirtualNet;

/// A token line whose fields were changed after the issuer made it.
fn changed(token: &Token, change: impl FnOnce(&mut JoinToken)) -> Token {
    let mut message = token.message().clone();
    change(&mut message);
    Token::from(message)
}

#[tokio::test]
async fn changed_tokens_are_forged() {
    let changes: [fn(&mut JoinToken); 6] = [
        |token| token.role = Role::Operator,
        |token| token.uses_max = 1000,
        |token| token.expires_at_unix_s += 86_400,
        |token| token.nonce[0] ^= 1,
        |token| token.label = "admin".to_owned(),
        |token| token.mac[31] ^= 1,
    ];
    for changes in changes.chunks(3) {
        let ground = ground(); // more refusals than these, and the source has to wait
        let token = ground.token(Role::Client, 1);
        for change in changes {
            let token = changed(&token, change);
            let role = token.role();
            assert_eq!(refused(ground.join(&token, role).await).0, RefusalReason::Forged, "{token:?}");
        }
        ground.join(&token, Role::Client).await.expect("forged copies use nothing up");
    }
}

#[tokio::test]
async fn only_the_issuer_that_made_a_token_takes_it() {
    let ground = ground();
    let (dir, _) = issuer_dir(&ground.root);
    let other = listen(dir.path(), 0);
    let token = ground.token(Role::Node, 1);
    let request = Newcomer::new(token.clone(), Role::Node).unwrap().request(unix_time_s()).unwrap();
    let config = newcomer_config(token.message()).unwrap();
    let message = Message::JoinRequest(Box::new(request));
    let net = TokioNet::new(Handle::current());
    let asked = ask(other.local_addr(), EndpointConfig::default(), config, None, message, &net).await;
    assert!(matches!(asked, Err(JoinError::Refused { reason: RefusalReason::WrongIssuer, .. })));
    // A newcomer shows its token to nobody else in the mesh, and finds the right one by it.
    let (config, issuer) = (newcomer_config(token.message()).unwrap(), Some(token.issuer()));
    let bare = Message::RenewRequest(RenewRequest { csr: Vec::new(), now_unix_s: 0 });
    let asked = ask(other.local_addr(), EndpointConfig::default(), config, issuer, bare, &net).await;
    assert!(matches!(asked, Err(JoinError::Connect(ConnectError::Untrusted { .. }))), "{asked:?}");
    join(JoinOptions::new(&other.local_addr().to_string(), token, Role::Node)).await.unwrap();
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_told_the_token() {
    let (ground, elsewhere) = (ground(), ground());
    let token = changed(&ground.token(Role::Node, 1), |token| {
        token.issuer_address = elsewhere.addr.to_string();
    });
    let config = newcomer_config(token.message()).unwrap();
    let net = TokioNet::new(Handle::current());
    let request = Newcomer::new(token, Role::Node).unwrap().request(unix_time_s()).unwrap();
    let message = Message::JoinRequest(Box::new(request));
    let asked = ask(elsewhere.addr, EndpointConfig::default(), config, None, message, &net).await;
    assert!(matches!(asked, Err(JoinError::Connect(ConnectError::Untrusted { .. }))), "{asked:?}");
}

#[tokio::test]
async fn a_token_is_for_one_role_and_a_short_time() {
    let ground = ground();
    let (reason, why) = refused(ground.join(&ground.token(Role::Client, 1), Role::Node).await);
    assert_eq!(reason, RefusalReason::RoleNotAllowed);
    assert!(why.contains("client") && why.contains("node"), "{why}");
    let old = ground.token_at(Role::Node, 1, unix_time_s() - 700);
    let (reason, why) = refused(ground.join(&old, Role::Node).await);
    assert_eq!(reason, RefusalReason::Expired);
    assert!(why.contains("make another"), "{why}");
}

/// The issuer's clock is ahead by an hour, then by two with a certificate made at that clock, which the newcomer's clock
/// takes for one of the future.
#[tokio::test]
async fn clocks_apart_are_told_and_not_taken_for_distrust() {
    for ahead_s in [3600, 7200] {
        let mut ground = ground();
        ground.server.shutdown().await;
        let now = unix_time_s() + ahead_s;
        let identity = Identity::load(ground.dir.path()).unwrap();
        ground.issuer.renew(&identity, now).unwrap().save_certificate(ground.dir.path()).unwrap();
        ground.server = listen(ground.dir.path(), ahead_s);
        ground.addr = ground.server.local_addr();
        let (reason, why) = refused(ground.join(&ground.token_at(Role::Node, 1, now), Role::Node).await);
        assert_eq!(reason, RefusalReason::ClockSkew);
        let said: u64 = why.split(' ').find_map(|word| word.parse().ok()).expect("how far");
        assert!(said.abs_diff(ahead_s) <= 30 && why.contains("behind"), "{why}");
    }
}

#[tokio::test]
async fn a_request_for_a_key_that_the_sender_does_not_hold_is_refused() {
    let ground = ground();
    let token = ground.token(Role::Node, 1);
    let request = |csr: Vec<u8>| {
        let message = JoinRequest {
            token: token.clone().message().clone(),
            role: Role::Node,
            csr,
            now_unix_s: unix_time_s(),
        };
        Message::JoinRequest(Box::new(message))
    };
    let own = Newcomer::new(token.clone(), Role::Node).unwrap().request(0).unwrap().csr;
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut foreign = own;
    // The bit string of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410, section 4).
    let before = [0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let at = foreign.windows(6).position(|bytes| bytes == before).expect("a key") + before.len();
    foreign[at..at + 32].copy_from_slice(other.public_key_raw());
    let curve = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let ecdsa = rcgen::CertificateParams::default().serialize_request(&curve).unwrap().der().to_vec();
    for (what, csr) in [("foreign key", foreign), ("another kind of key", ecdsa), ("nothing", Vec::new())] {
        let (reason, why) = refused(ground.ask(&token, request(csr)).await);
        assert_eq!(reason, RefusalReason::Malformed, "{what}: {why}");
    }
    ground.join(&token, Role::Node).await.expect("nothing was used up");
}

#[tokio::test]
async fn renewals_are_for_the_certificates_own_key_and_life() {
    let ground = ground();
    let member = ground.join(&ground.token(Role::Client, 1), Role::Client).await.unwrap();
    let other = ground.join(&ground.token(Role::Client, 1), Role::Client).await.unwrap();
    let live = LiveIdentity::from(member.clone());
    let renewed = renew(&live, &ground.addr.to_string(), None).await.unwrap();
    assert_eq!(
        (renewed.node_id(), renewed.role(), renewed.name()),
        (member.node_id(), Role::Client, member.name())
    );

    let net = TokioNet::new(Handle::current());
    let foreign: RenewRequest = other.renew_request(unix_time_s()).unwrap();
    let config = member_config(&live).unwrap();
    let message = Message::RenewRequest(foreign);
    let asked = ask(ground.addr, EndpointConfig::default(), config, None, message, &net).await;
    assert!(matches!(asked, Err(JoinError::Refused { reason: RefusalReason::Uncertified, .. })), "{asked:?}");

    let bare = Message::RenewRequest(member.renew_request(unix_time_s()).unwrap());
    let token = ground.token(Role::Client, 1);
    assert_eq!(refused(ground.ask(&token, bare).await).0, RefusalReason::Uncertified, "no certificate");

    let past = Lease { from_unix_s: 1_000_000, until_unix_s: 2_000_000 };
    let expired = LiveIdentity::from(ground.issuer.issue_for(Role::Client, "old", past).unwrap());
    let asked = renew(&expired, &ground.addr.to_string(), None).await;
    assert!(matches!(asked, Err(JoinError::Connect(ConnectError::Forbidden { .. }))), "{asked:?}");
}

async fn raw(ground: &Ground, token: &Token) -> (quinn::Endpoint, Connection) {
    let net = TokioNet::new(Handle::current());
    let endpoint = endpoint_for(ground.addr, EndpointConfig::default(), &net).unwrap();
    let config = newcomer_config(token.message()).unwrap();
    let connection = handshake(&endpoint, config, ground.addr).await.unwrap();
    (endpoint, connection)
}

async fn closed_with(connection: &Connection) -> Code {
    match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) => Code::from(close.error_code),
        other => panic!("closed otherwise: {other}"),
    }
}

#[tokio::test]
async fn what_is_no_question_closes_the_connection() {
    let ground = ground();
    let token = ground.token(Role::Node, 1);
    let header = |kind, length| Header { kind, schema: WIRE_VERSION, length, hops: 0 }.encode().to_vec();
    let mut printed = Vec::new();
    let message = Message::JoinToken(Box::new(token.message().clone()));
    encode(&message.into(), WIRE_VERSION, &mut printed).unwrap();
    let hostile = [
        ("oversized", header(Kind::JoinRequest, JOIN_BODY_BYTES_MAX + 1)),
        ("rotten", [header(Kind::JoinRequest, 512), vec![0xff; 512]].concat()),
        ("cut", header(Kind::RenewRequest, 512)),
        ("work", header(Kind::TaskRequest, 16)),
        ("a bare token", printed),
        ("garbage", vec![0xa5; 64]),
        ("nothing", Vec::new()),
    ];
    for (what, bytes) in hostile {
        let (_endpoint, connection) = raw(&ground, &token).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        // The issuer may close before all of it is written.
        let _ = send.write_all(&bytes).await;
        let _ = send.finish();
        assert_eq!(closed_with(&connection).await, Code::Protocol, "{what}");
    }
    ground.join(&token, Role::Node).await.expect("others are served");
}

/// Strangers that connect and say nothing: a bounded number is held for a bounded time, and then there is room again.
#[tokio::test(start_paused = true)]
async fn a_flood_of_handshakes_is_bounded() {
    let (dir, issuer) = issuer_dir(&Authority::create().unwrap());
    let net = VirtualNet::new(7, Duration::from_millis(1));
    let registrar = Registrar::open(dir.path(), Vec::new(), 0).unwrap();
    let options = JoinServerOptions::new(LOOPBACK, Identity::load(dir.path()).unwrap()).net(net.clone());
    let server = JoinServer::bind(options, registrar).unwrap();
    let addr = server.local_addr();
    let terms = TokenTerms {
        role: Role::Node,
        label: String::new(),
        ttl: Duration::from_secs(60),
        uses_max: 1,
        issuer: Identity::load(dir.path()).unwrap().node_id(),
        issuer_address: addr.to_string(),
    };
    let config = newcomer_config(issuer.mint(terms, unix_time_s()).unwrap().message()).unwrap();
    let knock = async || {
        let endpoint = endpoint_for(addr, EndpointConfig::default(), &net).unwrap();
        handshake(&endpoint, config.clone(), addr).await.map(|connection| (endpoint, connection))
    };
    let mut held = Vec::new();
    let mut turned_away = 0;
    for _ in 0..64 {
        match knock().await {
            Ok(connected) => held.push(connected),
            Err(ConnectError::Overloaded { .. }) => turned_away += 1,
            Err(other) => panic!("turned away otherwise: {other}"),
        }
    }
    assert!(turned_away >= 20 && held.len() >= 32, "{turned_away} turned away, {} held", held.len());
    for (_, connection) in &held {
        assert_eq!(closed_with(connection).await, Code::Slow);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    knock().await.expect("there is room again");
}
