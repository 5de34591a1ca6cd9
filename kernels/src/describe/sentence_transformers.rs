//! The files that sentence-transformers writes around an encoder, as versions 2 to 6 write them.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::{
    DescribeError, Prompts, json,
    late_interaction::{PylateConfig, TransformerTexts},
    modules,
    reranker::LogitScore,
};
use crate::{
    cpu::{WordPooling, WordWeights},
    spec::{Pooling, Poolings},
};

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
            Some([first]) if first.kind() == "Transformer" && transformer.classifies() => Chain::Classifier,
            Some([first, pooling, rest @ ..])
                if first.kind() == "Transformer"
                    && pooling.kind() == "Pooling"
                    && rest.iter().all(is_covered) =>
            {
                let pooling_dir = pooling.dir(root, &modules_path)?;
                let named =
                    |module: &Module| Ok((module.kind().to_owned(), module.dir(root, &modules_path)?));
                let modules = rest.iter().map(named).collect::<Result<_, DescribeError>>()?;
                Chain::Pooled { poolings: read_pooling(&pooling_dir, &prompts)?, modules }
            }
            Some([first, pooling]) if transformer.fills_masks(first) && pooling.kind() == "SpladePooling" => {
                Chain::Words(read_splade_pooling(&pooling.dir(root, &modules_path)?)?)
            }
            Some([first, score]) if transformer.generates(first) && score.kind() == "LogitScore" => {
                let path = score.dir(root, &modules_path)?.join("config.json");
                Chain::Judgement(json::required(&path, json::BYTES_MAX)?)
            }
            Some([first, rest @ ..])
                if first.kind() == "Transformer" && !rest.is_empty() && rest.iter().all(is_of_tokens) =>
            {
                let named =
                    |module: &Module| Ok((module.kind().to_owned(), module.dir(root, &modules_path)?));
                Chain::Tokens { modules: rest.iter().map(named).collect::<Result<_, DescribeError>>()? }
            }
            Some(other) => return Err(refuse_chain(modules_path, other)),
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

fn is_covered(module: &Module) -> bool {
    HEAD_MODULES.contains(&module.kind())
}

/// Modules that may follow the encoder where each token gets a vector.
fn is_of_tokens(module: &Module) -> bool {
    matches!(module.kind(), "Dense" | "pylate.models.Dense.Dense" | "Normalize" | "MultiVectorMask")
}

fn refuse_chain(path: PathBuf, modules: &[Module]) -> DescribeError {
    let kinds = modules.iter().map(Module::kind).collect::<Vec<_>>();
    let found = format!("the chain of modules {}", kinds.join(", "));
    DescribeError::NotCovered { path, found, covered: modules::COVERED }
}

fn read_pooling(dir: &Path, prompts: &Prompts) -> Result<Poolings, DescribeError> {
    let path = dir.join("config.json");
    let pooling = json::required::<PoolingConfig>(&path, json::BYTES_MAX)?;
    if !pooling.include_prompt && prompts.by_name.values().any(|prompt| !prompt.is_empty()) {
        let found = "a pooling that leaves the prompt out (include_prompt: false)".into();
        return Err(DescribeError::NotCovered { path, found, covered: "include_prompt: true" });
    }
    pooling.modes(&path)
}

impl Chain {
    /// The kind of model that `config_sentence_transformers.json` names must be that of the modules.
    fn check(&self, root: &Path, kind: Option<String>) -> Result<(), DescribeError> {
        let covered = match self {
            Self::Bare => "SentenceTransformer, CrossEncoder",
            Self::Pooled { .. } => "SentenceTransformer",
            Self::Classifier | Self::Judgement(_) => "CrossEncoder",
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

#[derive(Deserialize)]
struct SpladePooling {
    #[serde(default = "max")]
    pooling_strategy: String,
    #[serde(default = "relu")]
    activation_function: String,
}

fn max() -> String {
    "max".into()
}

fn relu() -> String {
    "relu".into()
}

fn read_splade_pooling(dir: &Path) -> Result<WordWeights, DescribeError> {
    let path = dir.join("config.json");
    let config = json::required::<SpladePooling>(&path, json::BYTES_MAX)?;
    let refuse = |found, covered| Err(DescribeError::NotCovered { path: path.clone(), found, covered });
    let pooling = match config.pooling_strategy.as_str() {
        "max" => WordPooling::Max,
        "sum" => WordPooling::Sum,
        other => return refuse(format!("pooling by {other:?}"), "max, sum"),
    };
    let logarithms = match config.activation_function.as_str() {
        "relu" => 1,
        "log1p_relu" => 2,
        other => return refuse(format!("the activation {other:?}"), "relu, log1p_relu"),
    };
    Ok(WordWeights { pooling, logarithms })
}

/// One boolean per mode until version 5, then one field with a name or a list of names.
#[derive(Deserialize)]
struct PoolingConfig {
    #[serde(default)]
    pooling_mode: Option<OneOrMore>,
    #[serde(default = "yes")]
    include_prompt: bool,
    #[serde(flatten)]
    booleans: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

const fn yes() -> bool {
    true
}

/// The boolean's name, the name since version 5, the mode.
const MODES: [(&str, &str, Pooling); 6] = [
    ("pooling_mode_cls_token", "cls", Pooling::Cls),
    ("pooling_mode_max_tokens", "max", Pooling::Max),
    ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", "weightedmean", Pooling::WeightedMean),
    ("pooling_mode_lasttoken", "lasttoken", Pooling::LastToken),
];
/// Classes that may follow the pooling.
const HEAD_MODULES: [&str; 4] = ["Dense", "LayerNorm", "Normalize", "Dropout"];
const MODES_COVERED: &str = "cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken";

impl PoolingConfig {
    /// In the order in which their vectors stand side by side: that of the list, or of [`MODES`].
    fn modes(self, path: &Path) -> Result<Poolings, DescribeError> {
        let names = match self.pooling_mode {
            Some(OneOrMore::One(name)) => vec![name],
            Some(OneOrMore::More(names)) => names,
            None => {
                let mut names: Vec<_> = self.booleans.into_iter().filter_map(active).collect();
                names.sort_by_key(|name| MODES.iter().position(|(_, current, _)| current == name));
                names
            }
        };
        let mut modes = Vec::with_capacity(names.len());
        for name in &names {
            let mode = MODES.iter().find(|(_, current, _)| current == name);
            let (.., mode) = mode.ok_or_else(|| not_covered(path, format!("pooling by {name:?}")))?;
            if modes.contains(mode) {
                return Err(not_covered(path, format!("pooling by {name:?} twice")));
            }
            modes.push(*mode);
        }
        // With no mode set, sentence-transformers takes the mean.
        if modes.is_empty() {
            modes.push(Pooling::Mean);
        }
        Ok(Poolings(modes))
    }
}

/// The mode that a boolean of the older layout turns on; an unknown one keeps its name, to be refused by it.
fn active((field, value): (String, serde_json::Value)) -> Option<String> {
    if !field.starts_with("pooling_mode_") || value != serde_json::Value::Bool(true) {
        return None;
    }
    let known = MODES.iter().find(|(boolean, ..)| *boolean == field);
    Some(known.map_or(field, |(_, current, _)| (*current).to_owned()))
}

fn not_covered(path: &Path, found: String) -> DescribeError {
    DescribeError::NotCovered { path: path.to_owned(), found, covered: MODES_COVERED }
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
