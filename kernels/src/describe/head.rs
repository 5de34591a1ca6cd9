//! Which heads a model has: those that the pipeline's files describe, or that of the class in `config.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    DescribeError, Labels, MultivectorTexts, json, late_interaction,
    modules::{self, FromTo, HeadNames, ModuleWeights, TableRows, ValueOf, VocabularyWeights},
    reranker::{self, LogitScore, PairTemplate},
    sentence_transformers::{Chain, LateInteraction, Pipeline},
    vocabulary::Vocabulary,
};
use crate::{
    cpu::WordWeights,
    families::{self, Affine, Described, FamilyError, HeadOf, NamedHead, WordTable},
    spec::{
        Activation, Head, HeadModule, MultivectorHead, PooledHead, Pooling, Poolings, SparseHead,
        SparseWeights, TokenHead,
    },
    weights::{Checkpoint, WeightsError},
};

/// The heads, the names of their weights, and what their logits mean.
pub(super) struct Found {
    pub(super) head: Head,
    pub(super) names: HeadNames,
    pub(super) labels: Labels,
    /// No file told the pooling of the dense vectors.
    pub(super) pooling_assumed: bool,
    /// What stands around a query and a text.
    pub(super) template: Option<PairTemplate>,
}

impl Found {
    fn dense(head: PooledHead, names: Vec<Option<ModuleWeights>>, pooling_assumed: bool) -> Self {
        Self {
            head: Head { dense: Some(head), ..Head::default() },
            names: HeadNames { dense: names, ..HeadNames::default() },
            labels: Labels::default(),
            template: None,
            pooling_assumed,
        }
    }

    fn multivector(head: MultivectorHead, names: Vec<Option<ModuleWeights>>) -> Self {
        Self {
            head: Head { multivector: Some(head), ..Head::default() },
            names: HeadNames { multivector: names, ..HeadNames::default() },
            labels: Labels::default(),
            template: None,
            pooling_assumed: false,
        }
    }
}

/// An encoder whose heads are looked for.
pub(super) struct Source<'a> {
    pub(super) pipeline: &'a Pipeline,
    /// Of `config.json`.
    pub(super) path: &'a Path,
    pub(super) config: &'a Value,
    pub(super) encoder: &'a Described,
    pub(super) checkpoint: &'a Checkpoint,
    /// Somebody says that it ranks texts, where its files do not say what it is for.
    pub(super) ranks: bool,
}

/// Reads the heads.
pub(super) fn read(source: &Source<'_>) -> Result<Found, DescribeError> {
    match &source.pipeline.chain {
        Chain::Pooled { poolings, modules } => {
            with_bge_m3(source, pooled(poolings, modules, source.encoder.spec.hidden)?)
        }
        Chain::Bare if source.ranks && reranker::is_causal(source.config) => {
            judgement(source, LogitScore::yes_or_no(&source.pipeline.dir)?)
        }
        Chain::Judgement(words) => judgement(source, *words),
        Chain::Bare if late_interaction::is_stanford(source.config) => stanford(source),
        Chain::Bare => {
            // The mean over its tokens, as sentence-transformers assumes too.
            let mean = || PooledHead { poolings: Poolings(vec![Pooling::Mean]), modules: Vec::new() };
            Ok(classifier(source)?.unwrap_or_else(|| Found::dense(mean(), Vec::new(), true)))
        }
        Chain::Scored { poolings, modules } => scored(source, poolings, modules),
        Chain::Classifier => classifier(source)?.ok_or_else(|| {
            source.contradiction(
                "modules.json describes a cross-encoder, but the architecture has no head of labels",
            )
        }),
        Chain::Words(weights) => vocabulary(source, *weights),
        Chain::Tokens { modules } => multivector(modules, source.encoder.spec.hidden),
    }
}

