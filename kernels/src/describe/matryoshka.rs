//! Whether vectors may be cut: models trained by Matryoshka representation learning (Kusupati et al., 2022) keep
//! their meaning in their first values, others do not.

use std::{fmt, path::Path};

use serde::Deserialize;
use serde_json::Value;

use super::DescribeError;

/// Widths of a real model; a longer list is taken for a mistake.
const WIDTHS_MAX: usize = 64;

/// To which widths a model's vectors may be cut, as `is_matryoshka` and `matryoshka_dimensions` in `config.json` say:
/// the convention of vLLM, and of the models that carry these keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Matryoshka {
    /// To none: no file says that the model was trained for it.
    #[default]
    Untrained,
    /// To any.
    Any,
    /// To these.
    Widths(Vec<u32>),
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    is_matryoshka: Option<bool>,
    #[serde(default)]
    matryoshka_dimensions: Option<Vec<u32>>,
}

impl Matryoshka {
    /// What `config.json`, which was read from `path`, says.
    pub(super) fn of_config(path: &Path, config: &Value) -> Result<Self, DescribeError> {
        let refused = |reason: String| DescribeError::Json { path: path.to_owned(), reason };
        let config = Config::deserialize(config).map_err(|error| refused(error.to_string()))?;
        match (config.is_matryoshka, config.matryoshka_dimensions) {
            (Some(false), _) | (None, None) => Ok(Self::Untrained),
            (Some(true), None) => Ok(Self::Any),
            (_, Some(widths)) if (1..=WIDTHS_MAX).contains(&widths.len()) => Ok(Self::Widths(widths)),
            (_, Some(widths)) => Err(refused(format!(
                "matryoshka_dimensions has {} entries; 1 to {WIDTHS_MAX} are read",
                widths.len()
            ))),
        }
    }

    /// Whether a vector may be cut to its first `width` values.
    #[must_use]
    pub fn allows(&self, width: u32) -> bool {
        match self {
            Self::Untrained => false,
            Self::Any => true,
            Self::Widths(widths) => widths.contains(&width),
        }
    }
}

impl fmt::Display for Matryoshka {
    /// What it allows, as the end of a sentence about the vectors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrained => f.write_str("cannot be cut, because the model was not trained for it"),
            Self::Any => f.write_str("can be cut to any smaller width"),
            Self::Widths(widths) => {
                let widths: Vec<_> = widths.iter().map(u32::to_string).collect();
                write!(f, "can be cut to {}", widths.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> Result<Matryoshka, String> {
        Matryoshka::of_config(Path::new("config.json"), config).map_err(|error| error.to_string())
    }

    #[test]
    fn both_keys_are_read() {
        let widths = Matryoshka::Widths(vec![64, 128]);
        assert_eq!(read(&json!({})), Ok(Matryoshka::Untrained));
        assert_eq!(read(&json!({"is_matryoshka": true})), Ok(Matryoshka::Any));
        assert_eq!(read(&json!({"matryoshka_dimensions": [64, 128]})), Ok(widths.clone()));
        let off = json!({"is_matryoshka": false, "matryoshka_dimensions": [64]});
        assert_eq!(read(&off), Ok(Matryoshka::Untrained));
        assert!(widths.allows(64) && !widths.allows(65) && Matryoshka::Any.allows(65));
        assert!(!Matryoshka::Untrained.allows(64));
    }

    #[test]
    fn nonsense_names_the_file() {
        for config in [
            json!({"matryoshka_dimensions": []}),
            json!({"matryoshka_dimensions": vec![8; WIDTHS_MAX + 1]}),
            json!({"matryoshka_dimensions": [-1]}),
            json!({"is_matryoshka": "yes"}),
        ] {
            let error = read(&config).expect_err("nonsense");
            assert!(error.starts_with("config.json: "), "{error}");
        }
    }
}
