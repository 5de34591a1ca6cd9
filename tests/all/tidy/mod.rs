//! The house rules as a test: floors, sizes, repetition, markers, and documents that name what exists.

mod documents;
mod floors;
mod repetition;
mod sizes;
mod sources;

use std::path::{Path, PathBuf};

/// The workspace's root.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests crate lies below the root").to_owned()
}

/// Rooms with source code.
const ROOMS: [&str; 6] = ["protocol", "kernels", "mesh", "node", "bench", "tests"];

/// A source file: its path below the root, and its text.
struct Source {
    path: String,
    text: String,
}

/// Every Rust file of the project, in path order.
fn rust_sources() -> Vec<Source> {
    sources(&["rs"])
}

/// Every file of the project with one of these extensions, in path order.
fn sources(extensions: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for room in ROOMS {
        collect(&root().join(room), extensions, &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 5, "the walk lost the sources: {} files", found.len());
    found
}

fn collect(folder: &Path, extensions: &[&str], found: &mut Vec<Source>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            collect(&path, extensions, found);
        } else if path.extension().is_some_and(|found| extensions.iter().any(|known| found == *known)) {
            let text = std::fs::read_to_string(&path).expect("UTF-8 source");
            let path = path.strip_prefix(root()).expect("below the root").display().to_string();
            found.push(Source { path, text });
        }
    }
}

/// Fails with every complaint at once, so that one run shows all that is to be done.
#[track_caller]
fn complain(rule: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{rule}\n  {}", complaints.join("\n  "));
}
