//! Identities on disk and what they say.

use std::path::Path;

use shoal_protocol::message::Role;

use super::{Authority, Identity, IdentityError, Subject};

#[test]
fn identities_survive_the_disk_and_keys_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create().unwrap();
    authority.save(&dir.path().join("authority")).unwrap();
    std::fs::remove_file(dir.path().join("authority/root.key")).unwrap(); // moved offline
    let authority = Authority::load(&dir.path().join("authority")).unwrap();
    let node = authority.issue(Role::Node, "node-1").unwrap();
    node.save(dir.path()).unwrap();
    let again = Identity::load(dir.path()).unwrap();
    assert_eq!(again.node_id(), node.node_id());
    assert_eq!((again.role(), again.name()), (Role::Node, "node-1"));
    for key in ["identity.key", "authority/issuer.key"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let other = authority.issue(Role::Node, "node-1").unwrap();
    assert_ne!(other.node_id(), node.node_id(), "the key is the identity");
    assert!(matches!(other.save(dir.path()), Err(IdentityError::Exists { .. })));
}

#[test]
fn nothing_is_left_when_a_file_is_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("authority.crt"), "mine").unwrap();
    let identity = Authority::create().unwrap().issue(Role::Client, "c").unwrap();
    assert!(matches!(identity.save(dir.path()), Err(IdentityError::Exists { .. })));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(std::fs::read_to_string(dir.path().join("authority.crt")).unwrap(), "mine");
}

#[test]
fn damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create().unwrap();
    authority.issue(Role::Client, "a").unwrap().save(dir.path()).unwrap();
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
    authority.issue(Role::Client, "b").unwrap().save(other.path()).unwrap();
    let foreign = std::fs::read_to_string(other.path().join("identity.key")).unwrap();
    assert!(broken("identity.key", &foreign).contains("does not belong"));
    assert!(Identity::load(dir.path()).is_ok());
    assert!(matches!(Identity::load(Path::new("/nonexistent")), Err(IdentityError::Missing { .. })));
}

#[test]
fn names_are_checked() {
    let authority = Authority::create().unwrap();
    for name in ["", "a/b", "ü", "a b", &"x".repeat(65)] {
        let refused = authority.issue(Role::Client, name);
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