/// What a model with vectors of tokens wants of its texts.
pub(super) fn texts(
    pipeline: &Pipeline,
    config: &Value,
    head: Option<&MultivectorHead>,
    tokens_max: u32,
) -> Result<Option<MultivectorTexts>, DescribeError> {
    let dir = &pipeline.dir;
    if head.is_none() {
        return Ok(None);
    }
    let texts = match (&pipeline.chain, &pipeline.late_interaction) {
        _ if late_interaction::is_stanford(config) => late_interaction::stanford_texts(dir, tokens_max)?,
        (Chain::Tokens { .. }, LateInteraction::Pylate(config)) => config.clone().texts(dir, tokens_max)?,
        (Chain::Tokens { modules }, LateInteraction::Native(config)) => {
            let mask = modules.iter().find(|(kind, _)| kind == "MultiVectorMask");
            let mask = mask.map(|(_, dir)| dir.join("config.json"));
            let read = |path: &PathBuf| json::required(path, json::BYTES_MAX);
            let mask = mask
                .as_ref()
                .map(|path| Ok::<_, DescribeError>((path.as_path(), read(path)?)))
                .transpose()?;
            config.clone().texts(mask, dir, tokens_max)?
        }
        _ => MultivectorTexts::plain(tokens_max),
    };
    Ok(Some(texts))
}

/// Modules behind the pooling, each of which gets what the one before gives.
fn pooled(poolings: &Poolings, modules: &[(String, PathBuf)], hidden: usize) -> Result<Found, DescribeError> {
    let sentence = (ValueOf::Sentence, ValueOf::Sentence);
    let (modules, weights) = chain(modules, hidden * poolings.0.len(), sentence)?;
    Ok(Found::dense(PooledHead { poolings: poolings.clone(), modules }, weights, false))
}

/// The same, of which the last module gives logits of labels, whatever labels `config.json` has.
fn scored(
    source: &Source<'_>,
    poolings: &Poolings,
    modules: &[(String, PathBuf)],
) -> Result<Found, DescribeError> {
    if modules.last().is_none_or(|(kind, _)| kind != "Dense") {
        return Err(
            source.contradiction("modules.json describes a cross-encoder, but no module gives scores")
        );
    }
    let pooled = source.encoder.spec.hidden * poolings.0.len();
    let (modules, weights) = chain(modules, pooled, (ValueOf::Sentence, ValueOf::Scores))?;
    let classes = PooledHead { poolings: poolings.clone(), modules };
    let outputs = classes.outputs(source.encoder.spec.hidden);
    Ok(Found {
        head: Head { classes: Some(classes), ..Head::default() },
        names: HeadNames { classes: weights, ..HeadNames::default() },
        labels: Labels::of_modules(source.path, outputs, source.pipeline.score_activation.as_deref())?,
        pooling_assumed: false,
        template: None,
    })
}

/// Modules on the vectors of tokens. Each is scaled to length 1 in the end, whether a module says so or not.
fn multivector(modules: &[(String, PathBuf)], hidden: usize) -> Result<Found, DescribeError> {
    let (mut modules, mut weights) = chain(modules, hidden, (ValueOf::Tokens, ValueOf::Tokens))?;
    if modules.last() != Some(&HeadModule::Normalize) {
        modules.push(HeadModule::Normalize);
        weights.push(None);
    }
    Ok(Found::multivector(MultivectorHead { modules, skipped_first: 0 }, weights))
}

