//! Nodes that are members of one mesh, as real processes.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Home, MODEL, Serving, golden};

/// How long members may take to hear of each other, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);
/// After its ready line, a node that joined serves callers of every other (it takes about 0.05 s).
const USABLE_WITHIN: Duration = Duration::from_secs(2);

fn status(home: &Home, serving: &Serving) -> Value {
    let ran = home.run(["status", "--mesh", &serving.address("quic"), "--json"]).expect(0);
    serde_json::from_str(&ran.out).expect("JSON")
}

/// Asks until the members and their states are these.
pub(super) fn sees(home: &Home, serving: &Serving, expected: &[(&Value, &str)]) {
    let start = shoal::clock::now();
    loop {
        let status = status(home, serving);
        let members = status["members"].as_array().expect("a list").clone();
        let holds = |(node, state): &(&Value, &str)| {
            members.iter().any(|member| member["node"] == **node && member["state"] == *state)
        };
        if members.len() == expected.len() && expected.iter().all(holds) {
            return;
        }
        assert!(elapsed(start) < PATIENCE, "{members:#?}");
    }
}

fn elapsed(start: Instant) -> Duration {
    shoal::clock::now().saturating_duration_since(start)
}

#[test]
fn two_processes_are_members_of_one_mesh() {
    let (first, second) = (Home::new(), Home::new());
    first.run(["mesh", "init"]).expect(0);
    let serve = |home: &Home, seeds: &str, more: &[&str]| {
        let text = format!("version = 1\n[mesh]\naddr = \"127.0.0.1:0\"\nseeds = [{seeds}]\n");
        let config = home.write("node.toml", text).display().to_string();
        let args = ["--config", &config, "--http", "off", "--quic", "127.0.0.1:0"];
        Serving::start(home, args.iter().chain(more).copied())
    };
    let issuer = serve(&first, "", &[]);
    sees(&first, &issuer, &[(&issuer.ready["node"], "alive")]);
    let token = first.run(["mesh", "token"]).expect(0).out.trim().to_owned();
    let seed = format!("\"{}\"", issuer.address("mesh"));
    let join = issuer.address("join");
    let node = serve(&second, &seed, &["--join", &join, "--token", &token]);
    let ids = [issuer.ready["node"].clone(), node.ready["node"].clone()];
    let alive = [(&ids[0], "alive"), (&ids[1], "alive")];
    sees(&first, &issuer, &alive);
    sees(&first, &node, &alive);

    // Restarted elsewhere as the same node: a higher generation, no second member.
    let generation = |status: &Value| {
        let members = status["members"].as_array().expect("a list");
        members.iter().find(|member| member["node"] == ids[1]).map(|member| member["generation"].as_u64())
    };
    let before = generation(&status(&first, &issuer));
    node.signal("-KILL");
    drop(node);
    let node = serve(&second, &seed, &[]);
    sees(&first, &node, &alive);
    assert!(generation(&status(&first, &node)) > before);
    sees(&first, &issuer, &alive);

    // It leaves: no detection is needed.
    node.signal("-TERM");
    assert_eq!(node.ended().0, Some(0));
    sees(&first, &issuer, &[(&ids[0], "alive"), (&ids[1], "down")]);
}

/// What README's "A second machine" says, with both machines on this one: only the addresses are given besides.
#[test]
fn a_second_machine_joins_with_one_command() {
    let (first, second) = (Home::new(), Home::new());
    let on_loopback = ["--http", "off", "--quic", "127.0.0.1:0"];
    first.run(["mesh", "init"]).expect(0);
    let here = Serving::start(&first, on_loopback);
    let made = first.run(["mesh", "token"]).expect(0);
    let join = here.address("join");
    assert!(made.err.contains(&format!("shoal serve --join {join}")), "{}", made.err);
    let token = second.write("token", &made.out).display().to_string();
    let model = golden(MODEL).display().to_string();
    let joined = ["--preload", &model, "--threads", "1", "--join", &join, "--token-file", &token];
    let there = Serving::start(&second, on_loopback.into_iter().chain(joined));
    // Through the first, which does not have the model.
    let (ready_at, entry) = (shoal::clock::now(), here.address("quic"));
    while first.run(["encode", "--mesh", &entry, "--model", MODEL, "--", "a text"]).code != Some(0) {
        assert!(elapsed(ready_at) < USABLE_WITHIN);
    }
    let ids = [here.ready["node"].clone(), there.ready["node"].clone()];
    let alive = [(&ids[0], "alive"), (&ids[1], "alive")];
    sees(&first, &here, &alive);
    sees(&first, &there, &alive);

    // Each finds the other again by itself, at whatever address it starts.
    remembers(&first, &there);
    here.signal("-KILL");
    drop(here);
    let here = Serving::start(&first, on_loopback);
    sees(&first, &here, &alive);
    sees(&first, &there, &alive);
    remembers(&second, &here);
    there.signal("-TERM");
    assert_eq!(there.ended().0, Some(0));
    let there = Serving::start(&second, on_loopback);
    sees(&first, &there, &alive);
    sees(&first, &here, &alive);
}

/// Waits until the machine has the member on its disk.
fn remembers(home: &Home, member: &Serving) {
    let (file, address) = (home.path("identity/seeds"), member.address("mesh"));
    let start = shoal::clock::now();
    let kept = || std::fs::read_to_string(&file).unwrap_or_default();
    while kept().trim() != address {
        assert!(elapsed(start) < PATIENCE, "{address}: {}", kept());
        std::thread::yield_now();
    }
}
