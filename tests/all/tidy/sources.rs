//! Nothing pretends: no markers of unfinished work, no tests that are skipped, no silent waivers, no stray unsafe.

use super::{complain, rust_sources};

/// Text that may not stand in a source file. Spelt in halves so that this file does not break its own rule.
fn markers() -> Vec<(String, &'static str)> {
    [
        ("todo", "!(", "unfinished"),
        ("unimplemented", "!(", "unfinished"),
        ("FIX", "ME", "unfinished: open an issue or do it"),
        ("XX", "X", "unfinished: open an issue or do it"),
        ("HA", "CK", "say why it is right or make it right"),
        ("#[ig", "nore", "slow tests have their own command; others run"),
        ("#[al", "low(", "use expect with a reason"),
        ("#![al", "low(", "use expect with a reason"),
    ]
    .into_iter()
    .map(|(head, tail, why)| (format!("{head}{tail}"), why))
    .collect()
}

#[test]
fn no_markers_of_unfinished_work() {
    let markers = markers();
    let mut complaints = Vec::new();
    for source in rust_sources() {
        for (number, line) in source.text.lines().enumerate() {
            for (marker, why) in markers.iter().filter(|(marker, _)| line.contains(marker.as_str())) {
                complaints.push(format!("{}:{}: {marker} ({why})", source.path, number + 1));
            }
        }
    }
    complain("markers that may not land:", &complaints);
}

#[test]
fn unsafe_lives_in_kernels_and_argues() {
    let mut complaints = Vec::new();
    for source in rust_sources().iter().filter(|source| !source.path.starts_with("kernels/")) {
        for (number, line) in source.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains(concat!("unsafe", " {")) || code.contains(concat!("unsafe", " fn")) {
                complaints.push(format!("{}:{}", source.path, number + 1));
            }
        }
    }
    // The counting allocator of the allocation test implements an unsafe trait; it cannot live in kernels/.
    complaints.retain(|place| !place.starts_with("tests/src/alloc.rs"));
    complain("unsafe outside kernels/:", &complaints);
}

#[test]
fn faces_only_re_export() {
    let mut complaints = Vec::new();
    for source in rust_sources().iter().filter(|source| source.path.ends_with("/src/lib.rs")) {
        if source.text.lines().any(|line| line.trim_start().starts_with("impl ") || line.contains("fn ")) {
            complaints.push(source.path.clone());
        }
    }
    complain("lib.rs is a face, it holds no logic:", &complaints);
}