/// BGE-M3 (Chen et al. 2024) has two further heads, in files of their own beside the encoder. Those that were published are
/// pickles of PyTorch, which are refused: that the model has no such heads would be no truth.
fn with_bge_m3(source: &Source<'_>, mut found: Found) -> Result<Found, DescribeError> {
    let (dir, hidden) = (&source.pipeline.dir, source.encoder.spec.hidden);
    let file = |to: &'static str| {
        let (path, pickle) = (dir.join(to), dir.join(to).with_extension("pt"));
        match (path.exists(), pickle.exists()) {
            (true, _) => Ok(Some(path)),
            (false, true) => Err(WeightsError::Pickle { path: pickle, to }),
            (false, false) => Ok(None),
        }
    };
    let names = || Affine { weight: "weight".into(), bias: "bias".into() };
    let dense = |outputs, activation| HeadModule::Dense { outputs, bias: true, activation };
    if let Some(path) = file("sparse_linear.safetensors")? {
        let weights = modules::weights_in(&path, names(), &[1, hidden], true)?;
        let skipped = Vocabulary::read(dir)?.without_meaning();
        let modules = vec![dense(1, Activation::Relu)];
        found.head.sparse = Some(SparseHead { modules, weights: SparseWeights::Lexical { skipped } });
        found.names.sparse = vec![Some(weights)];
    }
    if let Some(path) = file("colbert_linear.safetensors")? {
        let outputs = Checkpoint::open(&path)?.rows("weight").unwrap_or_default();
        let weights = modules::weights_in(&path, names(), &[outputs, hidden], true)?;
        let modules = vec![dense(outputs, Activation::Identity), HeadModule::Normalize];
        // Its first token has a vector of its own kind: the dense one.
        found.head.multivector = Some(MultivectorHead { modules, skipped_first: 1 });
        found.names.multivector = vec![Some(weights), None];
    }
    Ok(found)
}

/// Stanford's layout: the projection lies beside the encoder's weights, and its width nowhere else.
fn stanford(source: &Source<'_>) -> Result<Found, DescribeError> {
    let outputs = source.checkpoint.rows("linear.weight").unwrap_or_default();
    let shape = [outputs, source.encoder.spec.hidden];
    let weights = modules::weights_in(&source.pipeline.dir, Affine::linear("linear"), &shape, false)?;
    let modules = vec![
        HeadModule::Dense { outputs, bias: false, activation: Activation::Identity },
        HeadModule::Normalize,
    ];
    Ok(Found::multivector(MultivectorHead { modules, skipped_first: 0 }, vec![Some(weights), None]))
}

/// Modules with their weights, each of which gets what the one before gives; only the last one writes another value.
fn chain(
    modules: &[(String, PathBuf)],
    mut width: usize,
    (from, to): FromTo,
) -> Result<(Vec<HeadModule>, Vec<Option<ModuleWeights>>), DescribeError> {
    let (mut chain, mut weights) = (Vec::new(), Vec::new());
    for (index, (kind, dir)) in modules.iter().enumerate() {
        let to = if index + 1 == modules.len() { to } else { from };
        let Some((module, of_module)) = modules::read(kind, dir, width, (from, to))? else {
            continue;
        };
        width = module.outputs(width);
        chain.push(module);
        weights.push(of_module);
    }
    Ok((chain, weights))
}

/// The classifier of the class that `config.json` names; `None` for a bare encoder.
fn classifier(source: &Source<'_>) -> Result<Option<Found>, DescribeError> {
    // A bare encoder's labels mean nothing, and may contradict each other.
    let outputs = families::label_outputs(source.config, source.checkpoint, source.encoder);
    let Some(outputs) = outputs.map_err(|error| source.family(error))? else {
        return Ok(None);
    };
    let activation = source.pipeline.score_activation.as_deref();
    let labels = Labels::of_config(source.path, source.config, outputs, activation)?;
    let (head, names) = match source.named(HeadOf::Labels(labels.names.len()))? {
        Some(NamedHead::Sequence(head, names)) => (
            Head { classes: Some(head), ..Head::default() },
            HeadNames { classes: source.weights(names), ..HeadNames::default() },
        ),
        Some(NamedHead::Token(head, names)) => (
            Head { token_classes: Some(head), ..Head::default() },
            HeadNames { token_classes: source.weights(names), ..HeadNames::default() },
        ),
        Some(NamedHead::Vocabulary(..)) | None => return Ok(None),
    };
    Ok(Some(Found { head, names, labels, pooling_assumed: false, template: None }))
}

