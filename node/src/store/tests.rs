use std::fs;
use std::path::Path;

use super::*;
use crate::config::{HubConfig, LocalModel};

fn store_in(home: &Path) -> StoreConfig {
    StoreConfig {
        models_dir: home.join("models"),
        catalogue_dir: home.join("catalogue"),
        local: Vec::new(),
        hub: HubConfig {
            endpoint: "http://127.0.0.1:1".into(),
            token: None,
            cache_dir: home.join("hub"),
            ca_file: None,
            offline: true,
        },
    }
}

fn entry_error(text: &str) -> String {
    let home = tempfile::tempdir().expect("temporary directory");
    let config = store_in(home.path());
    fs::create_dir_all(&config.catalogue_dir).expect("create");
    fs::write(config.catalogue_dir.join("mine.toml"), text).expect("write");
    let message = ModelStore::open(config).expect_err("refused").to_string();
    message[message.find("mine.toml").expect("names the file")..].to_owned()
}

#[test]
fn the_embedded_entry_is_known_by_every_name() {
    let home = tempfile::tempdir().expect("temporary directory");
    let store = ModelStore::open(store_in(home.path())).expect("opens");
    for name in ["all-minilm-l6-v2", "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"] {
        let entry = store.entry(name).expect("known");
        assert_eq!(entry.name, "all-minilm-l6-v2");
        assert!(matches!(store.resolve(name), Err(StoreError::NotInstalled { .. })), "{name}");
    }
    let entry = store.entry("all-minilm-l6-v2").expect("known");
    assert!(entry.bytes() > 90_000_000 && entry.sources.len() == 3, "{entry:?}");
    let unknown = store.resolve("gpt-9").expect_err("unknown").to_string();
    assert!(unknown.contains("gpt-9") && unknown.contains("all-minilm-l6-v2"), "{unknown}");
}

#[test]
fn paths_are_not_names() {
    let home = tempfile::tempdir().expect("temporary directory");
    let model = home.path().join("private");
    fs::create_dir(&model).expect("create");
    fs::write(model.join("config.json"), "{}").expect("write");
    let store = ModelStore::open(store_in(home.path())).expect("opens");
    let path = model.display().to_string();
    assert!(matches!(store.resolve(&path), Err(StoreError::Unknown { .. })));

    let mut config = store_in(home.path());
    config.local.push(LocalModel { name: "private".into(), aliases: vec![path.clone()], dir: model.clone() });
    let store = ModelStore::open(config).expect("opens");
    for name in ["private", &path] {
        assert_eq!(store.resolve(name).expect("listed").dir, model);
    }
    assert!(store.list().iter().any(|known| known.name == "private" && known.bytes == 2));
}

#[test]
fn a_user_entry_with_a_directory_is_served_in_place() {
    let home = tempfile::tempdir().expect("temporary directory");
    let config = store_in(home.path());
    fs::create_dir_all(config.catalogue_dir.join("weights")).expect("create");
    fs::write(config.catalogue_dir.join("weights/config.json"), "{}").expect("write");
    let text = "version = 1\nname = \"mine\"\naliases = [\"m\"]\ndtype = \"f32\"\nmatryoshka_dimensions = [8, 16]\n\
                [[sources]]\nkind = \"directory\"\npath = \"weights\"\n";
    fs::write(config.catalogue_dir.join("mine.toml"), text).expect("write");
    let store = ModelStore::open(config).expect("opens");
    let model = store.resolve("m").expect("resolves");
    assert!(model.dir.ends_with("catalogue/weights"), "{model:?}");
    assert_eq!(model.dtype.map(|dtype| dtype.to_string()).as_deref(), Some("f32"));
    assert_eq!(model.matryoshka, Some(Matryoshka::Widths(vec![8, 16])));
}

#[test]
fn a_wrong_entry_is_named_with_its_rule() {
    let unknown = entry_error("version = 1\nname = \"x\"\ncolour = 1\n");
    assert!(unknown.starts_with("mine.toml:3: colour: unknown field"), "{unknown}");
    assert!(entry_error("version = 1\nname = \"../x\"\n").contains("name ="));
    assert!(entry_error("version = 2\nname = \"x\"\n").contains("version = 2"));
    assert!(entry_error("version = 1\nname = \"x\"\ndtype = \"f8\"\n").contains("dtype"));
    for widths in ["[]".to_owned(), "[8, 0]".to_owned(), format!("{:?}", [8; 65])] {
        let refused = entry_error(&format!("version = 1\nname = \"x\"\nmatryoshka_dimensions = {widths}\n"));
        assert!(refused.contains("1 to 64 widths"), "{refused}");
    }
    let file = |path: &str, sha: &str| {
        format!("version = 1\nname = \"x\"\n[[files]]\npath = \"{path}\"\nsha256 = \"{sha}\"\nbytes = 1\n")
    };
    let sha = "0".repeat(64);
    for path in ["/etc/passwd", "../up", "a/../b", "a//b", ".hidden", ""] {
        assert!(entry_error(&file(path, &sha)).contains("not a plain relative path"), "{path}");
    }
    assert!(entry_error(&file("config.json", "zz")).contains("64 hexadecimal digits"));
    for (repository, revision) in [("../../x", "main"), ("org/model", "../../x"), ("org/model", "/etc")] {
        let source = format!(
            "[[sources]]\nkind = \"hub\"\nrepository = \"{repository}\"\nrevision = \"{revision}\"\n"
        );
        let refused = entry_error(&format!("version = 1\nname = \"x\"\n{source}"));
        assert!(refused.contains("not a plain name"), "{refused}");
    }
    let sources = "[[sources]]\nkind = \"wheel\"\npackage = \"a\"\nversion = \"1\"\ndirectory = \"b\"\n";
    assert!(entry_error(&format!("version = 1\nname = \"x\"\n{sources}")).contains("must list its files"));
    let prompt = entry_error("version = 1\nname = \"x\"\ndefault_prompt = \"q\"\n[prompts]\nother = \"o\"\n");
    assert!(prompt.contains("must be one of the entry's prompts"), "{prompt}");
    assert!(entry_error("version = 1\nname = \"x\"\ntask = \"sing\"\n").contains("task"));
}

#[test]
fn the_digest_changes_with_every_file() {
    let home = tempfile::tempdir().expect("temporary directory");
    let store = ModelStore::open(store_in(home.path())).expect("opens");
    let entry = store.entry("all-minilm-l6-v2").expect("known");
    let mut other = entry.clone();
    other.files[0].sha256 = Some([1; 32]);
    assert_ne!(entry.digest(), other.digest());
    assert_eq!(entry.digest().len(), 16);
}
