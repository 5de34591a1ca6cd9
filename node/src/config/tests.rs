use std::fs;
use std::path::Path;
use std::time::Duration;

use shoal_kernels::cpu::CpuIsa;

use super::raw::RawConfig;
use super::*;

const MACHINE: Machine = Machine { cores: 2, memory_bytes: 8 << 30 };
const EXAMPLE: &str = include_str!("../../../configs/node.toml");

fn environment() -> Environment {
    Environment::from_vars([("SHOAL_HOME", "/srv/shoal"), ("HOME", "/home/ada")])
}

fn resolve_text(text: &str) -> Result<NodeConfig, ConfigError> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("node.toml");
    fs::write(&file, text).expect("write");
    resolve(Some(&file), &Overrides::default(), &environment(), MACHINE)
}

fn resolve_flags(flags: &Overrides) -> Result<NodeConfig, ConfigError> {
    resolve(None, flags, &environment(), MACHINE)
}

/// The message without the temporary directory.
fn refusal(text: &str) -> String {
    let message = resolve_text(text).expect_err("refused").to_string();
    message[message.find("node.toml").unwrap_or(0)..].to_owned()
}

#[test]
fn the_example_shows_every_key_at_its_default() {
    let raw: RawConfig = toml::from_str(EXAMPLE).expect("the example parses");
    let unset = format!("{raw:?}").matches("None").count();
    assert_eq!(unset, 1, "only data_dir is commented out: {raw:?}");
    assert!(EXAMPLE.contains("\n# data_dir = "));
    let from_example = resolve_text(EXAMPLE).expect("the example resolves");
    let defaults = resolve_flags(&Overrides::default()).expect("the defaults resolve");
    assert_eq!(format!("{from_example:#?}"), format!("{defaults:#?}"));
}

#[test]
fn every_key_of_the_example_tells_its_cost() {
    for paragraph in EXAMPLE.split("\n\n").filter(|paragraph| paragraph.contains("_max = ")) {
        let key = paragraph.lines().last().unwrap_or_default();
        assert!(paragraph.contains(" to "), "{key}: no range");
        assert!(paragraph.contains("High:") || key.starts_with("quic"), "{key}: no cost");
    }
}

#[test]
fn every_instruction_set_is_offered() {
    let line = "# The instruction set of the CPU kernels: ";
    let offered = EXAMPLE.lines().find_map(|text| text.strip_prefix(line)).expect("documented");
    let refused = refusal("version = 1\n[device]\ncpu_isa = \"mmx\"\n");
    assert!(refused.starts_with("node.toml:3: device.cpu_isa = mmx: must be one of auto, "), "{refused}");
    for isa in CpuIsa::ALL {
        let parsed =
            resolve_text(&format!("version = 1\n[device]\ncpu_isa = \"{isa}\"\n")).expect("resolves");
        assert_eq!(parsed.device.cpu_isa, Some(isa));
        assert!(offered.contains(isa.name()) && refused.contains(isa.name()), "{isa}");
    }
}

#[test]
fn defaults_follow_the_machine_and_the_environment() {
    let config = resolve_flags(&Overrides::default()).expect("defaults");
    assert_eq!(config.data_dir, Path::new("/srv/shoal"));
    assert_eq!((config.device.threads, config.device.resident_bytes_max), (2, 4 << 30));
    assert_eq!(config.models.store.models_dir, Path::new("/srv/shoal/models"));
    let http = config.http.expect("HTTP is on by default");
    assert!(http.addr.ip().is_loopback());
    assert!(config.quic.is_none() && config.mesh.is_none(), "without an identity there is no mesh");
}

#[test]
fn notices_are_off_unless_a_cloud_is_named() {
    let notices =
        |text: &str| resolve_text(&format!("version = 1\n[notices]\n{text}")).expect("resolves").notices;
    assert_eq!(notices("base_url = \"http://127.0.0.1:1\"\n"), None);
    let url = |text: &str| notices(text).expect("on").base_url;
    assert_eq!(url("source = \"aws\"\n"), "http://169.254.169.254");
    assert_eq!(url("source = \"gcp\"\n"), "http://metadata.google.internal");
    assert_eq!(url("source = \"azure\"\nbase_url = \"http://127.0.0.1:1/\"\n"), "http://127.0.0.1:1");
    let refused = refusal("version = 1\n[notices]\nsource = \"ibm\"\n");
    assert_eq!(refused, "node.toml:3: notices.source = ibm: must be one of off, aws, gcp, azure");
    assert!(refusal("version = 1\n[notices]\nbase_url = \"x\"\n").contains("must be a URL"));
}

