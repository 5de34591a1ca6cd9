//! The files that sentence-transformers writes around an encoder, as versions 2 to 6 write them.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::{
    DescribeError, Prompts, json,
    late_interaction::{PylateConfig, TransformerTexts},
    modules, pooling,
    reranker::LogitScore,
};
use crate::{cpu::WordWeights, spec::Poolings};

/// What the files around the encoder say.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// Where the encoder's own files lie.
    pub(super) dir: PathBuf,
    pub(super) chain: Chain,
    pub(super) lowercases: bool,
    pub(super) tokens_max: Option<u32>,
    pub(super) prompts: Prompts,
    /// The class of what is applied to a score.
    pub(super) score_activation: Option<String>,
    /// What a model with vectors of tokens wants of its texts.
    pub(super) late_interaction: LateInteraction,
}

/// The two layouts of files that say it.
#[derive(Debug)]
pub(super) enum LateInteraction {
    Pylate(PylateConfig),
    Native(TransformerTexts),
}

/// What follows the encoder.
#[derive(Debug)]
pub(super) enum Chain {
    /// No `modules.json` says it.
    Bare,
    /// Pooling, then modules: the class and the directory of each.
    Pooled { poolings: Poolings, modules: Vec<(String, PathBuf)> },
    /// The same, of which the last one gives logits of labels.
    Scored { poolings: Poolings, modules: Vec<(String, PathBuf)> },
    /// The head of the class in `config.json`.
    Classifier,
    /// The logits of a masked language model, pooled.
    Words(WordWeights),
    /// The logits of two words of a causal language model, compared.
    Judgement(LogitScore),
    /// Modules on the vectors of tokens: the class and the directory of each.
    Tokens { modules: Vec<(String, PathBuf)> },
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    class: String,
}

impl Pipeline {
    pub(super) fn read(root: &Path) -> Result<Self, DescribeError> {
        let (prompts, config) = PipelineConfig::read(root)?;
        let modules_path = root.join("modules.json");
        let modules = json::optional::<Vec<Module>>(&modules_path, json::BYTES_MAX)?;
        let dir = match modules.as_deref() {
            Some([transformer, ..]) => transformer.dir(root, &modules_path)?,
            Some([]) | None => root.to_owned(),
        };
        let transformer = read_transformer(&dir)?;
        let chain = match modules.as_deref() {
            None => Chain::Bare,
            Some(modules) => {
                Listed { root, path: &modules_path, modules }.chain(&transformer, &prompts, &config)?
            }
        };
        let PipelineConfig { model_type, activation_fn, pylate, .. } = config;
        let is_pylate = model_type.as_deref() != Some("MultiVectorEncoder");
        chain.check(root, model_type)?;
        let TransformerConfig { max_seq_length, do_lower_case, texts, .. } = transformer;
        Ok(Self {
            dir,
            chain,
            lowercases: do_lower_case,
            tokens_max: max_seq_length,
            prompts,
            score_activation: activation_fn,
            late_interaction: if is_pylate {
                LateInteraction::Pylate(pylate)
            } else {
                LateInteraction::Native(texts)
            },
        })
    }
}

/// What `modules.json` lists.
struct Listed<'a> {
    /// Of the model.
    root: &'a Path,
    path: &'a Path,
    modules: &'a [Module],
}

impl Listed<'_> {
    fn chain(
        &self,
        transformer: &TransformerConfig,
        prompts: &Prompts,
        config: &PipelineConfig,
    ) -> Result<Chain, DescribeError> {
        let refused = || {
            let kinds = self.modules.iter().map(Module::kind).collect::<Vec<_>>();
            let found = format!("the chain of modules {}", kinds.join(", "));
            DescribeError::NotCovered { path: self.path.to_owned(), found, covered: modules::COVERED }
        };
        let [first, rest @ ..] = self.modules else { return Err(refused()) };
        let is_plain = first.kind() == "Transformer";
        match rest {
            [] if is_plain && transformer.classifies() => Ok(Chain::Classifier),
            [pooling, rest @ ..]
                if is_plain && pooling.kind() == "Pooling" && rest.iter().all(is_of_sentences) =>
            {
                let poolings = pooling::read(&self.dir(pooling)?, prompts)?;
                let modules = self.named(rest)?;
                Ok(match config.model_type.as_deref() {
                    Some("CrossEncoder") => Chain::Scored { poolings, modules },
                    _ => Chain::Pooled { poolings, modules },
                })
            }
            [pooling] if transformer.fills_masks(first) && pooling.kind() == "SpladePooling" => {
                Ok(Chain::Words(pooling::read_of_words(&self.dir(pooling)?)?))
            }
            [score] if transformer.generates(first) && score.kind() == "LogitScore" => {
                let path = self.dir(score)?.join("config.json");
                Ok(Chain::Judgement(json::required(&path, json::BYTES_MAX)?))
            }
            [_, ..] if is_plain && rest.iter().all(is_of_tokens) => {
                Ok(Chain::Tokens { modules: self.named(rest)? })
            }
            _ => Err(refused()),
        }
    }

    fn dir(&self, module: &Module) -> Result<PathBuf, DescribeError> {
        module.dir(self.root, self.path)
    }

    fn named(&self, modules: &[Module]) -> Result<Vec<(String, PathBuf)>, DescribeError> {
        modules.iter().map(|module| Ok((module.kind().to_owned(), self.dir(module)?))).collect()
    }
}

