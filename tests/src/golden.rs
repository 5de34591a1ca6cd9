//! Reads the vectors that other implementations gave (see `golden/README.md`), and measures distances from them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

/// The tiny checkpoints that a `BertModel` loader covers.
pub const TINY_BERTS: [&str; 6] =
    ["mean", "cls-bf16-prefixed", "bare-f16-gamma", "sharded-current", "dense-f16", "poolings-layernorm"];

/// A tiny checkpoint of each family and layout.
pub const TINY_FAMILIES: [&str; 26] = [
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "distilbert",
    "mpnet",
    "electra",
    "modernbert",
    "modernbert-current",
    "nomic-bert",
    "nomic-bert-current",
    "gte-new",
    "gte-current",
    "jina-bert",
    "jina-v3",
    "jina-v3-adapted",
    "qwen2",
    "qwen2-bidirectional",
    "qwen3",
    "mistral",
    "llama",
    "gemma3",
    "eurobert",
    "deberta-v3",
    "deberta-v2",
    "deberta-v2-c2p",
];

/// The tiny checkpoints with a head that classifies sequences or tokens.
pub const TINY_CLASSIFIERS: [&str; 24] = [
    "bert-score",
    "bert-nli",
    "bert-score-6",
    "xlm-roberta-score",
    "roberta-labels",
    "distilbert-sentiment",
    "electra-score",
    "mpnet-labels",
    "modernbert-score",
    "ettin-score",
    "gte-score",
    "jina-bert-score",
    "jina-flash-score",
    "qwen3-score",
    "qwen2-labels",
    "deberta-score",
    "deberta-nli",
    "deberta-ner",
    "bert-ner",
    "xlm-roberta-ner",
    "distilbert-ner",
    "electra-ner",
    "modernbert-ner",
    "gte-ner",
];

/// The tiny checkpoints that answer weights of words.
pub const TINY_SPARSE: [&str; 4] = ["splade-max", "splade-sum", "splade-log-6", "splade-roberta"];

/// The tiny checkpoints that answer a vector per token.
pub const TINY_MULTIVECTOR: [&str; 5] =
    ["colbert-pylate", "colbert-attend", "colbert-stanford", "colbert-flash", "multivector-6"];

/// One text and what the reference answers.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// The input.
    #[serde(default)]
    pub text: String,
    /// What the model sees, special tokens included.
    pub ids: Vec<u32>,
    /// The prompt before the text, where there is one.
    #[serde(default)]
    pub prompt_name: String,
    /// Tokens of the whole text, where it is a text.
    #[serde(default)]
    pub tokens_untruncated: usize,
    /// The segment of each, where not all are 0.
    #[serde(default)]
    pub type_ids: Vec<u8>,
    /// The answer, `[dims]`.
    pub vector: Vec<f64>,
    /// Tokens whose hidden states are told.
    #[serde(default)]
    pub rows: Vec<u32>,
    /// These, `[rows, hidden]`.
    #[serde(default)]
    pub hidden: Vec<f64>,
}

/// A tiny checkpoint's description and answers.
#[derive(Debug, Deserialize)]
pub struct TinyBert {
    /// Width of the answer.
    pub dims: u32,
    /// The limit.
    pub tokens_max: u32,
    /// As a description prints it.
    pub pooling: String,
    /// Whether no file tells it.
    pub pooling_assumed: bool,
    /// Whether the answer has length 1.
    pub normalizes: bool,
    /// How far the reference's own f32 is from these f64 vectors.
    pub f32_error_max: f64,
    /// Texts of many kinds.
    pub cases: Vec<Case>,
    /// Texts behind a prompt.
    pub prompts: Vec<Case>,
    /// `ids`, and the vector under each pooling, not normalised.
    pub poolings: BTreeMap<String, Vec<f64>>,
    /// Two segments.
    pub type_ids_case: Case,
}

/// What a tiny checkpoint of another family answers.
#[derive(Debug, Deserialize)]
pub struct TinyFamily {
    /// The limit.
    pub tokens_max: u32,
    /// The largest relative L2 distance of the reference's own f32 from these f64 vectors.
    pub f32_error_max: f64,
    /// The same of the hidden states of a sequence.
    pub f32_hidden_error_max: f64,
    /// Sequences of ids.
    pub cases: Vec<Case>,
    /// A sequence of as many tokens as the model takes, where these are many.
    pub longest: Option<Longest>,
}

/// One long sequence.
#[derive(Debug, Deserialize)]
pub struct Longest {
    /// How it begins, over and over.
    ids: Vec<u32>,
    tokens: usize,
    /// How far the reference's own f32 is from the vector.
    pub f32_error: f64,
    /// The answer.
    pub vector: Vec<f64>,
}

impl Longest {
    /// All of it.
    pub fn ids(&self) -> Vec<u32> {
        self.ids.iter().copied().cycle().take(self.tokens).collect()
    }
}

/// What a tiny classifier answers.
#[derive(Debug, Deserialize)]
pub struct TinyClassifier {
    /// `classes` or `token_classes`.
    pub output: String,
    /// In the order of the logits.
    pub labels: Vec<String>,
    /// What a score goes through: `sigmoid` or `identity`.
    pub activation: String,
    /// Whether labels hold independently.
    pub multi_label: bool,
    /// The limit.
    pub tokens_max: u32,
    /// The largest difference of the reference's own f32 from these f64 logits.
    pub f32_error_max: f64,
    /// Sequences of ids.
    pub cases: Vec<Logits>,
}

