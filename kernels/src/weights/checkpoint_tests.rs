//! Single files, shards and what can be wrong with them.

use super::*;
use crate::weights::{
    MappedCheckpoint,
    fixture::{FixtureTensor, counting, write},
};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn refusal(dir: &Path) -> String {
    let error = Checkpoint::open(dir).expect_err("the checkpoint is not sound").to_string();
    error.replace(dir.to_str().expect("UTF-8"), "DIR")
}

/// Two shards and an index that promises `a` in the first and `b` where the test says.
fn sharded(b_in: &str) -> tempfile::TempDir {
    let dir = dir();
    write(&dir.path().join("one.safetensors"), &[counting("a", &[2, 2])]);
    write(&dir.path().join("two.safetensors"), &[counting("b", &[3])]);
    let index = format!(r#"{{"metadata":{{}},"weight_map":{{"a":"one.safetensors","b":{b_in:?}}}}}"#);
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).expect("written");
    dir
}

#[test]
fn a_single_file_is_read() {
    let dir = dir();
    write(&dir.path().join("model.safetensors"), &[counting("a", &[2, 3]), counting("b", &[4])]);
    let mapped = MappedCheckpoint::open(dir.path()).expect("sound");
    let tensor = mapped.tensor("a", &[2, 3]).expect("there");
    tensor.prefetch();
    let mut row = [0.0; 3];
    tensor.read(3, &mut row).expect("finite");
    assert_eq!(row, [3.0, 4.0, 5.0]);
    tensor.release();
    assert_eq!(
        tensor.read_all().expect("finite"),
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
        "released pages come back"
    );
    assert_eq!(tensor.bytes(), 24);
}

#[test]
fn shards_are_merged() {
    let dir = sharded("two.safetensors");
    let mapped = MappedCheckpoint::open(dir.path()).expect("sound");
    assert_eq!(mapped.tensor("b", &[3]).and_then(|b| b.read_all()).expect("there"), [0.0, 1.0, 2.0]);
    let checkpoint = Checkpoint::open(dir.path()).expect("sound");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert!(checkpoint.contains("a") && !checkpoint.contains("c"));
}

#[test]
fn an_index_is_not_believed() {
    assert!(refusal(dir().path()).starts_with("no weights in DIR: expected model.safetensors"));
    assert_eq!(
        refusal(sharded("one.safetensors").path()),
        "DIR/model.safetensors.index.json is not a usable index of shards: \
         it promises tensor \"b\" in DIR/one.safetensors, which does not hold it"
    );
    for outside in ["../two.safetensors", "/etc/passwd", "", ".", "..", "x/", "x/y"] {
        let told = refusal(sharded(outside).path());
        assert!(told.ends_with(&format!("{outside:?} is not the name of a file beside it")), "{told}");
    }
    assert!(refusal(sharded("three.safetensors").path()).starts_with("cannot read DIR/three.safetensors"));
    let twice = sharded("two.safetensors");
    write(&twice.path().join("two.safetensors"), &[counting("a", &[4]), counting("b", &[3])]);
    assert_eq!(refusal(twice.path()), "tensor \"a\" is in DIR/two.safetensors and in another shard");
    let garbage = sharded("two.safetensors");
    std::fs::write(garbage.path().join("model.safetensors.index.json"), "{\"weight_map\": 3}")
        .expect("written");
    assert!(refusal(garbage.path()).contains("invalid type: integer `3`"));
}

#[test]
fn a_truncated_file_is_named() {
    let dir = dir();
    let path = dir.path().join("model.safetensors");
    write(&path, &[counting("a", &[64])]);
    let bytes = std::fs::read(&path).expect("readable");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
    assert_eq!(
        refusal(dir.path()),
        "DIR/model.safetensors is not a sound safetensors file: \
         the tensors end at byte 256 of the data; the file holds 255"
    );
}

#[test]
fn tensors_are_checked_against_the_need() {
    let dir = dir();
    let values = vec![0.0, f32::INFINITY];
    write(&dir.path().join("model.safetensors"), &[FixtureTensor { name: "a", shape: &[2, 1], values }]);
    let mapped = MappedCheckpoint::open(dir.path()).expect("sound");
    let told = |name, shape: &[usize]| mapped.tensor(name, shape).expect_err("not as needed").to_string();
    assert_eq!(told("z", &[1]), "tensor \"z\": not in the checkpoint");
    assert_eq!(told("a", &[1, 2]), "tensor \"a\": shape [2, 1], the configuration needs [1, 2]");
    let infinite = mapped.tensor("a", &[2, 1]).and_then(|a| a.read_all()).expect_err("infinite").to_string();
    assert_eq!(infinite, "tensor \"a\": element 1 is not finite");
}

#[test]
fn integers_are_no_weights() {
    let dir = dir();
    let header = r#"{"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat();
    std::fs::write(dir.path().join("model.safetensors"), bytes).expect("written");
    let checkpoint = Checkpoint::open(dir.path()).expect("sound");
    let told = checkpoint.find("ids", &[1]).expect_err("not a weight").to_string();
    assert_eq!(told, "tensor \"ids\": dtype I64 is not covered: expected F32, F16 or BF16");
}
