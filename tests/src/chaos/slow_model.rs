//! A model that takes long enough to load for its loader to be killed meanwhile: the golden tiny BERT, wide and deep,
//! with weights that mean nothing.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::stage::SLOW_MODEL;

/// As BERT-base: 340 MB.
const LAYERS: usize = 12;
const HIDDEN: usize = 768;
const INTERMEDIATE: usize = 3072;
/// Of the golden tiny BERT, whose tokenizer it uses.
const VOCABULARY: usize = 570;
const POSITIONS: usize = 64;
/// Weights are written in pieces of this length, all alike.
const PIECE_BYTES: usize = 1 << 16;

/// Makes the model below `data_dir` and installs it there, so that nodes with that data directory have it on disk.
///
/// # Errors
/// The operating system's, or when `program` refuses the model.
pub(super) fn install(program: &Path, tiny: &Path, data_dir: &Path) -> io::Result<()> {
    let dir = data_dir.join("made").join(SLOW_MODEL);
    fs::create_dir_all(&dir)?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tiny.join(file), dir.join(file))?;
    }
    let mut config: Map<String, Value> = serde_json::from_slice(&fs::read(tiny.join("config.json"))?)?;
    let sizes = [("num_hidden_layers", LAYERS), ("hidden_size", HIDDEN), ("intermediate_size", INTERMEDIATE)];
    for (key, size) in sizes.into_iter().chain([("num_attention_heads", 12)]) {
        config.insert(key.to_owned(), json!(size));
    }
    fs::write(dir.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
    write_weights(&dir.join("model.safetensors"))?;
    let catalogue = data_dir.join("catalogue");
    fs::create_dir_all(&catalogue)?;
    fs::write(catalogue.join(format!("{SLOW_MODEL}.toml")), entry(&dir)?)?;
    let pulled = Command::new(program)
        .args(["pull", SLOW_MODEL])
        .env("SHOAL_HOME", data_dir)
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .output()?;
    if pulled.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("shoal pull {SLOW_MODEL}: {}", String::from_utf8_lossy(&pulled.stderr))))
}

/// Names and shapes, as `BertModel` has them.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let vector = |name: &str, size| (name.to_owned(), vec![size]);
    let mut all = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![POSITIONS, HIDDEN]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, HIDDEN]),
        vector("embeddings.LayerNorm.weight", HIDDEN),
        vector("embeddings.LayerNorm.bias", HIDDEN),
    ];
    let dense = [
        ("attention.self.query", HIDDEN, HIDDEN),
        ("attention.self.key", HIDDEN, HIDDEN),
        ("attention.self.value", HIDDEN, HIDDEN),
        ("attention.output.dense", HIDDEN, HIDDEN),
        ("intermediate.dense", INTERMEDIATE, HIDDEN),
        ("output.dense", HIDDEN, INTERMEDIATE),
    ];
    for layer in 0..LAYERS {
        for (name, rows, columns) in dense {
            all.push((format!("encoder.layer.{layer}.{name}.weight"), vec![rows, columns]));
            all.push((format!("encoder.layer.{layer}.{name}.bias"), vec![rows]));
        }
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            all.push((format!("encoder.layer.{layer}.{name}.weight"), vec![HIDDEN]));
            all.push((format!("encoder.layer.{layer}.{name}.bias"), vec![HIDDEN]));
        }
    }
    all
}

fn write_weights(path: &Path) -> io::Result<()> {
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in tensors() {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::to_vec(&header)?;
    let mut file = BufWriter::with_capacity(PIECE_BYTES, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    // Small values of both signs, so that nothing overflows.
    let value = |index: usize| ((index * 7919 % 2003) as f32 / 2003.0 - 0.5) * 0.04;
    let piece: Vec<u8> = (0..PIECE_BYTES / 4).flat_map(|index| value(index).to_le_bytes()).collect();
    while end > 0 {
        let length = end.min(PIECE_BYTES);
        file.write_all(&piece[..length])?;
        end -= length;
    }
    file.flush()
}

/// The catalogue's words for it.
fn entry(dir: &Path) -> io::Result<String> {
    let mut entry = format!(
        "version = 1\nname = \"{SLOW_MODEL}\"\n[[sources]]\nkind = \"directory\"\npath = {:?}\n",
        dir.display().to_string()
    );
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|file| file.map(|file| file.path())).collect::<io::Result<_>>()?;
    paths.sort();
    for path in paths {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (hash, bytes) = hash(&path)?;
        entry += &format!("[[files]]\npath = \"{name}\"\nsha256 = \"{hash}\"\nbytes = {bytes}\n");
    }
    Ok(entry)
}

fn hash(path: &Path) -> io::Result<(String, u64)> {
    let (mut file, mut hasher, mut bytes) = (File::open(path)?, Sha256::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            break;
        }
        hasher.update(&piece[..length]);
        bytes += length as u64;
    }
    Ok((hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), bytes))
}
