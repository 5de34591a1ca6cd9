//! How sentence-transformers pools, as versions 2 to 6 write it.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::{DescribeError, Prompts, json};
use crate::{
    cpu::{WordPooling, WordWeights},
    spec::{Pooling, Poolings},
};

/// Reads the `Pooling` module in `dir`.
pub(super) fn read(dir: &Path, prompts: &Prompts) -> Result<Poolings, DescribeError> {
    let path = dir.join("config.json");
    let pooling = json::required::<PoolingConfig>(&path, json::BYTES_MAX)?;
    if !pooling.include_prompt && prompts.by_name.values().any(|prompt| !prompt.is_empty()) {
        let found = "a pooling that leaves the prompt out (include_prompt: false)".into();
        return Err(DescribeError::NotCovered { path, found, covered: "include_prompt: true" });
    }
    pooling.modes(&path)
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

/// Reads the `SpladePooling` module in `dir`.
pub(super) fn read_of_words(dir: &Path) -> Result<WordWeights, DescribeError> {
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
