//! Damaged model directories: a typed error or a sound model, never a panic.

use std::{fs, path::Path};

use proptest::{prelude::*, sample::Index};
use shoal_kernels::{
    CpuIsa, CpuLane, CpuModel, CpuOptions, DtypePolicy, ModelDescription, OutputSet, Outputs, PackedBatch,
};
use shoal_tests::golden;
use tempfile::TempDir;

const FILES: [&str; 6] = [
    "config.json",
    "model.safetensors",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

fn copy(name: &str) -> TempDir {
    let (from, to) = (golden::tiny_bert_dir(name), tempfile::tempdir().expect("a temporary directory"));
    fs::create_dir(to.path().join("1_Pooling")).expect("created");
    for file in FILES {
        fs::copy(from.join(file), to.path().join(file)).expect("copied");
    }
    to
}

/// Uses the directory as far as it lets itself be used.
fn try_everything(dir: &Path) -> Result<(), String> {
    let description = ModelDescription::from_dir(dir).map_err(|error| error.to_string())?;
    let options = CpuOptions { isa: CpuIsa::Portable, dtype: DtypePolicy::Auto, threads: 1 };
    let model = CpuModel::load(&description, &options, &mut |_, _| {}).map_err(|error| error.to_string())?;
    let mut batch = PackedBatch::new();
    batch.push(&[2, 5, 3]);
    let mut out = Outputs::new();
    CpuLane::new(1).run(&model, &batch, OutputSet::DENSE, 1, &mut out).map_err(|error| error.to_string())?;
    assert_eq!(out.dense.len(), model.dims());
    Ok(())
}

#[derive(Clone, Debug)]
enum Damage {
    Bytes(Vec<(Index, u8)>),
    Truncate(Index),
    Extend(Vec<u8>),
    Replace(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..64);
    prop_oneof![
        4 => prop::collection::vec((any::<Index>(), any::<u8>()), 1..6).prop_map(Damage::Bytes),
        1 => any::<Index>().prop_map(Damage::Truncate),
        1 => bytes().prop_map(Damage::Extend),
        1 => bytes().prop_map(Damage::Replace),
    ]
}

impl Damage {
    /// Byte edits fall into the first KiB: in a weight they would only change a number.
    fn apply(self, content: &mut Vec<u8>) {
        match self {
            Self::Bytes(edits) => {
                for (place, value) in edits {
                    let place = place.index(content.len().min(1024));
                    content[place] = value;
                }
            }
            Self::Truncate(place) => content.truncate(place.index(content.len())),
            Self::Extend(bytes) => content.extend(bytes),
            Self::Replace(bytes) => *content = bytes,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_damaged_directory_is_never_a_panic(file in prop::sample::select(&FILES[..]), damage in damage()) {
        let dir = copy("mean");
        let path = dir.path().join(file);
        let mut content = fs::read(&path).expect("copied");
        damage.apply(&mut content);
        fs::write(&path, content).expect("written");
        if let Err(told) = try_everything(dir.path()) {
            prop_assert!(!told.is_empty());
        }
    }

    /// A number of the configuration becomes any other number: the weights' shapes, not the configuration, decide.
    #[test]
    fn a_lying_configuration_is_refused_before_memory_is_taken(
        field in prop::sample::select(&["vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size",
            "max_position_embeddings", "type_vocab_size"][..]),
        value in prop_oneof![any::<u64>(), 0..100_000u64],
    ) {
        let dir = copy("mean");
        let path = dir.path().join("config.json");
        let text = fs::read_to_string(&path).expect("copied");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("golden data is JSON");
        let told = config[field].as_u64();
        config[field] = value.into();
        fs::write(&path, config.to_string()).expect("written");
        prop_assert_eq!(try_everything(dir.path()).is_ok(), told == Some(value));
    }
}

#[test]
fn the_undamaged_copy_works() {
    assert_eq!(try_everything(copy("mean").path()), Ok(()));
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let dir = copy("mean");
    let path = dir.path().join("model.safetensors");
    let mut content = fs::read(&path).expect("copied");
    let end = content.len();
    content[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    // The last tensor of the file is the pooler's, which no embedding uses; so poison everything behind the header.
    let header = u64::from_le_bytes(content[..8].try_into().expect("8 bytes")) as usize + 8;
    content[header..].fill(0xff);
    fs::write(&path, content).expect("written");
    let told = try_everything(dir.path()).expect_err("all weights are NaN");
    assert!(told.starts_with("tensor \"") && told.ends_with("element 0 is not finite"), "{told}");
}
