//! What the logits of a classifier mean.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;

use super::DescribeError;

/// What becomes of the logit of a classifier with one label before it is a score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScoreActivation {
    /// Nothing: the score is the logit.
    #[default]
    Identity,
    /// `1 / (1 + exp(-x))`: the score lies in 0..1.
    Sigmoid,
}

/// The labels of a classifier, in the order of its logits.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Labels {
    pub(super) names: Vec<String>,
    /// Each label holds or not whatever the others do; else exactly one holds.
    pub(super) multi_label: bool,
    pub(super) activation: ScoreActivation,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    id2label: Option<BTreeMap<String, String>>,
    #[serde(default)]
    num_labels: Option<usize>,
    #[serde(default)]
    problem_type: Option<String>,
    #[serde(default)]
    sentence_transformers: Option<SentenceTransformers>,
    #[serde(default)]
    sbert_ce_default_activation_function: Option<String>,
}

/// What sentence-transformers 4 and 5 keep in `config.json`.
#[derive(Deserialize)]
struct SentenceTransformers {
    #[serde(default)]
    activation_fn: Option<String>,
}

/// More than any real classifier has; as many names are made where a configuration tells only how many there are.
const LABELS_MAX: usize = 65_536;

impl Labels {
    /// What `config.json`, which was read from `path`, says; `activation` is what a file of the pipeline says, which goes
    /// first. A configuration may leave it to the weights how many labels there are: `outputs` of the last layer.
    pub(super) fn of_config(
        path: &Path,
        config: &Value,
        outputs: usize,
        activation: Option<&str>,
    ) -> Result<Self, DescribeError> {
        let refuse = |reason: String| DescribeError::Contradiction { path: path.to_owned(), reason };
        let config = Config::deserialize(config)
            .map_err(|error| DescribeError::Json { path: path.to_owned(), reason: error.to_string() })?;
        let names = match &config.id2label {
            Some(labels) => in_order(labels).map_err(refuse)?,
            None => numbered(config.num_labels.unwrap_or(outputs)).map_err(refuse)?,
        };
        if let Some(count) = config.num_labels.filter(|count| *count != names.len()) {
            return Err(refuse(format!("num_labels is {count}, but id2label names {} labels", names.len())));
        }
        if names.is_empty() {
            return Err(refuse("a classifier without labels".into()));
        }
        let older = config.sentence_transformers.and_then(|own| own.activation_fn);
        let oldest = config.sbert_ce_default_activation_function;
        let told = activation.or(older.as_deref()).or(oldest.as_deref());
        let multi_label = config.problem_type.as_deref() == Some("multi_label_classification");
        Ok(Self { multi_label, ..Self::new(path, names, told)? })
    }

    /// Of a language model that answers yes or no.
    pub(super) fn of_judgement(path: &Path, activation: Option<&str>) -> Result<Self, DescribeError> {
        Self::new(path, vec!["yes".into()], activation)
    }

    /// Of as many logits as a chain of modules gives.
    pub(super) fn of_modules(
        path: &Path,
        outputs: usize,
        activation: Option<&str>,
    ) -> Result<Self, DescribeError> {
        let refuse = |reason| DescribeError::Contradiction { path: path.to_owned(), reason };
        Self::new(path, numbered(outputs).map_err(refuse)?, activation)
    }

    /// A score lies in 0..1 where nothing else is told, logits of several labels are left as they are.
    fn new(path: &Path, names: Vec<String>, activation: Option<&str>) -> Result<Self, DescribeError> {
        let activation = match activation {
            Some(class) => ScoreActivation::of_class(path, class)?,
            None if names.len() == 1 => ScoreActivation::Sigmoid,
            None => ScoreActivation::Identity,
        };
        Ok(Self { names, multi_label: false, activation })
    }
}

/// What labels are called that nobody named.
fn numbered(labels: usize) -> Result<Vec<String>, String> {
    if labels > LABELS_MAX {
        return Err(format!("{labels} labels; there may be {LABELS_MAX}"));
    }
    Ok((0..labels).map(|id| format!("LABEL_{id}")).collect())
}

