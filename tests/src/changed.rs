//! Copies of model directories with something wrong in them.

use std::{fs, path::Path};

use serde_json::Value;
use shoal_kernels::ModelDescription;
use tempfile::TempDir;

/// Copies a directory and all below it.
///
/// # Panics
/// When a file cannot be read or written.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("the directory is there") {
        let from = entry.expect("an entry").path();
        let to = to.join(from.file_name().expect("an entry has a name"));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("a file can be copied");
        }
    }
}

/// A copy that goes with its owner.
///
/// # Panics
/// When a file cannot be read or written.
pub fn copy_of(from: &Path) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    copy(from, dir.path());
    dir
}

/// What describing a copy of `from` says after one of its JSON files was changed; the copy is called DIR.
///
/// # Panics
/// When it is described all the same.
pub fn refusal(from: &Path, file: &str, change: impl FnOnce(&mut Value)) -> String {
    let dir = copy_of(from);
    let path = dir.path().join(file);
    let document = fs::read(&path).expect("the file is there");
    let mut document = serde_json::from_slice(&document).expect("JSON");
    change(&mut document);
    fs::write(&path, document.to_string()).expect("written");
    told(dir.path())
}

/// What describing `dir` says, which is called DIR.
///
/// # Panics
/// When it is described.
pub fn told(dir: &Path) -> String {
    let error = ModelDescription::from_dir(dir).expect_err("it cannot be described").to_string();
    error.replace(dir.to_str().expect("UTF-8"), "DIR")
}
