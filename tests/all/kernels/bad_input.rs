//! What a checkpoint may get wrong: each is refused with the property that is wrong, before a weight is read.

use std::fs;

use serde_json::{Value, json};
use shoal_tests::{changed, golden};

/// Swaps the two sizes of a tensor in the header of a safetensors file, which leaves its length as it is.
fn transpose(path: &std::path::Path, tensor: &str) {
    let mut file = fs::read(path).expect("golden data is there");
    let header_bytes = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    let header = String::from_utf8(file[8..8 + header_bytes].to_vec()).expect("UTF-8");
    let shape = header.find(&format!("\"{tensor}\"")).expect("the tensor") + tensor.len();
    let start = shape + header[shape..].find("\"shape\":[").expect("a shape") + "\"shape\":[".len();
    let end = start + header[start..].find(']').expect("an end");
    let sizes: Vec<_> = header[start..end].split(',').collect();
    let swapped = format!("{},{}", sizes[1], sizes[0]);
    file[8 + start..8 + end].copy_from_slice(swapped.as_bytes());
    fs::write(path, file).expect("written");
}

#[test]
fn a_transposed_tensor_is_named_with_both_shapes() {
    let dir = changed::copy_of(&golden::tiny_family_dir("bert"));
    transpose(&dir.path().join("model.safetensors"), "encoder.layer.0.intermediate.dense.weight");
    assert_eq!(
        changed::told(dir.path()),
        "DIR/config.json: tensor \"encoder.layer.0.intermediate.dense.weight\": shape [32, 48], the configuration \
         needs [48, 32]"
    );
}

type Change = fn(&mut Value);

/// The checkpoint, which of its files is changed and how, and what is told.
static TABLE: [(&str, &str, Change, &str); 11] = [
    (
        "families/bert",
        "config.json",
        |own| own["num_hidden_layers"] = 3.into(),
        "tensor \"encoder.layer.2.attention.self.query.weight\": not in the checkpoint",
    ),
    (
        "families/bert",
        "config.json",
        |own| own["num_hidden_layers"] = 1.into(),
        "is not accounted for by the configuration; the answers would be wrong without it",
    ),
    (
        "families/bert",
        "config.json",
        |own| own["vocab_size"] = 97.into(),
        "tensor \"embeddings.word_embeddings.weight\": shape [96, 32], the configuration needs [97, 32]",
    ),
    (
        "families/bert",
        "config.json",
        |own| own["num_attention_heads"] = 5.into(),
        "hidden_size (32) is not a multiple of num_attention_heads (5)",
    ),
    (
        "families/bert",
        "config.json",
        |own| own["max_position_embeddings"] = 1.into(),
        "tensor \"embeddings.position_embeddings.weight\": shape [180, 32], the configuration needs [1, 32]",
    ),
    (
        "families/qwen3",
        "config.json",
        |own| own["num_key_value_heads"] = 4.into(),
        "tensor \"layers.0.self_attn.k_proj.weight\": shape [32, 32], the configuration needs [64, 32]",
    ),
    (
        "heads/bert-nli",
        "config.json",
        |own| own["id2label"] = json!({"0": "yes", "1": "no"}),
        "tensor \"classifier.weight\": shape [3, 32], the configuration needs [2, 32]",
    ),
    (
        "heads/bert-nli",
        "config.json",
        |own| {
            own["id2label"] = Value::Null;
            own["num_labels"] = 1_000_000_000_000_u64.into();
        },
        "1000000000000 labels; there may be 65536",
    ),
    (
        "heads/colbert-pylate",
        "1_Dense/config.json",
        |own| own["in_features"] = 64.into(),
        "in_features is 64, but the modules before give vectors of 32",
    ),
    (
        "heads/colbert-pylate",
        "1_Dense/config.json",
        |own| own["out_features"] = 25.into(),
        "tensor \"linear.weight\": shape [24, 32], the configuration needs [25, 32]",
    ),
    (
        "heads/splade-max",
        "modules.json",
        |own| {
            own.as_array_mut().expect("a list").push(json!({"path": "2", "type":
                    "sentence_transformers.sparse_encoder.models.CSRSparsity"}));
        },
        "the chain of modules MLMTransformer, SpladePooling, CSRSparsity is not covered",
    ),
];

#[test]
fn a_configuration_that_contradicts_its_weights_is_told_by_which_property() {
    for (dir, file, change, expected) in &TABLE {
        let told = changed::refusal(&golden::root().join(dir), file, change);
        assert!(told.starts_with(&format!("DIR/{file}")) || told.starts_with("tensor "), "{told}");
        assert!(told.contains(expected), "{dir}: {told}");
    }
}