/// Modules that may follow the pooling.
fn is_of_sentences(module: &Module) -> bool {
    matches!(module.kind(), "Dense" | "LayerNorm" | "Normalize" | "Dropout")
}

/// Modules that may follow the encoder where each token gets a vector.
fn is_of_tokens(module: &Module) -> bool {
    matches!(module.kind(), "Dense" | "pylate.models.Dense.Dense" | "Normalize" | "MultiVectorMask")
}

impl Chain {
    /// The kind of model that `config_sentence_transformers.json` names must be that of the modules.
    fn check(&self, root: &Path, kind: Option<String>) -> Result<(), DescribeError> {
        let covered = match self {
            Self::Bare => "SentenceTransformer, CrossEncoder",
            Self::Pooled { .. } => "SentenceTransformer",
            Self::Scored { .. } | Self::Classifier | Self::Judgement(_) => "CrossEncoder",
            Self::Words(_) => "SparseEncoder",
            Self::Tokens { .. } => "ColBERT, MultiVectorEncoder",
        };
        match kind.filter(|kind| !covered.split(", ").any(|covered| covered == kind)) {
            None => Ok(()),
            Some(found) => {
                let path = root.join(PIPELINE_FILE);
                Err(DescribeError::NotCovered { path, found, covered })
            }
        }
    }
}

impl Module {
    /// The class without its package, which moved between versions; a class from elsewhere keeps its whole name.
    fn kind(&self) -> &str {
        match self.class.strip_prefix("sentence_transformers.").and_then(|rest| rest.rsplit('.').next()) {
            Some(class) => class,
            None => &self.class,
        }
    }

    /// The module's directory, which must lie inside the model's.
    fn dir(&self, root: &Path, modules_path: &Path) -> Result<PathBuf, DescribeError> {
        if Path::new(&self.path).components().all(|part| matches!(part, Component::Normal(_))) {
            return Ok(root.join(&self.path));
        }
        let reason = format!("the path {:?} of a module leads outside of the model", self.path);
        Err(DescribeError::Contradiction { path: modules_path.to_owned(), reason })
    }
}

#[derive(Default, Deserialize)]
struct TransformerConfig {
    #[serde(default)]
    max_seq_length: Option<u32>,
    #[serde(default)]
    do_lower_case: bool,
    /// Written since version 5.
    #[serde(default)]
    transformer_task: Option<String>,
    #[serde(flatten)]
    texts: TransformerTexts,
}

impl TransformerConfig {
    fn classifies(&self) -> bool {
        self.transformer_task.as_deref() == Some("sequence-classification")
    }

    fn generates(&self, module: &Module) -> bool {
        module.kind() == "Transformer" && self.transformer_task.as_deref() == Some("text-generation")
    }

    /// Until version 5.3 a class of its own said it.
    fn fills_masks(&self, module: &Module) -> bool {
        let task = self.transformer_task.as_deref();
        module.kind() == "MLMTransformer" || module.kind() == "Transformer" && task == Some("fill-mask")
    }
}

/// What the file was called for each kind of encoder that sentence-transformers once told apart.
const TRANSFORMER_FILES: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

fn read_transformer(dir: &Path) -> Result<TransformerConfig, DescribeError> {
    for path in TRANSFORMER_FILES.map(|name| dir.join(name)) {
        let Some(config) = json::optional::<TransformerConfig>(&path, json::BYTES_MAX)? else {
            continue;
        };
        if config.max_seq_length == Some(0) {
            return Err(DescribeError::Contradiction { path, reason: "max_seq_length is 0".into() });
        }
        return Ok(config);
    }
    Ok(TransformerConfig::default())
}

const PIPELINE_FILE: &str = "config_sentence_transformers.json";

#[derive(Default, Deserialize)]
struct PipelineConfig {
    #[serde(default)]
    prompts: Option<BTreeMap<String, String>>,
    #[serde(default)]
    default_prompt_name: Option<String>,
    #[serde(default)]
    model_type: Option<String>,
    #[serde(default)]
    activation_fn: Option<String>,
    #[serde(flatten)]
    pylate: PylateConfig,
}

impl PipelineConfig {
    /// With the prompts taken out.
    fn read(root: &Path) -> Result<(Prompts, Self), DescribeError> {
        let path = root.join(PIPELINE_FILE);
        let mut config: Self = json::optional(&path, json::BYTES_MAX)?.unwrap_or_default();
        let by_name = config.prompts.take().unwrap_or_default();
        let default_name = config.default_prompt_name.take();
        if let Some(name) = default_name.as_ref().filter(|name| !by_name.contains_key(*name)) {
            let reason = format!("default_prompt_name {name:?} is not one of the prompts");
            return Err(DescribeError::Contradiction { path, reason });
        }
        Ok((Prompts { by_name, default_name }, config))
    }
}