#[test]
fn an_identity_makes_a_member() {
    let joins = resolve_flags(&Overrides { joins: true, ..Overrides::default() }).expect("resolves");
    let (quic, mesh) = (joins.quic.expect("on"), joins.mesh.expect("on"));
    assert_eq!((quic.addr.to_string(), quic.join_addr.port()), ("0.0.0.0:7000".to_owned(), 7001));
    assert_eq!((mesh.addr.to_string(), mesh.advertise), ("0.0.0.0:7002".to_owned(), None));

    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("identity.key"), "").expect("write");
    let text = |more: &str| format!("version = 1\n[quic]\nidentity_dir = {:?}\n{more}", dir.path());
    let there = resolve_text(&text("advertise = \"203.0.113.7:9000\"\n")).expect("resolves");
    let advertised = there.mesh.expect("on").advertise.map(|address| address.to_string());
    assert_eq!(advertised.as_deref(), Some("203.0.113.7:0"), "the port is its own");
    let free = resolve_text(&text("addr = \"127.0.0.1:0\"\n")).expect("resolves");
    assert_eq!(free.mesh.map(|mesh| mesh.addr.to_string()).as_deref(), Some("127.0.0.1:0"));
    let alone = resolve_text(&text("[mesh]\naddr = \"off\"\n")).expect("resolves");
    assert!(alone.quic.is_some() && alone.mesh.is_none());
    assert!(resolve_text(&text("addr = \"off\"\n")).expect("resolves").quic.is_none());
    let refused = refusal("version = 1\n[mesh]\naddr = \"127.0.0.1:0\"\n");
    assert!(refused.starts_with("node.toml:3: mesh.addr = 127.0.0.1:0: needs quic.addr"), "{refused}");
}

#[test]
fn flags_win_over_the_file() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("node.toml");
    fs::write(&file, "version = 1\n[http]\naddr = \"off\"\n[device]\nthreads = 9\ndtype = \"bf16\"\n")
        .expect("write");
    let flags = Overrides { http: Some("127.0.0.1:0".into()), threads: Some(1), ..Overrides::default() };
    let config = resolve(Some(&file), &flags, &environment(), MACHINE).expect("resolves");
    assert_eq!(config.http.map(|http| http.addr.port()), Some(0));
    assert_eq!(config.device.threads, 1);
    assert_eq!(config.device.dtype.to_string(), "bf16", "what no flag sets stays");
}

#[test]
fn errors_name_file_line_key_and_what_is_allowed() {
    assert_eq!(
        refusal("version = 1\n[device]\n\nbatch_target_us = 1\n"),
        "node.toml:4: device.batch_target_us = 1: must be 1000 to 10000000"
    );
    let unknown = refusal("version = 1\n[device]\nthread = 2\n");
    assert!(unknown.starts_with("node.toml:3: device.thread: unknown field"), "{unknown}");
    assert!(unknown.contains("`threads`"), "{unknown}");
    let wrong_type = refusal("version = 1\n\n[http]\nconnections_max = \"many\"\n");
    assert!(wrong_type.starts_with("node.toml:4: http.connections_max: invalid type"), "{wrong_type}");
    let word = refusal("version = 1\n[models]\ntoken_ids = \"yes\"\n");
    assert_eq!(word, "node.toml:3: models.token_ids = yes: must be one of refuse, model");
    let address = refusal("version = 1\n[http]\naddr = \"localhost\"\n");
    assert!(address.starts_with("node.toml:3: http.addr = localhost: must be an IP address"), "{address}");
    assert!(refusal("version = 1\n[http\n").starts_with("node.toml:2: "));
}

#[test]
fn the_version_is_required_and_checked() {
    assert!(refusal("[http]\n").contains("version = 1"));
    assert_eq!(refusal("\nversion = 2\n"), "node.toml:2: version = 2: this build reads version 1");
}

#[test]
fn a_public_address_needs_keys() {
    let flags = Overrides { http: Some("0.0.0.0:8080".into()), ..Overrides::default() };
    assert!(matches!(resolve_flags(&flags), Err(ConfigError::PublicWithoutKeys { .. })));

    let dir = tempfile::tempdir().expect("temporary directory");
    let keys = dir.path().join("keys");
    fs::write(&keys, "0123456789abcdef\n").expect("write");
    let with_keys = Overrides { api_key_file: Some(keys), ..flags };
    let http = resolve_flags(&with_keys).expect("resolves").http.expect("on");
    assert!(http.api_keys.is_some_and(|keys| keys.accepts(b"0123456789abcdef")));
}

#[test]
fn zero_means_unlimited_where_the_file_says_so() {
    let config =
        resolve_text("version = 1\n[device]\ntokens_per_s_max = 0\nkeep_alive_s = 0\n").expect("resolves");
    assert_eq!((config.device.tokens_per_s_max, config.device.keep_alive), (None, None));
    let config =
        resolve_text("version = 1\n[device]\ntokens_per_s_max = 500\nkeep_alive_s = 7\n").expect("resolves");
    assert_eq!(config.device.tokens_per_s_max, Some(500));
    assert_eq!(config.device.keep_alive, Some(Duration::from_secs(7)));
}

#[test]
fn a_directory_is_preloaded_under_its_own_name() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let model = dir.path().join("my-model");
    fs::create_dir(&model).expect("create");
    let flags = |name: &Path| Overrides { preload: vec![name.display().to_string()], ..Overrides::default() };
    let missing = resolve_flags(&flags(&model));
    assert!(matches!(missing, Err(ConfigError::NotAModelDirectory { .. })), "{missing:?}");
    fs::write(model.join("config.json"), "{}").expect("write");
    let config = resolve_flags(&flags(&model)).expect("resolves");
    assert_eq!(config.models.preload, ["my-model"]);
    assert_eq!(config.models.store.local[0].aliases, [model.display().to_string()]);
}
