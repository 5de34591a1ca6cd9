//! Identities on disk and what they say.

use std::path::Path;
use std::time::Duration;

use rcgen::PublicKeyData;
use shoal_protocol::NodeId;
use shoal_protocol::message::{JoinGrant, Role};

use super::issuer::{request_for, requested_key};
use super::{
    Authority, Identity, IdentityError, Issuer, Newcomer, Registrar, Subject, Token, TokenError, TokenTerms,
};

fn issuer() -> Issuer {
    Authority::create().unwrap().issuer().unwrap()
}

#[test]
fn identities_survive_the_disk_and_keys_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let root = Authority::create().unwrap();
    root.save(&dir.path().join("authority")).unwrap();
    let root = Authority::load(&dir.path().join("authority")).unwrap();
    let issuer = root.issuer().unwrap();
    let node = issuer.issue(Role::Node, "node-1").unwrap();
    node.save(dir.path()).unwrap();
    assert!(!Issuer::is_in(dir.path()), "a node holds no signing key");
    issuer.save(dir.path()).unwrap();
    let again = Identity::load(dir.path()).unwrap();
    assert_eq!(again.node_id(), node.node_id());
    assert_eq!((again.role(), again.name()), (Role::Node, "node-1"));
    for key in ["identity.key", "issuer.key", "authority/root.key"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let other = Issuer::load(dir.path()).unwrap().issue(Role::Node, "node-1").unwrap();
    assert_ne!(other.node_id(), node.node_id(), "the key is the identity");
    assert!(matches!(other.save(dir.path()), Err(IdentityError::Exists { .. })));
}

#[test]
fn nothing_is_left_when_a_file_is_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("authority.crt"), "mine").unwrap();
    let identity = issuer().issue(Role::Client, "c").unwrap();
    assert!(matches!(identity.save(dir.path()), Err(IdentityError::Exists { .. })));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(std::fs::read_to_string(dir.path().join("authority.crt")).unwrap(), "mine");
}

#[test]
fn damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = issuer();
    issuer.issue(Role::Client, "a").unwrap().save(dir.path()).unwrap();
    let broken = |name: &str, text: &str| {
        let kept = std::fs::read(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
        let error = Identity::load(dir.path()).expect_err(name);
        std::fs::write(dir.path().join(name), kept).unwrap();
        error.to_string()
    };
    for name in ["identity.crt", "identity.key", "authority.crt"] {
        assert!(broken(name, "rubbish").contains(name));
        assert!(broken(name, "").contains(name));
        let huge = "x".repeat(1 << 20);
        assert!(broken(name, &huge).contains(name));
    }
    let other = tempfile::tempdir().unwrap();
    issuer.issue(Role::Client, "b").unwrap().save(other.path()).unwrap();
    let foreign = std::fs::read_to_string(other.path().join("identity.key")).unwrap();
    assert!(broken("identity.key", &foreign).contains("does not belong"));
    assert!(Identity::load(dir.path()).is_ok());
    assert!(matches!(Identity::load(Path::new("/nonexistent")), Err(IdentityError::Missing { .. })));
}

#[test]
fn names_are_checked() {
    let issuer = issuer();
    for name in ["", "a/b", "ü", "a b", &"x".repeat(65)] {
        let refused = issuer.issue(Role::Client, name);
        assert!(matches!(refused, Err(IdentityError::Name(_))), "{name}");
    }
}

#[test]
fn certificates_without_a_role_are_none_of_a_mesh() {
    let of = |names: &[&str]| {
        let mut params = rcgen::CertificateParams::default();
        let uri = |name: &&str| rcgen::SanType::URI((*name).try_into().unwrap());
        params.subject_alt_names = names.iter().map(uri).collect();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        Subject::of(params.self_signed(&key).unwrap().der())
    };
    assert!(of(&["shoal://role/node/a"]).is_ok());
    for wrong in [
        &[][..],
        &["https://example.org"],
        &["shoal://role/node"],
        &["shoal://role/king/a"],
        &["shoal://role/node/a", "shoal://role/operator/a"],
    ] {
        assert!(of(wrong).is_err(), "{wrong:?}");
    }
    assert!(Subject::of(b"rubbish").is_err());
}

