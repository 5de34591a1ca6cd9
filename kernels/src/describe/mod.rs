//! Understands a local directory in Hugging Face layout without reading any weight.

mod error;
mod gliner;
mod head;
mod json;
mod labels;
mod late_interaction;
mod matryoshka;
mod modules;
mod pooling;
mod reranker;
mod sentence_transformers;
mod vocabulary;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

pub use error::DescribeError;
use gliner::Gliner;
pub use gliner::SpanTexts;
pub(crate) use gliner::{LstmNames, SpanNames};
use labels::Labels;
pub use labels::ScoreActivation;
pub use late_interaction::{Expansion, MultivectorText, MultivectorTexts};
pub use matryoshka::Matryoshka;
pub use reranker::PairTemplate;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    dtype::Dtype,
    families::{self, Described, FamilyError, WeightNames},
    outputs::OutputSet,
    spec::{EncoderSpec, Head, Pooling, Poolings},
    weights::Checkpoint,
};
pub(crate) use modules::{HeadNames, ModuleWeights, TableRows, VocabularyWeights};
use sentence_transformers::Pipeline;

/// A model as its files describe it. Made from `config.json`, the sentence-transformers files, the tokenizer's limits
/// and the headers of the weights, all of which were checked against each other.
#[derive(Clone, Debug)]
pub struct ModelDescription {
    /// The directory that holds `config.json`, `tokenizer.json` and the weights.
    pub dir: PathBuf,
    /// The encoder and its head.
    pub spec: EncoderSpec,
    /// The longest input in tokens, special tokens included.
    pub tokens_max: u32,
    /// Width of the dense vectors; 0 where the model gives none.
    pub dims: u32,
    /// To which smaller widths the answer may be cut.
    pub matryoshka: Matryoshka,
    /// How a sequence's rows become one vector, or several side by side; none where the model gives no dense vectors.
    pub pooling: Poolings,
    /// No file told the pooling: `pooling` is the usual one for a bare encoder, and callers should warn.
    pub pooling_assumed: bool,
    /// Whether the dense vectors have length 1.
    pub normalizes: bool,
    /// Whether the pipeline lowercases texts before its tokenizer sees them, whatever the tokenizer does itself.
    pub lowercases: bool,
    /// What is put before a text.
    pub prompts: Prompts,
    /// What the logits of `classes` or `token_classes` stand for, in their order; empty without such a head.
    pub labels: Vec<String>,
    /// Whether each label holds or not whatever the others do (the logits go through a sigmoid, not a softmax).
    pub multi_label: bool,
    /// What becomes of the one logit of a cross-encoder before it is a score.
    pub score_activation: ScoreActivation,
    /// What stands around a query and a text, for a language model that judges them.
    pub pair_template: Option<PairTemplate>,
    /// What texts need before each of their tokens gets a vector; `None` without such a head.
    pub multivector: Option<MultivectorTexts>,
    /// How labels are put before texts; `None` without a head that scores spans.
    pub span_texts: Option<SpanTexts>,
    pub(crate) names: WeightNames,
    pub(crate) head_names: HeadNames,
}

/// Named texts that a model wants before its input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    /// By name.
    pub by_name: BTreeMap<String, String>,
    /// The name of the one that is used when the caller names none; a key of `by_name`.
    pub default_name: Option<String>,
}

/// What a model is for, by what it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelTask {
    /// Vectors of texts.
    Encode,
    /// How well a document answers a query.
    Score,
    /// Labels of texts, or of spans in them.
    Extract,
}

impl fmt::Display for ModelTask {
    /// As on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encode => "encode",
            Self::Score => "score",
            Self::Extract => "extract",
        })
    }
}

/// A directory that holds one of these files, by name, is that of a model.
pub const CONFIG_FILES: [&str; 2] = ["config.json", gliner::FILE];

/// Larger than any real one; `tokenizer_config.json` lists every added token.
const TOKENIZER_CONFIG_BYTES_MAX: u64 = 16 << 20;
/// `tokenizer_config.json` says 10^30 for "no limit".
const TOKENIZER_TOKENS_MAX: f64 = (1 << 30) as f64;

impl ModelDescription {
    /// Describes the model in `dir`. Reads no weights: of safetensors only the headers.
    ///
    /// # Errors
    /// Names the file and what is wrong with it, or what of the model is not covered and what is.
    pub fn from_dir(dir: &Path) -> Result<Self, DescribeError> {
        Self::read(dir, false)
    }

    /// The same, of a model that somebody says ranks texts: a causal language model whose files do not say what it is for
    /// is a reranker then, and no embedder.
    ///
    /// # Errors
    /// As for [`from_dir`](Self::from_dir).
    pub fn of_reranker(dir: &Path) -> Result<Self, DescribeError> {
        Self::read(dir, true)
    }

