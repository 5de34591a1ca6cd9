//! The share of lines that stand, word for word, in another file of the same room: the sharpest single number
//! for how well a code base is cut. At most 5 % of a room's lines.

use std::collections::BTreeMap;

use super::{ROOMS, Source, complain, rust_sources};

/// A run of this many equal lines counts as repeated.
const BLOCK_LINES: usize = 6;
const REPEATED_PERCENT_MAX: f64 = 5.0;

/// Lines that carry meaning: no blanks, comments, imports or lone punctuation.
fn meaningful(text: &str) -> Vec<&str> {
    text.lines()
        .map(str::trim)
        .filter(|line| {
            !line.is_empty()
                && !line.starts_with("//")
                && !line.starts_with("use ")
                && line.chars().any(char::is_alphanumeric)
        })
        .collect()
}

/// (repeated, all) meaningful lines of the sources.
fn repeated(sources: &[&Source]) -> (usize, usize) {
    let files: Vec<Vec<&str>> = sources.iter().map(|source| meaningful(&source.text)).collect();
    let mut places: BTreeMap<&[&str], Vec<(usize, usize)>> = BTreeMap::new();
    for (file, lines) in files.iter().enumerate() {
        for (at, block) in lines.windows(BLOCK_LINES).enumerate() {
            places.entry(block).or_default().push((file, at));
        }
    }
    let mut marked: Vec<Vec<bool>> = files.iter().map(|lines| vec![false; lines.len()]).collect();
    for found in places.values() {
        let elsewhere = found.iter().any(|(file, _)| *file != found[0].0);
        for (file, at) in found.iter().filter(|_| elsewhere) {
            marked[*file][*at..*at + BLOCK_LINES].fill(true);
        }
    }
    let count = marked.iter().flatten().filter(|mark| **mark).count();
    (count, files.iter().map(Vec::len).sum())
}

#[test]
fn rooms_do_not_repeat_themselves() {
    let sources = rust_sources();
    let mut complaints = Vec::new();
    for room in ROOMS {
        let of_room: Vec<&Source> =
            sources.iter().filter(|source| source.path.starts_with(&format!("{room}/"))).collect();
        let (count, all) = repeated(&of_room);
        #[expect(clippy::cast_precision_loss, reason = "line counts are small")]
        let percent = 100.0 * count as f64 / all.max(1) as f64;
        if percent > REPEATED_PERCENT_MAX {
            complaints.push(format!("{room}: {count} of {all} lines ({percent:.1} %)"));
        }
    }
    complain("repeated blocks over the budget:", &complaints);
}

#[test]
fn repetition_is_found_across_files_only() {
    let text: String = (0..8).map(|line| format!("let x{line} = {line};\n")).collect();
    let source = |text: &str| Source { path: "a.rs".into(), text: text.into() };
    let (one, two) = (source(&text), source(&format!("fn f() {{\n{text}}}\n")));
    assert_eq!(repeated(&[&one]), (0, 8));
    assert_eq!(repeated(&[&one, &two]), (16, 17));
}
