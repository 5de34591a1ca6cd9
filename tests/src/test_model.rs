//! Finds the real all-MiniLM-L6-v2 for tests: the directory in `SHOAL_TEST_MODEL_DIR`, else pulled once, as `shoal pull`
//! does it, below the build directory.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use shoal::config::{Environment, Machine, Overrides, resolve};
use shoal::store::ModelStore;
use shoal::store::pull::{NoProgress, Patience};

/// A directory that holds the model; tests that need it fail with what to do when it cannot be had.
pub const DIR_VARIABLE: &str = "SHOAL_TEST_MODEL_DIR";
const NAME: &str = "all-minilm-l6-v2";

/// The directory of the real model.
///
/// # Panics
/// When it is not there and cannot be fetched.
pub fn all_minilm_l6_v2() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| match find_or_pull() {
        Ok(dir) => dir,
        Err(reason) => panic!(
            "the real model is needed: {reason}\nset {DIR_VARIABLE} to its directory, or make `shoal pull {NAME}` work"
        ),
    })
}

fn find_or_pull() -> Result<PathBuf, String> {
    if let Some(dir) = std::env::var_os(DIR_VARIABLE) {
        return Ok(PathBuf::from(dir));
    }
    let flags = Overrides { data_dir: Some(target_dir()?.join("test-home")), ..Overrides::default() };
    let config = resolve(None, &flags, &Environment::of_process(), Machine::detect());
    let config = config.map_err(|error| error.to_string())?;
    let store = ModelStore::open(config.models.store).map_err(|error| error.to_string())?;
    let pulled = store.pull(NAME, Patience::default(), &mut NoProgress);
    Ok(pulled.map_err(|error| error.to_string())?.model.dir)
}

/// Test binaries lie in `<target>/<profile>/deps`.
fn target_dir() -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|error| error.to_string())?;
    exe.ancestors()
        .nth(3)
        .map(Path::to_owned)
        .ok_or_else(|| format!("{} is in no build directory", exe.display()))
}