/// The labels by their ids, which must be 0, 1, 2, …
fn in_order(labels: &BTreeMap<String, String>) -> Result<Vec<String>, String> {
    let label = |id: usize| {
        let label = labels.get(&id.to_string());
        label.cloned().ok_or_else(|| format!("id2label has {} labels, but none for {id}", labels.len()))
    };
    (0..labels.len()).map(label).collect()
}

impl ScoreActivation {
    fn of_class(path: &Path, class: &str) -> Result<Self, DescribeError> {
        match class.strip_prefix("torch.nn.").and_then(|class| class.rsplit('.').next()) {
            Some("Sigmoid") => Ok(Self::Sigmoid),
            Some("Identity") => Ok(Self::Identity),
            _ => Err(DescribeError::NotCovered {
                path: path.to_owned(),
                found: format!("the activation {class} of scores"),
                covered: "Sigmoid, Identity of torch.nn",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> Result<Labels, String> {
        Labels::of_config(Path::new("config.json"), config, 2, None).map_err(|error| error.to_string())
    }

    #[test]
    fn labels_are_in_the_order_of_their_ids() {
        let many: serde_json::Map<_, _> =
            (0..12).map(|id| (id.to_string(), format!("l{id}").into())).collect();
        let labels = read(&json!({"id2label": many})).expect("sound");
        assert_eq!((labels.names[2].as_str(), labels.names[11].as_str()), ("l2", "l11"));
        assert_eq!(read(&json!({})).expect("sound").names, ["LABEL_0", "LABEL_1"]);
        assert_eq!(read(&json!({"num_labels": 1})).expect("sound").names, ["LABEL_0"]);
        assert!(read(&json!({"problem_type": "multi_label_classification"})).expect("sound").multi_label);
    }

    #[test]
    fn contradictions_name_the_file() {
        let told = |config| read(&config).expect_err("contradicts itself");
        assert_eq!(
            told(json!({"id2label": {"0": "a", "2": "b"}})),
            "config.json: id2label has 2 labels, but none for 1"
        );
        assert_eq!(
            told(json!({"id2label": {"0": "a"}, "num_labels": 3})),
            "config.json: num_labels is 3, but id2label names 1 labels"
        );
        assert_eq!(told(json!({"id2label": {}})), "config.json: a classifier without labels");
        assert_eq!(
            told(json!({"num_labels": u64::MAX})),
            "config.json: 18446744073709551615 labels; there may be 65536"
        );
        assert!(told(json!({"id2label": ["a"]})).starts_with("config.json: invalid type"));
    }

    #[test]
    fn the_activation_is_told_in_three_places() {
        let one = |mut config: Value, pipeline: Option<&str>| {
            config["num_labels"] = 1.into();
            Labels::of_config(Path::new("config.json"), &config, 1, pipeline).map(|labels| labels.activation)
        };
        let identity = "torch.nn.modules.linear.Identity";
        assert_eq!(one(json!({}), None).expect("sound"), ScoreActivation::Sigmoid);
        let oldest = json!({"sbert_ce_default_activation_function": identity});
        assert_eq!(one(oldest.clone(), None).expect("sound"), ScoreActivation::Identity);
        let sigmoid = "torch.nn.modules.activation.Sigmoid";
        assert_eq!(one(oldest.clone(), Some(sigmoid)).expect("sound"), ScoreActivation::Sigmoid);
        let mut both = oldest;
        both["sentence_transformers"] = json!({"activation_fn": sigmoid});
        assert_eq!(one(both, None).expect("sound"), ScoreActivation::Sigmoid);
        let own = one(json!({}), Some("own.Sigmoid")).expect_err("not covered").to_string();
        assert!(own.contains("own.Sigmoid of scores is not covered; covered: Sigmoid, Identity"), "{own}");
    }
}
