//! Understands a local directory in Hugging Face layout without reading any weight.

mod error;
mod json;
mod matryoshka;
mod modules;
mod sentence_transformers;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use error::DescribeError;
pub use matryoshka::Matryoshka;
use serde::Deserialize;

use crate::{
    dtype::Dtype,
    families::{self, Described, WeightNames},
    outputs::OutputSet,
    spec::{EncoderSpec, Head, PooledHead, Poolings},
    weights::Checkpoint,
};
pub(crate) use modules::{HeadNames, ModuleWeights};
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
    /// How a sequence's rows become one vector, or several side by side.
    pub pooling: Poolings,
    /// No file told the pooling: `pooling` is the usual one for a bare encoder, and callers should warn.
    pub pooling_assumed: bool,
    /// Whether the dense vectors have length 1.
    pub normalizes: bool,
    /// Whether the pipeline lowercases texts before its tokenizer sees them, whatever the tokenizer does itself.
    pub lowercases: bool,
    /// What is put before a text.
    pub prompts: Prompts,
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
        let Pipeline { dir, poolings, pooling_assumed, modules, lowercases, tokens_max, prompts } =
            Pipeline::read(dir)?;
        let path = dir.join("config.json");
        let config = json::required(&path, json::BYTES_MAX)?;
        let matryoshka = Matryoshka::of_config(&path, &config)?;
        let checkpoint = Checkpoint::open(&dir)?;
        let family = |source| DescribeError::Family { path: path.clone(), source };
        let bare = PooledHead { poolings: poolings.clone(), modules: Vec::new() };
        let bare = Head { dense: Some(bare) };
        let Described { mut spec, names } = families::describe(&config, &checkpoint, bare).map_err(family)?;
        let (dense, head_names) = head(&poolings, &modules, spec.hidden)?;
        spec.head.dense = Some(dense);
        spec.validate().map_err(|error| family(error.into()))?;
        let limits = [tokens_max, tokenizer_tokens_max(&dir)?];
        let tokens_max = limits.into_iter().flatten().fold(spec.position.tokens_max() as u32, u32::min);
        Ok(Self {
            tokens_max,
            dims: spec.head.dims(spec.hidden) as u32,
            matryoshka,
            pooling: poolings,
            pooling_assumed,
            normalizes: spec.head.normalizes(),
            lowercases,
            prompts,
            names,
            head_names,
            spec,
            dir,
        })
    }

    /// The outputs that the model can give.
    pub fn gives(&self) -> OutputSet {
        self.spec.head.gives()
    }

    /// Bytes that the weights will take in a device's memory, before padding; measured bytes are known once loaded.
    pub fn weight_bytes_estimate(&self, dtype: Dtype) -> u64 {
        self.spec.parameters() * dtype.bytes() as u64
    }
}

/// Reads the modules behind the pooling, each of which gets what the one before gives.
fn head(
    poolings: &Poolings,
    modules: &[(String, PathBuf)],
    hidden: usize,
) -> Result<(PooledHead, HeadNames), DescribeError> {
    let mut width = hidden * poolings.0.len();
    let (mut head, mut weights) = (Vec::new(), Vec::new());
    for (kind, dir) in modules {
        let Some((module, of_module)) = modules::read(kind, dir, width)? else {
            continue;
        };
        width = module.outputs(width);
        head.push(module);
        weights.push(of_module);
    }
    Ok((PooledHead { poolings: poolings.clone(), modules: head }, HeadNames { dense: weights }))
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