/// A sequence and its logits: one row, or one a token.
#[derive(Debug, Deserialize)]
pub struct Logits {
    /// What the model sees.
    pub ids: Vec<u32>,
    /// The segment of each, where not all are 0.
    pub type_ids: Vec<u8>,
    /// `[labels]` or `[tokens, labels]`.
    pub logits: Vec<f64>,
}

/// What a tiny checkpoint answers whose cases are of another kind each.
#[derive(Debug, Deserialize)]
pub struct TinyHead<C> {
    /// The limit.
    pub tokens_max: u32,
    /// The largest difference of the reference's own f32 from these f64 answers.
    pub f32_error_max: f64,
    /// Texts.
    pub cases: Vec<C>,
}

/// The words that matter to a text.
#[derive(Debug, Deserialize)]
pub struct SparseCase {
    /// What the model sees.
    pub ids: Vec<u32>,
    /// Ascending.
    pub indices: Vec<u32>,
    /// Above 0.
    pub values: Vec<f64>,
}

/// The vectors of a text's tokens.
#[derive(Debug, Deserialize)]
pub struct MultivectorCase {
    /// `query` or `document`.
    pub task: String,
    /// Before anything is done to it.
    pub text: String,
    /// What the model sees, with what the query was expanded by.
    pub ids: Vec<u32>,
    /// How many of them the others see.
    pub seen: usize,
    /// Vectors.
    pub rows: usize,
    /// `[rows, dims]`.
    pub vectors: Vec<f64>,
}

/// One line of the real model's texts.
#[derive(Debug, Deserialize)]
pub struct MiniLmText {
    /// The input.
    pub text: String,
    /// What is peculiar about it.
    pub note: String,
    /// What the model sees.
    pub ids: Vec<u32>,
    /// Before truncation.
    pub tokens_untruncated: usize,
}

/// The folder of golden data.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The directory of a tiny checkpoint.
pub fn tiny_bert_dir(name: &str) -> PathBuf {
    root().join("bert").join(name)
}

/// What a tiny checkpoint answers.
///
/// # Panics
/// When the golden data is damaged.
pub fn tiny_bert(name: &str) -> TinyBert {
    parse(&read(&root().join("bert").join(format!("{name}.json"))))
}

/// The directory of a tiny checkpoint of another family.
pub fn tiny_family_dir(name: &str) -> PathBuf {
    root().join("families").join(name)
}

/// What the checkpoint in `dir` answers, told by the file beside it.
///
/// # Panics
/// When the golden data is damaged.
pub fn family_of(dir: &Path) -> TinyFamily {
    let name = dir.file_name().expect("a directory with a name").to_string_lossy();
    parse(&read(&dir.with_file_name(format!("{name}.json"))))
}

/// The directory of a tiny checkpoint with a head.
pub fn tiny_head_dir(name: &str) -> PathBuf {
    root().join("heads").join(name)
}

/// What a tiny classifier answers.
///
/// # Panics
/// When the golden data is damaged.
pub fn tiny_classifier(name: &str) -> TinyClassifier {
    parse(&read(&root().join("heads").join(format!("{name}.json"))))
}

/// What a tiny checkpoint with a head answers.
///
/// # Panics
/// When the golden data is damaged.
pub fn tiny_head<C: DeserializeOwned>(name: &str) -> TinyHead<C> {
    parse(&read(&root().join("heads").join(format!("{name}.json"))))
}

/// The real model's texts with its vectors, `[384]` each.
///
/// # Panics
/// When the golden data is damaged.
pub fn minilm() -> Vec<(MiniLmText, Vec<f64>)> {
    let dir = root().join("minilm");
    let texts = String::from_utf8(read(&dir.join("texts.jsonl"))).expect("texts.jsonl is UTF-8");
    let floats = read(&dir.join("vectors.f32"));
    let floats = floats.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
    let floats = floats.collect::<Vec<_>>();
    let texts = texts.lines().map(|line| parse::<MiniLmText>(line.as_bytes()));
    texts.zip(floats.chunks(384)).map(|(text, vector)| (text, vector.to_vec())).collect()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> T {
    serde_json::from_slice(json).expect("golden data has the form that its README tells")
}

/// The cosine of the angle between an answer and the truth.
pub fn cosine(answer: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(answer.len(), truth.len(), "vectors of different widths");
    let dot = |a: &dyn Fn(usize) -> f64, b: &dyn Fn(usize) -> f64| {
        (0..truth.len()).map(|i| a(i) * b(i)).sum::<f64>()
    };
    let (a, t) = (|i: usize| f64::from(answer[i]), |i: usize| truth[i]);
    dot(&a, &t) / (dot(&a, &a) * dot(&t, &t)).sqrt()
}

/// The L2 length of the error, relative to that of the truth.
pub fn distance(answer: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(answer.len(), truth.len(), "vectors of different widths");
    let error: f64 = answer.iter().zip(truth).map(|(a, t)| (f64::from(*a) - t).powi(2)).sum();
    (error / truth.iter().map(|t| t * t).sum::<f64>()).sqrt()
}

/// The largest difference of any element.
pub fn error_max(answer: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(answer.len(), truth.len(), "vectors of different widths");
    answer.iter().zip(truth).map(|(a, t)| (f64::from(*a) - t).abs()).fold(0.0, f64::max)
}
