//! A small model directory for this crate's own tests.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::weights::fixture::{counting, write};

/// A configuration of one layer of width 4.
pub(crate) fn config() -> Value {
    json!({
        "architectures": ["BertModel"], "vocab_size": 6, "hidden_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 40,
    })
}

/// The tensors that it needs, with the norms named as TensorFlow names them.
pub(crate) fn shapes() -> Vec<(String, Vec<usize>)> {
    let linear = |name: &str, rows: usize, columns: usize| {
        [(format!("{name}.weight"), vec![rows, columns]), (format!("{name}.bias"), vec![rows])]
    };
    let norm = |name: &str| ["gamma", "beta"].map(|part| (format!("{name}.LayerNorm.{part}"), vec![4]));
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![6, 4]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![40, 4]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, 4]),
    ];
    shapes.extend(norm("embeddings"));
    for name in ["self.query", "self.key", "self.value", "output.dense"] {
        shapes.extend(linear(&format!("encoder.layer.0.attention.{name}"), 4, 4));
    }
    shapes.extend(norm("encoder.layer.0.attention.output"));
    shapes.extend(linear("encoder.layer.0.intermediate.dense", 8, 4));
    shapes.extend(linear("encoder.layer.0.output.dense", 4, 8));
    shapes.extend(norm("encoder.layer.0.output"));
    shapes
}

pub(crate) fn put_weights(dir: &Path, prefix: &str, shapes: &[(String, Vec<usize>)]) {
    let names = shapes.iter().map(|(name, _)| format!("{prefix}{name}")).collect::<Vec<_>>();
    let tensors = names.iter().zip(shapes).map(|(name, (_, shape))| counting(name, shape));
    write(&dir.join("model.safetensors"), &tensors.collect::<Vec<_>>());
}

/// A directory that holds such a model and the files given.
pub(crate) fn model(prefix: &str, files: &[(&str, Value)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    put(dir.path(), "config.json", &config());
    for (name, content) in files {
        put(dir.path(), name, content);
    }
    put_weights(dir.path(), prefix, &shapes());
    dir
}

fn put(dir: &Path, name: &str, content: &Value) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().expect("below the directory")).expect("created");
    std::fs::write(path, content.to_string()).expect("written");
}