    fn read(dir: &Path, ranks: bool) -> Result<Self, DescribeError> {
        let pipeline = Pipeline::read(dir)?;
        let gliner = Gliner::read(&pipeline.dir)?;
        let (path, config) = match &gliner {
            Some(gliner) => gliner.encoder()?,
            None => read_config(&pipeline.dir)?,
        };
        let matryoshka = Matryoshka::of_config(&path, &config)?;
        let checkpoint = Checkpoint::open(&pipeline.dir)?;
        let family = |source| DescribeError::Family { path: path.clone(), source };
        let encoder = describe_encoder(&config, &checkpoint, gliner.is_some()).map_err(family)?;
        let source = head::Source {
            pipeline: &pipeline,
            path: &path,
            config: &config,
            encoder: &encoder,
            checkpoint: &checkpoint,
            ranks,
        };
        let found = match &gliner {
            Some(gliner) => gliner.head(encoder.spec.hidden, &checkpoint)?,
            None => head::read(&source)?,
        };
        let Described { mut spec, names } = encoder;
        spec.head = found.head;
        gliner.iter().for_each(|gliner| gliner.lengthen(&mut spec));
        spec.validate().map_err(|error| family(error.into()))?;
        let limits = [pipeline.tokens_max, tokenizer_tokens_max(&pipeline.dir)?];
        let tokens_max = limits.into_iter().flatten().fold(spec.position.tokens_max() as u32, u32::min);
        let multivector = head::texts(&pipeline, &config, spec.head.multivector.as_ref(), tokens_max)?;
        let unseen = multivector.as_ref().map_or(0, MultivectorTexts::unseen_up_to);
        if unseen > spec.sight() {
            let found = format!("a query filled up to {unseen} tokens that no other sees");
            let covered = "such queries where attention knows no distances and reaches every token";
            return Err(DescribeError::NotCovered { path, found, covered });
        }
        let pooling = spec.head.dense.as_ref().map_or(Poolings(Vec::new()), |dense| dense.poolings.clone());
        let Labels { names: labels, multi_label, activation: score_activation } = found.labels;
        Ok(Self {
            tokens_max,
            dims: spec.head.dims(spec.hidden) as u32,
            matryoshka,
            pooling,
            pooling_assumed: found.pooling_assumed,
            normalizes: spec.head.normalizes(),
            lowercases: pipeline.lowercases,
            prompts: pipeline.prompts,
            labels,
            multi_label,
            score_activation,
            pair_template: found.template,
            multivector,
            span_texts: gliner.map(|gliner| gliner.texts()).transpose()?,
            names,
            head_names: found.names,
            spec,
            dir: pipeline.dir,
        })
    }

    /// The outputs that the model can give.
    pub fn gives(&self) -> OutputSet {
        self.spec.head.gives()
    }

    /// What the model is for.
    pub fn task(&self) -> ModelTask {
        let gives = self.gives();
        match self.labels.len() {
            1 if gives.classes => ModelTask::Score,
            _ if gives.classes || gives.token_classes || gives.spans => ModelTask::Extract,
            _ => ModelTask::Encode,
        }
    }

    /// Bytes that the weights will take in a device's memory, before padding; measured bytes are known once loaded.
    pub fn weight_bytes_estimate(&self, dtype: Dtype) -> u64 {
        self.spec.parameters() * dtype.bytes() as u64
    }
}

fn read_config(dir: &Path) -> Result<(PathBuf, Value), DescribeError> {
    let path = dir.join("config.json");
    let config = json::required(&path, json::BYTES_MAX)?;
    Ok((path, config))
}

/// The encoder, with a head that stands in for its own.
fn describe_encoder(
    config: &Value,
    checkpoint: &Checkpoint,
    is_gliner: bool,
) -> Result<Described, FamilyError> {
    let bare = Head::pooled(Pooling::Mean, false);
    let root = if is_gliner { gliner::ENCODER } else { "" };
    if late_interaction::is_stanford(config) {
        return families::describe(&without_architecture(config), (checkpoint, root), bare);
    }
    families::describe(config, (checkpoint, root), bare)
}

/// Leaves the encoder's family to `model_type`.
fn without_architecture(config: &Value) -> Value {
    let mut config = config.clone();
    config.as_object_mut().map(|fields| fields.remove("architectures"));
    config
}

/// The tokenizer's own limit, where it states a sane one.
fn tokenizer_tokens_max(dir: &Path) -> Result<Option<u32>, DescribeError> {
    #[derive(Deserialize)]
    struct TokenizerConfig {
        #[serde(default)]
        model_max_length: Option<f64>,
    }
    let path = dir.join("tokenizer_config.json");
    let config: Option<TokenizerConfig> = json::optional(&path, TOKENIZER_CONFIG_BYTES_MAX)?;
    let limit = config.and_then(|config| config.model_max_length);
    Ok(limit.filter(|limit| (1.0..=TOKENIZER_TOKENS_MAX).contains(limit)).map(|limit| limit as u32))
}

#[cfg(test)]
mod tests;
