//! From a `config.json` and the tensors' names to a description: pure data, one file a family.

mod bert;
mod names;

use serde::Deserialize;

pub(crate) use names::{Affine, LayerNames, WeightNames};

use crate::{
    spec::{EncoderSpec, Head, SpecError},
    weights::{Checkpoint, WeightsError},
};

/// What the covered architectures are called in `config.json`.
pub(crate) const COVERED: &[&str] = &bert::ARCHITECTURES;

/// A checkpoint understood.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) spec: EncoderSpec,
    pub(crate) names: WeightNames,
}

/// A configuration that no family explains. Nothing was loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FamilyError {
    /// A model of another kind.
    #[error("architecture {found} is not covered; covered: {}", covered.join(", "))]
    Architecture {
        /// The first of `architectures`, or `model_type`.
        found: String,
        /// What is.
        covered: &'static [&'static str],
    },
    /// The model brings its own program code.
    #[error("the configuration asks for code of its own (auto_map), which is never run; covered: {}", COVERED.join(", "))]
    OwnCode,
    /// A field is missing or of another type.
    #[error("{reason}")]
    Field {
        /// What the parser says.
        reason: String,
    },
    /// A field has a value that is not covered.
    #[error("{field} is {value}, which is not covered; covered: {covered}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is.
        covered: &'static str,
    },
    /// The fields contradict each other.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The tensors do not fit the configuration.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The checkpoint holds weights of the stack that the configuration does not account for.
    #[error(
        "tensor {tensor:?} is not accounted for by the configuration; the answers would be wrong without it"
    )]
    Unexplained {
        /// The tensor.
        tensor: String,
    },
}

/// The fields that tell which family it is; everything else belongs to the family.
#[derive(Deserialize)]
struct Identity {
    #[serde(default)]
    model_type: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    auto_map: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Understands a checkpoint from its parsed `config.json` and the headers of its weights.
pub(crate) fn describe(
    config: &serde_json::Value,
    checkpoint: &Checkpoint,
    head: Head,
) -> Result<Family, FamilyError> {
    let spec = spec(config, head)?;
    let names = bert::names(checkpoint, spec.layer_count());
    names.check(&spec, checkpoint)?;
    Ok(Family { spec, names })
}

/// The part of it that needs no weights: a valid description.
pub(crate) fn spec(config: &serde_json::Value, head: Head) -> Result<EncoderSpec, FamilyError> {
    let Identity { model_type, architectures, auto_map } = from_value(config)?;
    // The architecture is asked first: families that reuse `model_type = "bert"` with another data flow exist.
    let architecture = architectures.and_then(|all| all.into_iter().next());
    let covered = match (&architecture, &model_type) {
        (Some(architecture), _) => COVERED.contains(&architecture.as_str()),
        (None, Some(model_type)) => model_type == bert::MODEL_TYPE,
        (None, None) => false,
    };
    if !covered {
        let found = architecture.or(model_type).unwrap_or_else(|| "(none named)".into());
        return Err(FamilyError::Architecture { found, covered: COVERED });
    }
    if auto_map.is_some_and(|map| !map.is_empty()) {
        return Err(FamilyError::OwnCode);
    }
    let spec = bert::spec(&from_value(config)?, head)?;
    spec.validate()?;
    Ok(spec)
}

fn from_value<'a, T: Deserialize<'a>>(config: &'a serde_json::Value) -> Result<T, FamilyError> {
    T::deserialize(config).map_err(|error| FamilyError::Field { reason: error.to_string() })
}

#[cfg(test)]
mod tests;
