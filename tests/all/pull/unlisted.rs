//! Entries that list no files: what a model is made of is found out by name, hashed, and written down.

use std::fs;
use std::path::Path;

use shoal::store::ModelStore;
use shoal::store::pull::{NoProgress, Patience, PullError, SourceError};

use super::server::{Behaviour, COMMIT, HubServer};
use super::{Home, files_below, hub_source};

/// Every file of a golden checkpoint that a description reads.
fn golden(name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/bert").join(name);
    let read = |path: String| (path.clone(), fs::read(dir.join(&path)).expect("golden data"));
    files_below(&dir).into_iter().filter(|path| path != "vocab.txt").map(read).collect()
}

fn hub_with(files: Vec<(String, Vec<u8>)>) -> (HubServer, Home) {
    let hub = HubServer::start(Behaviour { files, ..Behaviour::default() });
    let home = Home::new(&hub.endpoint);
    home.entry(&[], &hub_source("org/model"));
    (hub, home)
}

fn without(files: &[(String, Vec<u8>)], name: &str) -> Vec<(String, Vec<u8>)> {
    files.iter().filter(|(path, _)| path != name).cloned().collect()
}

/// What the only source says.
fn reason(home: &Home) -> String {
    match home.pull() {
        Err(PullError::NoSource { attempts, .. }) => attempts[0].1.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_model_is_found_by_the_names_of_its_files() {
    for name in ["mean", "sharded-current", "poolings-layernorm", "../gliner/modernbert"] {
        let mut files = golden(name);
        files.push(("vocab.txt".into(), b"not read".to_vec()));
        files.push(("pytorch_model.bin".into(), vec![7; 5000]));
        let (_hub, home) = hub_with(files);
        let pulled = home.expect_installed(&golden(name));
        let mut found = files_below(&pulled.model.dir);
        found.retain(|path| path != "shoal.files.json");
        let expected: Vec<_> = golden(name).into_iter().map(|(path, _)| path).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn what_was_pulled_can_be_checked_later() {
    let (_hub, home) = hub_with(golden("mean"));
    let pulled = home.expect_installed(&golden("mean"));
    let store = ModelStore::open(home.config.clone()).expect("opens");
    let checked = store.check_files(&pulled.model).expect("recorded");
    assert_eq!(
        (checked.len(), checked.iter().filter(|file| file.is_err()).count()),
        (golden("mean").len(), 0)
    );

    // As a bad disk or a careless hand would: the link in the store is cut first.
    let weights = pulled.model.dir.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("read");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::remove_file(&weights).expect("remove");
    fs::write(&weights, bytes).expect("write");
    let checked = store.check_files(&pulled.model).expect("recorded");
    let wrong: Vec<_> = checked.into_iter().filter_map(Result::err).collect();
    assert!(matches!(wrong.as_slice(), [SourceError::Mismatch { path, .. }] if path == "model.safetensors"));
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let files = golden("mean");
    for (missing, hint) in [
        ("config.json", "is the revision right"),
        ("tokenizer.json", "fast tokenizer"),
        ("model.safetensors", "only safetensors are read"),
    ] {
        let (_hub, home) = hub_with(without(&files, missing));
        let reason = reason(&home);
        assert!(reason.contains(missing) && reason.contains(hint), "{reason}");
        home.expect_no_leftovers();
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let modules = br#"[{"path": "", "type": "x"}, {"path": "../../up", "type": "x"}]"#;
    let mut files = without(&golden("mean"), "modules.json");
    files.push(("modules.json".into(), modules.to_vec()));
    let (_hub, home) = hub_with(files);
    assert!(reason(&home).contains("plain directories"), "{}", reason(&home));

    let index = br#"{"weight_map": {"a": "/etc/passwd"}}"#;
    let mut files = without(&golden("mean"), "model.safetensors");
    files.push(("model.safetensors.index.json".into(), index.to_vec()));
    let (_hub, home) = hub_with(files);
    assert!(reason(&home).contains("plain files"), "{}", reason(&home));
}

#[test]
fn a_cache_that_another_tool_filled_is_enough() {
    let home = Home::new("http://127.0.0.1:1");
    home.entry(&[], "[[sources]]\nkind = \"hub-cache\"\nrepository = \"org/model\"\nrevision = \"main\"\n");
    assert!(reason(&home).contains("snapshot of main"), "{}", reason(&home));

    let repository = home.path("hub/models--org--model");
    for (path, content) in golden("mean") {
        let file = repository.join("snapshots").join(COMMIT).join(path);
        fs::create_dir_all(file.parent().expect("below")).expect("create");
        fs::write(file, content).expect("write");
    }
    fs::create_dir_all(repository.join("refs")).expect("create");
    fs::write(repository.join("refs/main"), COMMIT).expect("write");
    home.expect_installed(&golden("mean"));
}

#[test]
fn files_of_two_sources_are_not_mixed() {
    let hub = HubServer::start(Behaviour { files: golden("mean"), ..Behaviour::default() });
    let home = Home::new(&hub.endpoint);
    // The first source has half of another model.
    let half = home.path("hub/models--org--other/snapshots").join(COMMIT);
    fs::create_dir_all(&half).expect("create");
    fs::write(half.join("config.json"), "{}").expect("write");
    fs::write(half.join("artifact.metadata"), "{}").expect("write");
    let first = hub_source("org/other").replace("\"hub\"", "\"hub-cache\"");
    home.entry(&[], &format!("{first}{}", hub_source("org/model")));
    let pulled = home.expect_installed(&golden("mean"));
    assert!(!files_below(&pulled.model.dir).contains(&"artifact.metadata".to_owned()));
}

#[test]
fn every_entry_of_the_catalogue_can_be_asked_for() {
    let hub = HubServer::start(Behaviour::default());
    let home = Home::new(&hub.endpoint);
    let store = ModelStore::open(home.config.clone()).expect("opens");
    let models = store.list();
    assert!(models.len() >= 30, "{}", models.len());
    for model in &models {
        let entry = store.entry(&model.name).expect("known");
        assert!(entry.aliases.iter().any(|alias| alias.contains('/')), "{}: its name on the hub", model.name);
        assert!(entry.card.task.is_some() && !entry.card.family.is_empty(), "{}", model.name);
        for alias in &entry.aliases {
            assert_eq!(store.entry(alias).expect("known").name, model.name, "{alias} means one model");
        }
    }
    // Nobody has it: every source says so, and nothing is left.
    let refused = store.pull("bge-small-en-v1.5", Patience::default(), &mut NoProgress);
    assert!(matches!(refused, Err(PullError::NoSource { attempts, .. }) if attempts.len() == 2));
}
