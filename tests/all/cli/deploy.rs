//! What deploys a node: the systemd unit and the cloud-init file.

use std::path::{Path, PathBuf};
use std::process::Command;

use yaml_rust2::{Yaml, YamlLoader};

use super::Home;

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(config(name)).expect("exists")
}

/// Every `Key=value` of a unit's section.
fn settings<'a>(unit: &'a str, section: &str) -> Vec<(&'a str, &'a str)> {
    let header = format!("[{section}]");
    let lines = unit.lines().map(str::trim).skip_while(|line| *line != header).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect()
}

/// What every unit of ours must say; systemd itself checks the rest where it is installed.
fn check_unit(unit: &str, home: &Home) {
    let service = settings(unit, "Service");
    let value = |key: &str| service.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    assert_eq!(value("Type"), Some("notify"));
    assert_eq!(value("KillSignal"), Some("SIGTERM"));
    assert_eq!(value("Restart"), Some("on-failure"), "who was drained stays down");
    let stop: u64 = value("TimeoutStopSec").and_then(|value| value.parse().ok()).expect("seconds");
    assert!((21..25).contains(&stop), "above node.drain_s, below a spot machine's notice");
    let start = value("ExecStart").expect("a command");
    assert!(start.starts_with("/usr/local/bin/shoal serve --config "), "{start}");
    assert_eq!(settings(unit, "Install"), [("WantedBy", "multi-user.target")]);

    // systemd refuses a unit whose binary is missing, so the one under test takes its place.
    let real = unit.replace("/usr/local/bin/shoal", env!("CARGO_BIN_EXE_shoal-cli"));
    let file = home.write("shoal.service", real);
    let Ok(verified) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output()
    else {
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && !said.contains("shoal.service"), "{said}");
}

#[test]
fn the_systemd_unit_is_sound() {
    check_unit(&read("systemd/shoal.service"), &Home::new());
}

#[test]
fn the_cloud_init_file_starts_a_node() {
    check_cloud_init("cloud-init/shoal.yaml");
}

#[test]
fn the_cloud_init_file_of_a_spot_machine_joins_and_heeds_notices() {
    check_cloud_init("cloud-init/spot.yaml");
    let text = read("cloud-init/spot.yaml");
    assert!(text.contains("serve --config /etc/shoal/node.toml --join SHOAL_ISSUER\n"));
    assert!(text.contains("\n      SHOAL_TOKEN=SHOAL_TOKEN_LINE\n"));
    assert!(text.contains("\n      [notices]\n      source = \"aws\"\n"));
}

fn check_cloud_init(name: &str) {
    let text = read(name);
    assert!(text.starts_with("#cloud-config\n"), "cloud-init tells the format by the first line");
    let documents = YamlLoader::load_from_str(&text).expect("YAML");
    let document = &documents[0];
    let files = document["write_files"].as_vec().expect("a list");
    let content = |path: &str| {
        let file = files.iter().find(|file| file["path"].as_str() == Some(path)).expect(path);
        let mode = file["permissions"].as_str().expect("quoted, or YAML reads it as decimal");
        (file["content"].as_str().expect("text"), mode)
    };
    let home = Home::new();
    let (sysctl, _) = content("/etc/sysctl.d/90-shoal.conf");
    assert!(sysctl.contains("net.core.rmem_max = 7500000") && sysctl.contains("net.core.wmem_max = 7500000"));
    assert_eq!(content("/etc/shoal/env").1, "0600");
    check_unit(content("/etc/systemd/system/shoal.service").0, &home);

    // The node itself reads the configuration: it gets as far as the model, which is not installed here.
    let node = home.write("node.toml", content("/etc/shoal/node.toml").0).display().to_string();
    let ran = home.run(["serve", "--config", &node]).expect(3);
    assert!(ran.err.contains("shoal pull all-minilm-l6-v2"), "{}", ran.err);

    let commands = document["runcmd"].as_vec().expect("a list");
    let words = |command: &Yaml| -> Vec<String> {
        let words = command.as_vec().expect("a list of words");
        words.iter().map(|word| word.as_str().expect("text").to_owned()).collect()
    };
    let commands: Vec<_> = commands.iter().map(words).collect();
    assert_eq!(
        commands.last().map(|command| command.join(" ")).as_deref(),
        Some("systemctl enable --now shoal.service")
    );
    assert!(commands.iter().any(|command| command.join(" ") == "sysctl --system"));
    assert!(commands.iter().any(|command| command.join(" ").contains("sha256sum --check")));
}
