//! Which heads a model has: those that the pipeline's files describe, or that of the class in `config.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    DescribeError, Labels,
    modules::{self, HeadNames, ModuleWeights},
    sentence_transformers::{Chain, Pipeline},
};
use crate::{
    families::{self, Affine, Described, HeadSizes, NamedHead},
    spec::{Head, PooledHead, Pooling, Poolings},
    weights::Checkpoint,
};

/// The heads, the names of their weights, and what their logits mean.
pub(super) struct Found {
    pub(super) head: Head,
    pub(super) names: HeadNames,
    pub(super) labels: Labels,
    /// No file told the pooling of the dense vectors.
    pub(super) pooling_assumed: bool,
}

impl Found {
    fn dense(head: PooledHead, names: Vec<Option<ModuleWeights>>, pooling_assumed: bool) -> Self {
        Self {
            head: Head { dense: Some(head), ..Head::default() },
            names: HeadNames { dense: names, ..HeadNames::default() },
            labels: Labels::default(),
            pooling_assumed,
        }
    }
}

/// Reads the heads of an encoder whose `config.json` lies at `path`.
pub(super) fn read(
    pipeline: &Pipeline,
    path: &Path,
    config: &Value,
    encoder: &Described,
    checkpoint: &Checkpoint,
) -> Result<Found, DescribeError> {
    match &pipeline.chain {
        Chain::Pooled { poolings, modules } => pooled(poolings, modules, encoder.spec.hidden),
        Chain::Bare => {
            let named = named(pipeline, path, config, encoder, checkpoint)?;
            // The mean over its tokens, as sentence-transformers assumes too.
            let mean = || PooledHead { poolings: Poolings(vec![Pooling::Mean]), modules: Vec::new() };
            Ok(named.unwrap_or_else(|| Found::dense(mean(), Vec::new(), true)))
        }
        Chain::Classifier => {
            let named = named(pipeline, path, config, encoder, checkpoint)?;
            named.ok_or_else(|| DescribeError::Contradiction {
                path: path.to_owned(),
                reason: "modules.json describes a cross-encoder, but the architecture has no head of labels"
                    .into(),
            })
        }
    }
}

/// Modules behind the pooling, each of which gets what the one before gives.
fn pooled(poolings: &Poolings, modules: &[(String, PathBuf)], hidden: usize) -> Result<Found, DescribeError> {
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
    Ok(Found::dense(PooledHead { poolings: poolings.clone(), modules: head }, weights, false))
}

/// The head of the class that `config.json` names; `None` for a bare encoder.
fn named(
    pipeline: &Pipeline,
    path: &Path,
    config: &Value,
    encoder: &Described,
    checkpoint: &Checkpoint,
) -> Result<Option<Found>, DescribeError> {
    let labels = Labels::of_config(path, config, pipeline.score_activation.as_deref())?;
    let sizes = HeadSizes {
        hidden: encoder.spec.hidden,
        labels: labels.names.len(),
        encoder_prefix: encoder.names.prefix,
    };
    let family = |source| DescribeError::Family { path: path.to_owned(), source };
    let Some(named) = families::named_head(config, checkpoint, &sizes).map_err(family)? else {
        return Ok(None);
    };
    let weights = |names: Vec<Affine>| {
        let weights = |names| Some(ModuleWeights { dir: pipeline.dir.clone(), names });
        names.into_iter().map(weights).collect()
    };
    let (head, names) = match named {
        NamedHead::Sequence(head, names) => (
            Head { classes: Some(head), ..Head::default() },
            HeadNames { classes: weights(names), ..HeadNames::default() },
        ),
        NamedHead::Token(head, names) => (
            Head { token_classes: Some(head), ..Head::default() },
            HeadNames { token_classes: weights(names), ..HeadNames::default() },
        ),
    };
    Ok(Some(Found { head, names, labels, pooling_assumed: false }))
}