/// A causal language model that answers by one of two words, whatever else it could say: of its last product only the rows
/// of these words are kept, as their difference.
fn judgement(source: &Source<'_>, words: LogitScore) -> Result<Found, DescribeError> {
    let Source { pipeline, config, encoder, checkpoint, .. } = source;
    let (hidden, vocab) = (encoder.spec.hidden, encoder.spec.embeddings.vocab);
    let LogitScore { true_token_id: row, false_token_id: less } = words;
    if let Some(id) = [Some(row), less].into_iter().flatten().find(|id| *id >= vocab) {
        return Err(source.contradiction(&format!("the word {id} of its answers is none of {vocab}")));
    }
    let told = config.get("tie_word_embeddings").and_then(Value::as_bool);
    let is_tied = told.unwrap_or_else(|| !checkpoint.contains(LM_HEAD));
    let table = if is_tied { encoder.names.token.name.as_str() } else { LM_HEAD };
    checkpoint.find(table, &[vocab, hidden])?;
    let names = Affine { weight: table.to_owned(), bias: String::new() };
    let rows = Some(TableRows { of: vocab, row, less });
    let is_told = matches!(pipeline.chain, Chain::Judgement(_));
    let weights = ModuleWeights { dir: pipeline.dir.clone(), names, rows };
    let modules = vec![HeadModule::Dense { outputs: 1, bias: false, activation: Activation::Identity }];
    let classes = PooledHead { poolings: Poolings(vec![Pooling::LastToken]), modules };
    Ok(Found {
        head: Head { classes: Some(classes), ..Head::default() },
        names: HeadNames { classes: vec![Some(weights)], ..HeadNames::default() },
        labels: Labels::of_judgement(source.path, pipeline.score_activation.as_deref())?,
        pooling_assumed: false,
        template: Some(reranker::template(&pipeline.dir, config, is_told)?),
    })
}

/// What `transformers` calls the product with the vocabulary where it has a table of its own.
const LM_HEAD: &str = "lm_head.weight";

/// A masked language model whose logits become weights of words.
fn vocabulary(source: &Source<'_>, weights: WordWeights) -> Result<Found, DescribeError> {
    let Some(NamedHead::Vocabulary(TokenHead { modules }, names, table)) = source.named(HeadOf::Words)?
    else {
        return Err(source
            .contradiction("modules.json asks for logits of words, but the architecture has no such head"));
    };
    let WordTable { words, weight, bias } = table;
    let head = SparseHead { modules, weights: SparseWeights::Vocabulary { words, weights } };
    let dir = source.pipeline.dir.clone();
    Ok(Found {
        head: Head { sparse: Some(head), ..Head::default() },
        names: HeadNames {
            sparse: source.weights(names),
            vocabulary: Some(VocabularyWeights { dir, weight, bias }),
            ..HeadNames::default()
        },
        labels: Labels::default(),
        pooling_assumed: false,
        template: None,
    })
}

impl Source<'_> {
    fn named(&self, of: HeadOf) -> Result<Option<NamedHead>, DescribeError> {
        let named = families::named_head(self.config, self.checkpoint, self.encoder, of);
        named.map_err(|error| self.family(error))
    }

    fn family(&self, source: FamilyError) -> DescribeError {
        DescribeError::Family { path: self.path.to_owned(), source }
    }

    /// Weights that lie beside those of the encoder.
    fn weights(&self, names: Vec<Affine>) -> Vec<Option<ModuleWeights>> {
        let weights = |names| Some(ModuleWeights { dir: self.pipeline.dir.clone(), names, rows: None });
        names.into_iter().map(weights).collect()
    }

    fn contradiction(&self, reason: &str) -> DescribeError {
        DescribeError::Contradiction { path: self.path.to_owned(), reason: reason.to_owned() }
    }
}
