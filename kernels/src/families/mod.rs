//! From a `config.json` and the tensors' names to a description: pure data, one file a family.

mod bert;
mod distilbert;
mod electra;
mod heads;
mod modernbert;
mod mpnet;
mod names;
mod post_norm;
mod roberta;
mod rope;

use serde::Deserialize;

use heads::HeadClass;
pub(crate) use heads::{HeadSizes, NamedHead};
pub(crate) use names::{Affine, LayerNames, LinearNames, NormNames, Stored, WeightNames};

use crate::{
    spec::{EncoderSpec, Head, SpecError},
    weights::{Checkpoint, WeightsError},
};

/// One line a family.
static FAMILIES: [Family; 6] =
    [bert::FAMILY, roberta::FAMILY, distilbert::FAMILY, mpnet::FAMILY, electra::FAMILY, modernbert::FAMILY];

/// What one family's file says.
struct Family {
    /// What `model_type` may be where no architecture is told.
    model_types: &'static [&'static str],
    /// What the covered architectures are called in `config.json`.
    architectures: &'static [&'static str],
    spec: fn(&serde_json::Value, Head) -> Result<EncoderSpec, FamilyError>,
    naming: &'static names::Naming,
    /// The classes whose head is read, too.
    heads: &'static [HeadClass],
}

/// A checkpoint understood.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) spec: EncoderSpec,
    pub(crate) names: WeightNames,
}

/// The architectures of every family.
fn covered() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(Family::all_architectures).copied().collect()
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
        covered: Vec<&'static str>,
    },
    /// The model brings its own program code.
    #[error("the configuration asks for code of its own (auto_map), which is never run; covered: {}", covered().join(", "))]
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
) -> Result<Described, FamilyError> {
    let family = family_of(config)?;
    let spec = family.valid_spec(config, head)?;
    let names = family.naming.names(checkpoint, &spec)?;
    Ok(Described { spec, names })
}

/// The part of it that needs no weights: a valid description.
#[cfg(test)]
pub(crate) fn spec(config: &serde_json::Value, head: Head) -> Result<EncoderSpec, FamilyError> {
    family_of(config)?.valid_spec(config, head)
}

fn family_of(config: &serde_json::Value) -> Result<&'static Family, FamilyError> {
    let Identity { model_type, architectures, auto_map } = from_value(config)?;
    // The architecture is asked first: families that reuse `model_type = "bert"` with another data flow exist.
    let architecture = architectures.and_then(|all| all.into_iter().next());
    let covers = |family: &&Family| match (&architecture, &model_type) {
        (Some(architecture), _) => family.all_architectures().any(|covered| covered == architecture),
        (None, Some(model_type)) => family.model_types.contains(&model_type.as_str()),
        (None, None) => false,
    };
    let Some(family) = FAMILIES.iter().find(covers) else {
        let found = architecture.or(model_type).unwrap_or_else(|| "(none named)".into());
        return Err(FamilyError::Architecture { found, covered: covered() });
    };
    if auto_map.is_some_and(|map| !map.is_empty()) {
        return Err(FamilyError::OwnCode);
    }
    Ok(family)
}

/// The head of the class that `config.json` names, where that is more than an encoder.
pub(crate) fn named_head(
    config: &serde_json::Value,
    checkpoint: &Checkpoint,
    sizes: &HeadSizes<'_>,
) -> Result<Option<NamedHead>, FamilyError> {
    let Identity { architectures, .. } = from_value(config)?;
    let Some(architecture) = architectures.and_then(|all| all.into_iter().next()) else {
        return Ok(None);
    };
    let mut heads = FAMILIES.iter().flat_map(|family| family.heads);
    let class = heads.find(|class| class.architectures.contains(&architecture.as_str()));
    class.map(|class| class.kind.named(sizes, checkpoint)).transpose()
}

impl Family {
    fn all_architectures(&self) -> impl Iterator<Item = &&'static str> {
        self.architectures.iter().chain(self.heads.iter().flat_map(|class| class.architectures))
    }

    fn valid_spec(&self, config: &serde_json::Value, head: Head) -> Result<EncoderSpec, FamilyError> {
        let spec = (self.spec)(config, head)?;
        spec.validate()?;
        Ok(spec)
    }
}

fn from_value<'a, T: Deserialize<'a>>(config: &'a serde_json::Value) -> Result<T, FamilyError> {
    T::deserialize(config).map_err(|error| FamilyError::Field { reason: error.to_string() })
}

#[cfg(test)]
mod tests;
