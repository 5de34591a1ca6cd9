//! The hub and its cache.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use shoal::store::pull::{PullError, SourceError};

use super::server::{Behaviour, COMMIT, HubServer};
use super::{Home, files_below, hub_source, tiny_files};

fn hub_with(behaviour: Behaviour) -> (HubServer, Home) {
    let hub = HubServer::start(Behaviour { files: tiny_files(), ..behaviour });
    let home = Home::new(&hub.endpoint);
    home.entry(&tiny_files(), &hub_source("org/model"));
    (hub, home)
}

/// The reason of the only source.
fn only_reason(error: PullError) -> SourceError {
    match error {
        PullError::NoSource { mut attempts, .. } if attempts.len() == 1 => attempts.remove(0).1,
        other => panic!("{other}"),
    }
}

#[test]
fn a_pull_fills_the_shared_cache_and_the_next_one_fetches_nothing() {
    let (hub, home) = hub_with(Behaviour::default());
    let pulled = home.expect_installed(&tiny_files());
    assert_eq!(pulled.source.as_deref(), Some("Hugging Face hub (org/model)"));
    let cached = files_below(&home.path("hub/models--org--model/snapshots"));
    assert_eq!(
        cached,
        [
            format!("{COMMIT}/1_Pooling/config.json"),
            format!("{COMMIT}/config.json"),
            format!("{COMMIT}/model.safetensors")
        ]
    );
    let in_snapshot = home.path(&format!("hub/models--org--model/snapshots/{COMMIT}/1_Pooling/config.json"));
    assert!(fs::symlink_metadata(&in_snapshot).expect("exists").is_symlink(), "as other tools expect it");
    assert_eq!(fs::read(&in_snapshot).expect("leads to its blob"), b"{}");

    let asked = hub.seen().len();
    assert_eq!(home.expect_installed(&tiny_files()).source, None, "installed already");
    fs::remove_dir_all(home.path("models")).expect("remove");
    home.entry(&tiny_files(), &hub_source("org/model").replace("\"hub\"", "\"hub-cache\""));
    let again = home.expect_installed(&tiny_files());
    assert_eq!(again.source.as_deref(), Some("Hugging Face cache (org/model)"));
    assert_eq!(hub.seen().len(), asked, "nothing is fetched twice");
}

#[test]
fn a_renamed_repository_is_followed() {
    let (_hub, home) = hub_with(Behaviour::default());
    home.entry(&tiny_files(), &hub_source("old/name"));
    home.expect_installed(&tiny_files());
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let (hub, home) = hub_with(Behaviour { cuts: vec![100_000, 50_000], ..Behaviour::default() });
    home.expect_installed(&tiny_files());
    let seen = hub.seen();
    for range in ["[bytes=100000-]", "[bytes=150000-]"] {
        assert!(seen.iter().any(|line| line.contains(range)), "{range}: {seen:#?}");
    }
}

#[test]
fn a_part_of_an_earlier_pull_is_used() {
    let (hub, home) = hub_with(Behaviour::default());
    let blobs = home.path("hub/models--org--model/blobs");
    fs::create_dir_all(&blobs).expect("create");
    fs::write(blobs.join("modelsafetensors.incomplete"), &tiny_files()[2].1[..1234]).expect("write");
    home.expect_installed(&tiny_files());
    assert!(hub.seen().iter().any(|line| line.contains("[bytes=1234-]")), "{:#?}", hub.seen());
}

#[test]
fn a_damaged_blob_of_the_cache_is_fetched_again() {
    let (_hub, home) = hub_with(Behaviour::default());
    let blobs = home.path("hub/models--org--model/blobs");
    fs::create_dir_all(&blobs).expect("create");
    fs::write(blobs.join("modelsafetensors"), vec![7; 300_000]).expect("write");
    home.expect_installed(&tiny_files());
}

#[test]
fn a_source_without_ranges_starts_again() {
    let (_hub, home) = hub_with(Behaviour { cuts: vec![100_000], no_ranges: true, ..Behaviour::default() });
    home.expect_installed(&tiny_files());
}

#[test]
fn wrong_content_is_refused_and_not_kept() {
    let mut files = tiny_files();
    files[2].1[77] ^= 1;
    let hub = HubServer::start(Behaviour { files, ..Behaviour::default() });
    let home = Home::new(&hub.endpoint);
    home.entry(&tiny_files(), &hub_source("org/model"));
    let reason = only_reason(home.pull().expect_err("refused"));
    assert!(matches!(&reason, SourceError::Mismatch { path, .. } if path == "model.safetensors"), "{reason}");
    home.expect_no_leftovers();
    let kept = files_below(&home.path("hub/models--org--model/blobs"));
    assert!(!kept.iter().any(|blob| blob.starts_with("modelsafetensors")), "{kept:?}");
    // The next hub has it right, and is asked for that file only.
    let (right, _) = hub_with(Behaviour::default());
    let mut config = home.config.clone();
    config.hub.endpoint = right.endpoint.clone();
    let home = Home { config, ..home };
    home.expect_installed(&tiny_files());
}

