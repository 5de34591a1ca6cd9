//! Compiles the kernels as C++ against the emulation: once as they are, and once for each planted bug, so that the tests
//! can show that they would notice it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[path = "src/plants.rs"]
#[expect(unreachable_pub, reason = "the library shows them")]
mod plants;

use plants::{INTACT, PLANTS, Plant};

/// Where the kernels are.
const KERNELS: &str = "../cuda";
/// What the emulation tests itself with.
const SELFTEST: &str = "host/selftest.cu";
/// The one header that is included, not written out: it stands outside of the units' namespaces.
const PRELUDE: &str = "prelude.cuh";

fn main() {
    println!("cargo::rerun-if-changed=host");
    println!("cargo::rerun-if-changed=../cuda");
    println!("cargo::rerun-if-changed=src/plants.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let mut units = Vec::new();
    for source in kernel_sources().iter().map(PathBuf::as_path).chain([Path::new(SELFTEST)]) {
        let text = whole(source, &mut Vec::new());
        units.push(unit(&out, units.len(), &[(INTACT, &text)]));
        let name = source.file_name().unwrap_or_default();
        let plants = PLANTS.iter().filter(|plant| name == plant.file);
        let planted: Vec<_> = plants.map(|plant| (plant.name, planted(plant, &text))).collect();
        let planted: Vec<_> = planted.iter().map(|(name, text)| (*name, text.as_str())).collect();
        if !planted.is_empty() {
            units.push(unit(&out, units.len(), &planted));
        }
    }
    for plant in &PLANTS {
        let path = Path::new(KERNELS).join(plant.file);
        assert!(path.exists(), "planted bug {}: there is no {}", plant.name, path.display());
    }
    let anchors = out.join("anchors.cpp");
    write(&anchors, &anchor_list(units.len()));

    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).include("../cuda").include("host");
    // One rounding for each operation, whatever the host: fused multiply-adds would differ from machine to machine.
    build.flag("-ffp-contract=off").flag("-Wno-unknown-pragmas");
    build.files(["host/fiber.cpp", "host/block.cpp", "host/launch.cpp"]).files(units).file(anchors);
    build.compile("shoal_emu");
}

/// Every kernel, in the order of the names.
fn kernel_sources() -> Vec<PathBuf> {
    let files = std::fs::read_dir(KERNELS).unwrap_or_else(|error| panic!("{KERNELS}: {error}"));
    let paths = files.map(|file| file.expect("a readable folder").path());
    let mut sources: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|name| name == "cu")).collect();
    sources.sort();
    sources
}

/// The source with its headers written out, each once, so that bugs can be planted in them, too.
fn whole(path: &Path, seen: &mut Vec<String>) -> String {
    let mut text = String::new();
    for line in read(path).lines() {
        let header = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        match header {
            Some(name) if name != PRELUDE => {
                if !seen.iter().any(|known| known == name) {
                    seen.push(name.to_owned());
                    text.push_str(&whole(&path.with_file_name(name), seen));
                }
            }
            _ if line == "#pragma once" => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) {
    // An unchanged file keeps its time, and with it its object.
    if std::fs::read_to_string(path).is_ok_and(|held| held == text) {
        return;
    }
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The source with the bug in it. A plant that finds its text nowhere, or twice, is stale and must be written anew.
fn planted(plant: &Plant, text: &str) -> String {
    let found = text.matches(plant.intact).count();
    assert!(
        found == 1,
        "planted bug {}: its text stands {found} times in {} and its headers",
        plant.name,
        plant.file
    );
    text.replace(plant.intact, plant.broken)
}

/// A translation unit with variants of a source, each in a namespace of its own: the same templates stand in all.
fn unit(out: &Path, number: usize, variants: &[(&str, &str)]) -> PathBuf {
    let path = out.join(format!("unit_{number}.cpp"));
    let mut unit = String::from("#define SHOAL_EMU_VARIANT\n");
    if variants.iter().any(|(name, _)| *name != INTACT) {
        unit.push_str("#define SHOAL_EMU_PLANT\n");
    }
    let _ = writeln!(unit, "#include \"{PRELUDE}\"");
    for (index, (name, text)) in variants.iter().enumerate() {
        let _ = writeln!(unit, "#undef SHOAL_EMU_VARIANT\n#define SHOAL_EMU_VARIANT \"{name}\"");
        let _ = write!(unit, "namespace unit_{number}_{index} {{\n{text}\n}}\n");
    }
    let _ = writeln!(unit, "extern \"C\" void shoal_emu_anchor_{number}() {{}}");
    write(&path, &unit);
    path
}

/// Names every unit, so that the linker takes the objects, and with them the kernels that they register.
fn anchor_list(units: usize) -> String {
    let mut list = String::from("extern \"C\" {\n");
    for number in 0..units {
        let _ = writeln!(list, "void shoal_emu_anchor_{number}();");
    }
    list.push_str("void shoal_emu_anchors() {\n");
    for number in 0..units {
        let _ = writeln!(list, "shoal_emu_anchor_{number}();");
    }
    list.push_str("}\n}\n");
    list
}
