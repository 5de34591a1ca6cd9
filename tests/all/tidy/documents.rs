//! Documents are true: every path that they name in backticks exists, and the map stays short.

use super::{complain, root};

const DOCUMENTS: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"];
const ARCHITECTURE_LINES_MAX: usize = 250;

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The spans in backticks that look like a path of this tree: a known folder, then a slash.
fn paths(text: &str) -> Vec<&str> {
    let folders = ["protocol/", "kernels/", "mesh/", "node/", "configs/", "bench/", "tests/", ".ci/"];
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|span| folders.iter().any(|folder| span.starts_with(folder)))
        .filter(|span| !span.contains([' ', '*', '<', '{', '$']))
        .collect()
}

#[test]
fn documents_name_what_exists() {
    let mut complaints = Vec::new();
    for document in DOCUMENTS {
        for path in paths(&read(document)) {
            if !root().join(path.trim_end_matches('/')).exists() {
                complaints.push(format!("{document}: {path}"));
            }
        }
    }
    complain("documents name paths that do not exist:", &complaints);
}

#[test]
fn the_map_stays_short() {
    let lines = read("ARCHITECTURE.md").lines().count();
    assert!(
        lines <= ARCHITECTURE_LINES_MAX,
        "ARCHITECTURE.md: {lines} lines, at most {ARCHITECTURE_LINES_MAX}"
    );
}

#[test]
fn paths_are_found_in_backticks_only() {
    assert_eq!(paths("see `node/src/lib.rs` and `cargo run`, not node/x or `bench/*`"), ["node/src/lib.rs"]);
}
