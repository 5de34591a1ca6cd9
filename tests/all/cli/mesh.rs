//! A mesh grows: an issuer, tokens, and machines that join with them.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::{Home, Serving};

const QUIC_ONLY: [&str; 4] = ["--http", "off", "--quic", "127.0.0.1:0"];

fn token(home: &Home, args: &[&str]) -> String {
    let ran = home.run(["mesh", "token"].iter().chain(args).copied()).expect(0);
    assert_eq!(ran.out.lines().count(), 1, "one line: {}", ran.out);
    ran.out.trim().to_owned()
}

#[test]
fn machines_join_with_tokens_and_serve_each_other() {
    let (first, second, laptop) = (Home::new(), Home::new(), Home::new());
    first.run(["mesh", "init"]).expect(0);
    std::fs::remove_dir_all(first.path("authority")).expect("the authority goes offline");
    let unknown = first.run(["mesh", "token"]).expect(2);
    assert!(unknown.err.contains("--issuer HOST:PORT"), "{}", unknown.err);
    let issuer = Serving::start(&first, QUIC_ONLY);
    let join = issuer.address("join");

    // A node gets its identity as it starts, and needs no token when it starts again.
    let node_token = token(&first, &[]);
    let args = QUIC_ONLY.into_iter().chain(["--join", &join]);
    let none = second.run(["serve"].into_iter().chain(args.clone())).expect(2);
    assert!(none.err.contains("--token"), "{}", none.err);
    let node = Serving::start(&second, args.clone().chain(["--token", &node_token]));
    assert_ne!(node.ready["node"], issuer.ready["node"]);
    assert_eq!(node.ready["join"], Value::Null, "a member is no issuer");
    for (file, mode) in [("identity.key", 0o600), ("identity.crt", 0o644), ("issuers", 0o644)] {
        let meta = std::fs::metadata(second.path("identity").join(file)).expect(file);
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{file}");
    }
    assert!(!second.path("identity/issuer.key").exists(), "a member holds no signing key");
    let id = node.ready["node"].clone();
    node.signal("-TERM");
    assert_eq!(node.ended().0, Some(0));
    let node = Serving::start(&second, args);
    assert_eq!(node.ready["node"], id, "the same key");

    // A client joins and is served by both.
    let out = laptop.path("client").display().to_string();
    let client_token = token(&first, &["--role", "client", "--label", "laptop", "--uses", "2"]);
    let joined = laptop.run(["mesh", "join", &join, "--token", &client_token, "--out", &out]).expect(0);
    assert!(joined.out.starts_with("laptop "), "{}", joined.out);
    for serving in [&issuer, &node] {
        let status = laptop.run(["status", "--mesh", &serving.address("quic"), "--json"]).expect(0);
        let status: Value = serde_json::from_str(&status.out).expect("JSON");
        assert_eq!(
            (&status["node"], &status["warnings"]),
            (&serving.ready["node"], &Value::Array(Vec::new()))
        );
    }
    let before = std::fs::read(laptop.path("client/identity.crt")).expect("a certificate");
    laptop.run(["mesh", "renew"]).expect(0);
    assert_ne!(std::fs::read(laptop.path("client/identity.crt")).expect("a certificate"), before);
    laptop.run(["status", "--mesh", &node.address("quic")]).expect(0);
}

#[test]
fn what_a_token_does_not_allow_is_told_with_its_code() {
    let (home, other) = (Home::new(), Home::new());
    home.run(["mesh", "init"]).expect(0);
    let issuer = Serving::start(&home, QUIC_ONLY);
    let join = issuer.address("join");
    let once = token(&home, &["--role", "client"]);
    let out = |name: &str| other.path(name).display().to_string();
    let join_as = |name: &str, join: &str, token: &str, code| {
        other.run(["mesh", "join", join, "--token", token, "--out", &out(name)]).expect(code).err
    };
    join_as("first", &join, &once, 0);
    let file = other.write("token", token(&home, &["--role", "client"])).display().to_string();
    other.run(["mesh", "join", &join, "--token-file", &file, "--out", &out("from-file")]).expect(0);
    let args = ["mesh", "join", &join, "--out", &out("from-env")];
    let from_env = other.shoal(args).env("SHOAL_TOKEN", token(&home, &["--role", "client"])).output();
    assert!(from_env.expect("runs").status.success());
    let none = other.run(args).expect(2);
    assert!(none.err.contains("SHOAL_TOKEN"), "{}", none.err);
    other.run(["mesh", "join", &join, "--token-file", "/nonexistent", "--out", &out("none")]).expect(3);
    other.run(["serve", "--token", "x"]).expect(2);
    assert!(join_as("second", &join, &once, 3).contains("used up"));
    assert!(!other.path("second").exists(), "nothing is left of a refused join");
    assert!(join_as("first", &join, &once, 3).contains("already"));
    assert!(join_as("second", &join, &once[..once.len() - 9], 2).contains("whole line"));
    let serve = QUIC_ONLY.into_iter().chain(["--join", &join, "--token"]);
    let client_token = token(&home, &["--role", "client"]);
    let wrong_role = other.run(["serve"].into_iter().chain(serve).chain([client_token.as_str()])).expect(3);
    assert!(wrong_role.err.contains("for a client, not for a node"), "{}", wrong_role.err);

    // The issuer starts anew, on another port: what was used stays used.
    issuer.signal("-TERM");
    assert_eq!(issuer.ended().0, Some(0));
    let issuer = Serving::start(&home, QUIC_ONLY);
    let join = issuer.address("join");
    assert!(join_as("second", &join, &once, 3).contains("used up"));
    let fresh = token(&home, &["--role", "client"]);
    join_as("second", &join, &fresh, 0);
    drop(issuer);
    join_as("third", &join, &token(&home, &[]), 5);
    for args in [["--uses", "0"], ["--ttl", "25h"], ["--label", "a/b"], ["--issuer", "nowhere"]] {
        home.run(["mesh", "token"].into_iter().chain(args)).expect(2);
    }
}

#[test]
fn a_second_issuer_is_made_with_the_authoritys_key_only() {
    let home = Home::new();
    home.run(["mesh", "init"]).expect(0);
    let (authority, out) =
        (home.path("authority").display().to_string(), home.path("two").display().to_string());
    let make = ["mesh", "issuer", "--authority", &authority, "--out", &out, "--node", "two"];
    home.run(make).expect(0);
    let serving = Serving::start(&home, QUIC_ONLY.into_iter().chain(["--identity", &out]));
    let line = token(&home, &["--identity", &out, "--role", "operator"]);
    let joined = home.path("joined").display().to_string();
    home.run(["mesh", "join", &serving.address("join"), "--token", &line, "--out", &joined]).expect(0);
    home.run(make).expect(3);
    std::fs::remove_file(home.path("authority/root.key")).expect("offline");
    let gone =
        home.run(["mesh", "issuer", "--authority", &authority, "--out", &out, "--node", "x"]).expect(3);
    assert!(gone.err.contains("root.key"), "{}", gone.err);
}