fn terms() -> TokenTerms {
    TokenTerms {
        role: Role::Node,
        label: "spot".to_owned(),
        ttl: Duration::from_secs(600),
        uses_max: 1,
        issuer: NodeId([7; 16]),
        issuer_address: "10.0.0.1:7001".to_owned(),
    }
}

#[test]
fn a_token_is_one_line_and_half_of_it_is_none() {
    let token = issuer().mint(terms(), 1_000).unwrap();
    let line = token.to_string();
    assert!(line.len() < 300 && !line.contains(char::is_whitespace), "{line}");
    assert_eq!(format!("  {line}\n").parse(), Ok(token.clone()));
    assert_eq!((token.role(), token.expires_at_unix_s()), (Role::Node, 1_600));
    for cut in 0..line.len() {
        assert!(matches!(line[..cut].parse::<Token>(), Err(TokenError::Text(_))), "cut at {cut}");
    }
    assert!(format!("shoal-join-{}", "A".repeat(1 << 20)).parse::<Token>().is_err());
    assert!(!format!("{token:?}").contains("mac"), "a log does not tell the secret");
}

#[test]
fn tokens_are_made_within_bounds_only() {
    let issuer = issuer();
    let refused = |terms: TokenTerms| assert!(issuer.mint(terms.clone(), 0).is_err(), "{terms:?}");
    refused(TokenTerms { ttl: Duration::ZERO, ..terms() });
    refused(TokenTerms { ttl: Duration::from_secs(86_401), ..terms() });
    refused(TokenTerms { uses_max: 0, ..terms() });
    refused(TokenTerms { uses_max: 4097, ..terms() });
    refused(TokenTerms { label: "a/b".to_owned(), ..terms() });
    refused(TokenTerms { issuer_address: "nowhere".to_owned(), ..terms() });
    refused(TokenTerms { issuer_address: format!("{}:1", "a".repeat(300)), ..terms() });
}

/// Whatever byte of a request is damaged, nobody gets a certificate for another key. (Some bits of its framing are not
/// signed.)
#[test]
fn damaged_requests_are_refused() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = request_for(&key).unwrap();
    let own = key.subject_public_key_info();
    let granted = |request: &[u8]| requested_key(request).ok().map(|key| key.subject_public_key_info());
    assert_eq!(granted(&request), Some(own.clone()));
    for at in 0..request.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = request.clone();
            damaged[at] ^= flip;
            let granted = granted(&damaged);
            assert!(granted.is_none() || granted.as_ref() == Some(&own), "byte {at} ^ {flip:#x}");
        }
        assert_eq!(granted(&request[..at]), None, "cut at {at}");
    }
}

/// An issuer that is genuine but wrong gives nothing that would be stored.
#[test]
fn a_newcomer_takes_only_what_it_asked_for() {
    let (dir, root) = (tempfile::tempdir().unwrap(), Authority::create().unwrap());
    let issuer = root.issuer().unwrap();
    issuer.issue(Role::Node, "issuer").unwrap().save(dir.path()).unwrap();
    issuer.save(dir.path()).unwrap();
    let node = Identity::load(dir.path()).unwrap().node_id();
    let token = issuer.mint(TokenTerms { uses_max: 9, issuer: node, ..terms() }, 1_000).unwrap();
    let newcomer = Newcomer::new(token.clone(), Role::Node).unwrap();
    let mut registrar = Registrar::open(dir.path(), Vec::new(), 1_000).unwrap();
    let granted = registrar.handle_join(&newcomer.request(1_000).unwrap(), 1_000).unwrap();
    assert_eq!(newcomer.handle_grant(granted.clone()).unwrap().name(), "spot");

    let other = Newcomer::new(token, Role::Node).unwrap();
    assert!(other.handle_grant(granted.clone()).is_err(), "a certificate of another key");
    let elsewhere = Authority::create().unwrap().issuer().unwrap();
    let authority = elsewhere.authority.to_vec();
    assert!(newcomer.handle_grant(JoinGrant { authority, ..granted.clone() }).is_err(), "another authority");
    let chain = granted.chain[1..].to_vec();
    assert!(
        newcomer.handle_grant(JoinGrant { chain, ..granted.clone() }).is_err(),
        "no certificate of its own"
    );
    assert!(newcomer.handle_grant(JoinGrant { chain: Vec::new(), ..granted }).is_err(), "nothing");
}
