//! Identities on disk and what they say.

use std::path::Path;
use std::time::Duration;

use shoal_protocol::message::Role;

use super::{Authority, Identity, IdentityError, Issuer, Subject, Token, TokenError, TokenTerms};

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
