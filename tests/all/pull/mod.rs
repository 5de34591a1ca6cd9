//! Pulling a model from a hub, a cache and a wheel, and what happens when each of them fails.

mod catalogue;
mod hub;
mod server;
mod unlisted;
mod wheel;

use std::fs;
use std::path::{Path, PathBuf};

use shoal::config::{HubConfig, StoreConfig};
use shoal::store::ModelStore;
use shoal::store::pull::{NoProgress, Patience, PullError, Pulled};
use tempfile::TempDir;

/// A machine with its own home: store, catalogue and hub cache in one temporary directory.
struct Home {
    dir: TempDir,
    config: StoreConfig,
}

impl Home {
    fn new(endpoint: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = StoreConfig {
            models_dir: dir.path().join("models"),
            catalogue_dir: dir.path().join("catalogue"),
            local: Vec::new(),
            hub: HubConfig {
                endpoint: endpoint.to_owned(),
                token: None,
                cache_dir: dir.path().join("hub"),
                ca_file: None,
                offline: false,
            },
        };
        fs::create_dir_all(&config.catalogue_dir).expect("create");
        Self { dir, config }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Writes the entry `tiny` with these files and sources.
    fn entry(&self, files: &[(String, Vec<u8>)], sources: &str) {
        let mut text = format!("version = 1\nname = \"tiny\"\n{sources}\n");
        for (path, content) in files {
            text += &format!(
                "[[files]]\npath = \"{path}\"\nsha256 = \"{}\"\nbytes = {}\n",
                sha256(content),
                content.len()
            );
        }
        fs::write(self.config.catalogue_dir.join("tiny.toml"), text).expect("write");
    }

    fn pull(&self) -> Result<Pulled, PullError> {
        let store = ModelStore::open(self.config.clone()).expect("opens");
        store.pull("tiny", Patience::default(), &mut NoProgress)
    }

    /// Pulls and compares every file.
    fn expect_installed(&self, files: &[(String, Vec<u8>)]) -> Pulled {
        let pulled = self.pull().expect("pulls");
        for (path, content) in files {
            assert!(fs::read(pulled.model.dir.join(path)).expect("installed") == *content, "{path}");
        }
        self.expect_no_leftovers();
        pulled
    }

    /// Nothing but locks and installed models.
    fn expect_no_leftovers(&self) {
        let Ok(model) = fs::read_dir(self.path("models/tiny")) else {
            return;
        };
        for entry in model {
            let name = entry.expect("entry").file_name();
            assert!(!name.to_string_lossy().starts_with('.'), "left behind: {name:?}");
        }
    }
}

fn sha256(content: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A small file, one in a folder, and one large enough to lie on the other host.
fn tiny_files() -> Vec<(String, Vec<u8>)> {
    let weights: Vec<u8> =
        (0..300_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    vec![
        ("config.json".into(), b"{\"model_type\":\"bert\"}".to_vec()),
        ("1_Pooling/config.json".into(), b"{}".to_vec()),
        ("model.safetensors".into(), weights),
    ]
}

fn hub_source(repository: &str) -> String {
    format!("[[sources]]\nkind = \"hub\"\nrepository = \"{repository}\"\nrevision = \"{}\"\n", server::COMMIT)
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            } else {
                let below = path.strip_prefix(dir).expect("below");
                found.push(below.display().to_string());
            }
        }
    }
    found.sort();
    found
}
