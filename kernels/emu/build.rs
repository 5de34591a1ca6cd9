//! Compiles the kernels as C++ against the emulation: once as they are, and once for each planted bug, so that the tests
//! can show that they would notice it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[path = "src/plants.rs"]
#[expect(unreachable_pub, reason = "the library shows them")]
mod plants;

use plants::{INTACT, PLANTS, Plant};

/// Kernels, and what the emulation tests itself with.
const SOURCES: [&str; 3] = ["../cuda/norm.cu", "../cuda/attention.cu", "host/selftest.cu"];

fn main() {
    println!("cargo::rerun-if-changed=host");
    println!("cargo::rerun-if-changed=../cuda");
    println!("cargo::rerun-if-changed=src/plants.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let mut units = Vec::new();
    for source in SOURCES {
        let text = read(Path::new(source));
        units.push(unit(&out, units.len(), INTACT, &text));
    }
    for plant in &PLANTS {
        let text = planted(plant, &read(&Path::new("../cuda").join(plant.file)));
        units.push(unit(&out, units.len(), plant.name, &text));
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
    assert!(found == 1, "planted bug {}: its text stands {found} times in {}", plant.name, plant.file);
    text.replace(plant.intact, plant.broken)
}

/// A translation unit with one variant of a source, in a namespace of its own: the same templates stand in others.
fn unit(out: &Path, number: usize, variant: &str, text: &str) -> PathBuf {
    let path = out.join(format!("unit_{number}.cpp"));
    let mut unit = format!("#define SHOAL_EMU_VARIANT \"{variant}\"\n");
    if variant != INTACT {
        unit.push_str("#define SHOAL_EMU_PLANT\n");
    }
    unit.push_str("#include \"prelude.cuh\"\n");
    let _ = write!(unit, "namespace unit_{number} {{\n{text}\n}}\n");
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
