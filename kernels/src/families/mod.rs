//! From a `config.json` and the tensors' names to a description: pure data, one file a family.

mod bert;
mod deberta;
mod decoder;
mod distilbert;
mod electra;
mod gemma3;
mod gte;
mod heads;
mod jina_bert;
mod jina_v3;
mod layer_types;
mod llama;
mod mistral;
mod modernbert;
mod mpnet;
mod names;
mod nomic_bert;
mod post_norm;
mod qwen;
mod roberta;
mod rope;

use serde::Deserialize;

use heads::HeadClass;
pub(crate) use heads::{HeadOf, NamedHead, WordTable};
pub(crate) use names::{Affine, LayerNames, LinearNames, NormNames, Stored, WeightNames};

use crate::{
    spec::{EncoderSpec, Head, SpecError},
    weights::{Checkpoint, WeightsError},
};

/// One line a family. Several may cover an architecture: the checkpoint's tensors tell which of them it is, and the first
/// speaks where none of their names is found.
static FAMILIES: &[Family] = &[
    bert::FAMILY,
    roberta::FAMILY,
    distilbert::FAMILY,
    mpnet::FAMILY,
    electra::FAMILY,
    modernbert::FAMILY,
    nomic_bert::PUBLISHED,
    nomic_bert::CURRENT,
    gte::PUBLISHED,
    gte::CURRENT,
    jina_bert::FAMILY,
    jina_v3::PUBLISHED,
    jina_v3::ADAPTED,
    jina_v3::CURRENT,
    llama::FAMILY,
    llama::EUROBERT,
    mistral::FAMILY,
    qwen::QWEN2,
    qwen::QWEN3,
    gemma3::FAMILY,
    deberta::FAMILY,
];

/// What one family's file says.
struct Family {
    /// What `model_type` may be where no architecture is told.
    model_types: &'static [&'static str],
    /// What the covered architectures are called in `config.json`.
    architectures: &'static [&'static str],
    /// The classes that published checkpoints bring along (`auto_map`, without the repository) and whose work is described
    /// here. They are never run.
    own_code: &'static [&'static str],
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
    let mut all = Vec::new();
    for name in FAMILIES.iter().flat_map(Family::all_architectures) {
        if !all.contains(name) {
            all.push(*name);
        }
    }
    all
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
    /// The model brings program code of its own that is not described here.
    #[error(
        "the configuration asks for code of its own, {class}, which is never run and whose work is not known; covered: {}",
        covered().join(", ")
    )]
    OwnCode {
        /// What `auto_map` names.
        class: String,
    },
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

/// Understands a checkpoint from its parsed `config.json` and the headers of its weights, all of whose names begin with
/// `root` where the encoder is a part of something larger.
pub(crate) fn describe(
    config: &serde_json::Value,
    (checkpoint, root): (&Checkpoint, &str),
    head: Head,
) -> Result<Described, FamilyError> {
    let identity: Identity = from_value(config)?;
    let families = identity.families()?;
    let family = families.iter().find(|family| family.naming.is_of(checkpoint, root)).unwrap_or(&families[0]);
    let spec = family.valid_spec(config, &identity, head)?;
    let names = family.naming.names((checkpoint, root), &spec)?;
    Ok(Described { spec, names })
}

/// The part of it that needs no weights: the first valid description.
#[cfg(test)]
pub(crate) fn spec(config: &serde_json::Value, head: Head) -> Result<EncoderSpec, FamilyError> {
    let identity: Identity = from_value(config)?;
    let families = identity.families()?;
    let mut specs = families.iter().map(|family| family.valid_spec(config, &identity, head.clone()));
    let first = specs.next().expect("at least one family");
    first.or_else(|refusal| specs.find_map(Result::ok).ok_or(refusal))
}

impl Identity {
    /// Those that cover the architecture, which is asked first: families that reuse `model_type = "bert"` with another data
    /// flow exist. At least one.
    fn families(&self) -> Result<Vec<&'static Family>, FamilyError> {
        let architecture = self.architectures.as_ref().and_then(|all| all.first());
        let covers = |family: &&Family| match (architecture, &self.model_type) {
            (Some(architecture), _) => family.all_architectures().any(|covered| covered == architecture),
            (None, Some(model_type)) => family.model_types.contains(&model_type.as_str()),
            (None, None) => false,
        };
        let families = FAMILIES.iter().filter(covers).collect::<Vec<_>>();
        if families.is_empty() {
            let found = architecture.or(self.model_type.as_ref());
            let found = found.cloned().unwrap_or_else(|| "(none named)".into());
            return Err(FamilyError::Architecture { found, covered: covered() });
        }
        Ok(families)
    }

    /// The code that loading the bare model would run, or that of the class that the configuration names, or any other if none
    /// is named for these.
    fn own_code(&self) -> Option<String> {
        let map = self.auto_map.as_ref()?;
        let class =
            |class: &serde_json::Value| class.as_str().map_or_else(|| class.to_string(), str::to_owned);
        let architecture = self.architectures.as_ref().and_then(|all| all.first());
        let is_named =
            |class: &String| architecture.is_some_and(|own| class.rsplit('.').next() == Some(own.as_str()));
        let bare = map.get("AutoModel").map(class);
        bare.or_else(|| map.values().map(class).find(is_named)).or_else(|| map.values().next().map(class))
    }
}

/// The class that `config.json` names, where it has a head of the kind that is looked for.
fn head_class(config: &serde_json::Value, of: HeadOf) -> Result<Option<&'static HeadClass>, FamilyError> {
    let Identity { architectures, .. } = from_value(config)?;
    let Some(architecture) = architectures.and_then(|all| all.into_iter().next()) else {
        return Ok(None);
    };
    let is_it =
        |class: &&HeadClass| class.architectures.contains(&architecture.as_str()) && class.kind.is_of(of);
    Ok(FAMILIES.iter().flat_map(|family| family.heads).find(is_it))
}

/// How many labels the weights have, where the class that `config.json` names has a head of labels.
pub(crate) fn label_outputs(
    config: &serde_json::Value,
    checkpoint: &Checkpoint,
    encoder: &Described,
) -> Result<Option<usize>, FamilyError> {
    let class = head_class(config, HeadOf::Labels(0))?;
    Ok(class.map(|class| class.kind.label_outputs(encoder, checkpoint)))
}

/// The head of the class that `config.json` names, where it has one of the kind that is looked for.
pub(crate) fn named_head(
    config: &serde_json::Value,
    checkpoint: &Checkpoint,
    encoder: &Described,
    of: HeadOf,
) -> Result<Option<NamedHead>, FamilyError> {
    let class = head_class(config, of)?;
    class.map(|class| class.kind.named(config, encoder, of, checkpoint)).transpose()
}

impl Family {
    fn all_architectures(&self) -> impl Iterator<Item = &&'static str> {
        self.architectures.iter().chain(self.heads.iter().flat_map(|class| class.architectures))
    }

    fn valid_spec(
        &self,
        config: &serde_json::Value,
        identity: &Identity,
        head: Head,
    ) -> Result<EncoderSpec, FamilyError> {
        if let Some(class) = identity.own_code() {
            // `owner/repository--file.Class`, or the file stands beside the configuration.
            let bare = class.rsplit("--").next().unwrap_or_default();
            if !self.own_code.contains(&bare) {
                return Err(FamilyError::OwnCode { class });
            }
        }
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
