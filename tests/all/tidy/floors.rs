//! A room may lean on the rooms below it and on no other; the pure rooms know no runtime.

use super::{complain, root};

/// For each crate, the crates of ours that it may depend on.
const FLOORS: [(&str, &[&str]); 8] = [
    ("protocol", &[]),
    ("kernels", &["shoal-protocol"]),
    ("kernels/emu", &[]),
    ("kernels/standin", &["shoal-emu"]),
    ("mesh", &["shoal-protocol"]),
    ("node", &["shoal-protocol", "shoal-kernels", "shoal-mesh"]),
    ("bench", &["shoal-protocol", "shoal-kernels", "shoal-mesh", "shoal"]),
    ("tests", &["shoal-protocol", "shoal-kernels", "shoal-mesh", "shoal"]),
];

/// Crates that a room must never name, with the reason.
const FORBIDDEN: [(&str, &str, &str); 8] = [
    ("protocol", "tokio", "the words have no runtime"),
    ("protocol", "quinn", "the words do no I/O"),
    ("kernels", "tokio", "kernels are synchronous"),
    ("kernels", "quinn", "kernels know no network"),
    ("kernels", "ractor", "kernels know no actors"),
    ("mesh", "ractor", "the client library does not bring an actor runtime"),
    ("mesh", "axum", "HTTP is the node's edge"),
    ("mesh", "tokenizers", "the client has no tokenizer"),
];

fn dependencies(room: &str) -> Vec<String> {
    let manifest = std::fs::read_to_string(root().join(room).join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = manifest.parse().expect("a TOML manifest");
    ["dependencies", "build-dependencies"]
        .into_iter()
        .filter_map(|section| manifest.get(section)?.as_table())
        .flat_map(|table| table.keys().cloned())
        .collect()
}

#[test]
fn rooms_lean_only_on_lower_floors() {
    let mut complaints = Vec::new();
    for (room, allowed) in FLOORS {
        for dependency in dependencies(room) {
            if dependency.starts_with("shoal") && !allowed.contains(&dependency.as_str()) {
                complaints.push(format!("{room} depends on {dependency}"));
            }
        }
    }
    complain("a room leans on its own or a higher floor:", &complaints);
}

#[test]
fn pure_rooms_know_no_runtime() {
    let mut complaints = Vec::new();
    for (room, forbidden, reason) in FORBIDDEN {
        let optional_in_mesh = room == "mesh" && matches!(forbidden, "tokio" | "quinn");
        if !optional_in_mesh && dependencies(room).iter().any(|name| name == forbidden) {
            complaints.push(format!("{room} depends on {forbidden}: {reason}"));
        }
    }
    complain("a room names what does not belong there:", &complaints);
}

#[test]
fn every_version_stands_once() {
    let mut complaints = Vec::new();
    for (room, _) in FLOORS {
        let manifest = std::fs::read_to_string(root().join(room).join("Cargo.toml")).expect("a manifest");
        let manifest: toml::Table = manifest.parse().expect("a TOML manifest");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(|section| section.as_table()) else {
                continue;
            };
            for (name, value) in table {
                let inherits = value.as_table().and_then(|table| table.get("workspace")?.as_bool());
                if inherits != Some(true) {
                    complaints.push(format!("{room}: {name} names its own version"));
                }
            }
        }
    }
    complain("versions belong in [workspace.dependencies]:", &complaints);
}