#[test]
fn access_is_asked_for_with_the_token_and_only_at_the_hub() {
    let (_hub, home) = hub_with(Behaviour { token: Some("hf_secret".into()), ..Behaviour::default() });
    let without = only_reason(home.pull().expect_err("refused"));
    assert!(matches!(without, SourceError::Unauthorized { status: 401, token_sent: false, .. }), "{without}");
    assert!(without.to_string().contains("HF_TOKEN"), "{without}");
    let mut config = home.config.clone();
    config.hub.token = Some("hf_secret".into());
    // The server itself checks that the other host never sees the token.
    Home { config, ..home }.expect_installed(&tiny_files());
}

#[test]
fn refusals_are_told_apart() {
    let reason = |status: u16, headers: &str| {
        let (_hub, home) =
            hub_with(Behaviour { refusals: vec![(status, headers.into()); 9], ..Behaviour::default() });
        only_reason(home.pull().expect_err("refused"))
    };
    assert!(matches!(reason(403, ""), SourceError::Unauthorized { status: 403, .. }));
    assert!(matches!(reason(404, ""), SourceError::NotFound { .. }));
    assert!(matches!(reason(418, ""), SourceError::Status { status: 418, .. }));
    let busy = reason(429, "Retry-After: 3600\r\n");
    let hour = Some(Duration::from_hours(1));
    assert!(matches!(busy, SourceError::RateLimited { retry_after, .. } if retry_after == hour), "{busy}");
    assert!(matches!(reason(200, ""), SourceError::Protocol { .. }), "no ETag: not a hub");
}

#[test]
fn a_short_retry_after_is_waited_for() {
    let (hub, home) = hub_with(Behaviour {
        refusals: vec![(429, "Retry-After: 0\r\n".into()), (503, "Retry-After: 0\r\n".into())],
        ..Behaviour::default()
    });
    home.expect_installed(&tiny_files());
    assert_eq!(hub.seen().iter().filter(|line| line.starts_with("HEAD")).count(), 5, "{:#?}", hub.seen());
}

#[test]
fn an_unreachable_hub_is_abandoned_within_five_seconds() {
    // Accepts connections (the kernel does) and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let home = Home::new(&format!("http://{}", silent.local_addr().expect("address")));
    home.entry(&tiny_files(), &hub_source("org/model"));
    let started = tokio::time::Instant::now();
    let reason = only_reason(home.pull().expect_err("unreachable"));
    assert!(matches!(reason, SourceError::Unreachable { .. }), "{reason}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());

    let closed = Home::new("http://127.0.0.1:1");
    closed.entry(&tiny_files(), &hub_source("org/model"));
    assert!(matches!(only_reason(closed.pull().expect_err("closed")), SourceError::Unreachable { .. }));
}

#[test]
fn authorities_that_cannot_be_read_are_named() {
    let (hub, home) = hub_with(Behaviour::default());
    let file = home.path("authorities.pem");
    let mut config = home.config.clone();
    config.hub.ca_file = Some(file.clone());
    let home = Home { config, ..home };
    let missing = only_reason(home.pull().expect_err("missing"));
    assert!(missing.to_string().contains("authorities.pem"), "{missing}");
    fs::write(&file, "no certificate").expect("write");
    let empty = only_reason(home.pull().expect_err("empty"));
    assert!(empty.to_string().contains("holds no certificate"), "{empty}");
    assert!(hub.seen().is_empty(), "nobody is asked with other authorities than those named");
}

#[test]
fn offline_asks_nobody() {
    let (hub, home) = hub_with(Behaviour::default());
    let mut config = home.config.clone();
    config.hub.offline = true;
    let home = Home { config, ..home };
    assert!(matches!(only_reason(home.pull().expect_err("offline")), SourceError::Offline));
    assert!(hub.seen().is_empty());
}

#[test]
fn a_full_disk_is_a_typed_error_and_leaves_no_half_model() {
    let (_hub, home) = hub_with(Behaviour::default());
    let blobs = home.path("hub/models--org--model/blobs");
    fs::create_dir_all(&blobs).expect("create");
    // Every write to /dev/full fails with ENOSPC.
    let part = blobs.join("modelsafetensors.incomplete");
    symlink("/dev/full", &part).expect("link");
    let error = home.pull().expect_err("full");
    assert!(matches!(&error, PullError::DiskFull { bytes_needed, .. } if *bytes_needed > 300_000), "{error}");
    home.expect_no_leftovers();
    assert!(fs::symlink_metadata(&part).is_err(), "the partial file is removed");
    home.expect_installed(&tiny_files());
}

#[test]
fn concurrent_pulls_of_one_model_fetch_it_once() {
    let (hub, home) = hub_with(Behaviour::default());
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| home.pull().expect("pulls"))).collect();
        let fetched = pulls.into_iter().filter_map(|pull| pull.join().expect("no panic").source);
        assert_eq!(fetched.count(), 1, "one fetches, the others find it installed");
    });
    let content = hub.seen().into_iter().filter(|line| line.starts_with("GET /cdn/model.safetensors"));
    assert_eq!(content.count(), 1);
}

#[test]
fn what_a_killed_pull_left_is_cleaned_up() {
    let (_hub, home) = hub_with(Behaviour::default());
    let store = shoal::store::ModelStore::open(home.config.clone()).expect("opens");
    let digest = store.entry("tiny").expect("known").digest();
    let left = home.path(&format!("models/tiny/.{digest}.incoming"));
    fs::create_dir_all(&left).expect("create");
    fs::write(left.join("config.json"), "half").expect("write");
    home.expect_installed(&tiny_files());
}
