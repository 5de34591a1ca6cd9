//! What the catalogue promises of models that nobody fetched here.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use shoal::store::{ModelStore, StoreError};
use shoal_tests::golden::{
    TINY_BERTS, TINY_CLASSIFIERS, TINY_FAMILIES, TINY_MULTIVECTOR, TINY_SPARSE, tiny_bert_dir,
    tiny_family_dir, tiny_head_dir,
};

use super::Home;

/// What the configuration of a directory calls its family; JinaBERT's calls it "bert".
fn family_of(dir: &Path) -> String {
    let config = fs::read(dir.join("config.json")).expect("golden data is there");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    let class = config["architectures"][0].as_str().unwrap_or_default();
    let family = config["model_type"].as_str().expect("a family");
    if class.starts_with("JinaBert") { "jina_bert".into() } else { family.into() }
}

#[test]
fn every_entry_resolves_and_its_family_and_task_have_golden_data() {
    let home = Home::new("http://127.0.0.1:1");
    let store = ModelStore::open(home.config.clone()).expect("opens");
    let heads = [&TINY_CLASSIFIERS[..], &TINY_SPARSE, &TINY_MULTIVECTOR].concat();
    let dirs = TINY_BERTS.map(tiny_bert_dir).into_iter().chain(TINY_FAMILIES.map(tiny_family_dir));
    let families: BTreeSet<_> =
        dirs.chain(heads.into_iter().map(tiny_head_dir)).map(|dir| family_of(&dir)).collect();
    let entries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/models");
    let mut count = 0;
    for path in fs::read_dir(entries).expect("the catalogue").map(|entry| entry.expect("an entry").path()) {
        let Some(name) = path.to_string_lossy().strip_suffix(".toml").map(|path| path.to_owned()) else {
            continue;
        };
        count += 1;
        let name = name.rsplit('/').next().expect("a name");
        let entry = store.entry(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(entry.name, name);
        assert!(families.contains(&entry.card.family), "{name}: no golden data of {}", entry.card.family);
        assert!(!entry.sources.is_empty() && entry.card.task.is_some(), "{name}");
        for alias in entry.aliases.iter().map(String::as_str).chain([name]) {
            assert_eq!(store.entry(alias).map(|entry| entry.name.as_str()).ok(), Some(name), "{alias}");
            let told = match store.resolve(alias) {
                Err(error @ StoreError::NotInstalled { .. }) => error.to_string(),
                other => panic!("{alias}: {other:?}"),
            };
            assert!(told.contains(name), "{told}");
        }
    }
    assert_eq!(count, store.list().len(), "every file of the catalogue is in the binary");
}
