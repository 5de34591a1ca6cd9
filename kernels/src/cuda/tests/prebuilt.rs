//! The checked-in binaries for devices are those of the checked-in sources. `kernels/cuda/build.py` makes them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

const BYTES_MAX: u64 = 4 << 20;

#[derive(Deserialize)]
struct Manifest {
    flags: Vec<String>,
    toolchain: BTreeMap<String, String>,
    modules: BTreeMap<String, Module>,
}

#[derive(Deserialize)]
struct Module {
    source: String,
    fatbin: String,
    bytes: u64,
    registers: BTreeMap<String, u32>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")
}

fn read(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manifest() -> Manifest {
    serde_json::from_slice(&read("prebuilt/MANIFEST.json")).expect("a manifest")
}

/// Names in the folder that end like this, in order.
fn named(folder: &Path, ending: &str) -> Vec<String> {
    let files = std::fs::read_dir(folder).expect("a folder");
    let names = files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The file and every header that it includes, in the order of their names.
fn sources(name: &str) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut left) = (BTreeMap::new(), vec![name.to_owned()]);
    while let Some(file) = left.pop() {
        if found.contains_key(&file) {
            continue;
        }
        let bytes = read(&file);
        let text = String::from_utf8_lossy(&bytes);
        let headers = text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
        left.extend(headers.filter(|header| !header.contains('/')).map(str::to_owned));
        found.insert(file, bytes);
    }
    found
}

/// The twin of `source_hash` in `build.py`.
fn source_hash(name: &str, manifest: &Manifest) -> String {
    let mut digest = Sha256::new();
    for (file, bytes) in sources(name) {
        digest.update(format!("{file} {}\n", bytes.len()));
        digest.update(bytes);
    }
    let compiler = manifest.toolchain.iter().map(|(tool, version)| format!("{tool} {version}"));
    let lines: Vec<String> = manifest.flags.iter().cloned().chain(compiler).collect();
    digest.update(lines.join("\n"));
    hex(digest)
}

#[test]
fn binaries_are_of_these_sources() {
    let manifest = manifest();
    let listed: Vec<String> = manifest.modules.keys().cloned().collect();
    assert_eq!(listed, named(&folder(), ".cu"), "run kernels/cuda/build.py");
    let stale = |(name, module): (&String, &Module)| {
        (source_hash(name, &manifest) != module.source).then(|| name.clone())
    };
    let stale: Vec<String> = manifest.modules.iter().filter_map(stale).collect();
    assert!(stale.is_empty(), "changed since they were compiled: {stale:?}; run kernels/cuda/build.py");
}

#[test]
fn binaries_are_those_of_the_manifest_and_small() {
    let manifest = manifest();
    let held = named(&folder().join("prebuilt"), ".fatbin");
    let wanted: Vec<String> = manifest.modules.keys().map(|name| name.replace(".cu", ".fatbin")).collect();
    assert_eq!(held, wanted, "run kernels/cuda/build.py");
    let mut total = 0;
    for (file, module) in held.iter().zip(manifest.modules.values()) {
        let bytes = read(&format!("prebuilt/{file}"));
        assert_eq!(bytes.len() as u64, module.bytes, "{file}");
        let mut digest = Sha256::new();
        digest.update(&bytes);
        assert_eq!(hex(digest), module.fatbin, "{file}");
        assert!(module.registers.values().all(|registers| (1..=255).contains(registers)), "{file}");
        total += module.bytes;
    }
    assert!(total <= BYTES_MAX, "{total} bytes of binaries");
}
