//! The modules that sentence-transformers runs on the pooled vector.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{DescribeError, json};
use crate::{
    families::Affine,
    spec::{Activation, HeadModule},
    weights::Checkpoint,
};

/// A module with its weights; without for one that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModuleWeights {
    pub(crate) dir: PathBuf,
    pub(crate) names: Affine,
}

/// The weights of every head, one for each module in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadNames {
    pub(crate) dense: Vec<Option<ModuleWeights>>,
    pub(crate) classes: Vec<Option<ModuleWeights>>,
    pub(crate) token_classes: Vec<Option<ModuleWeights>>,
}

/// The vector that a module reads and writes; others belong to other kinds of models.
const VECTOR: &str = "sentence_embedding";

pub(super) const COVERED: &str = "Transformer, Pooling, then any of Dense, LayerNorm, Normalize, Dropout";

/// Reads the module of class `kind` in `dir`, which gets vectors of `width`. `None` for one that does nothing here.
pub(super) fn read(
    kind: &str,
    dir: &Path,
    width: usize,
) -> Result<Option<(HeadModule, Option<ModuleWeights>)>, DescribeError> {
    let path = dir.join("config.json");
    match kind {
        "Dense" => json::required::<Dense>(&path, json::BYTES_MAX)?.module(&path, width).map(Some),
        "LayerNorm" => json::required::<LayerNorm>(&path, json::BYTES_MAX)?.module(&path, width).map(Some),
        "Normalize" => {
            let names: Names = json::optional(&path, json::BYTES_MAX)?.unwrap_or_default();
            names.check(&path)?;
            Ok(Some((HeadModule::Normalize, None)))
        }
        "Dropout" => Ok(None),
        other => {
            let found = format!("the module {other}");
            Err(DescribeError::NotCovered { path: dir.to_owned(), found, covered: COVERED })
        }
    }
}

/// Which of a pipeline's values a module reads and writes.
#[derive(Default, Deserialize)]
struct Names {
    #[serde(default)]
    module_input_name: Option<String>,
    #[serde(default)]
    module_output_name: Option<String>,
}

impl Names {
    fn check(self, path: &Path) -> Result<(), DescribeError> {
        let names = [self.module_input_name, self.module_output_name];
        match names.into_iter().flatten().find(|name| name != VECTOR) {
            Some(name) => Err(DescribeError::NotCovered {
                path: path.to_owned(),
                found: format!("a module for {name:?}"),
                covered: VECTOR,
            }),
            None => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct Dense {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    #[serde(default)]
    activation_function: Option<String>,
    #[serde(default)]
    use_residual: bool,
    #[serde(flatten)]
    names: Names,
}

const fn yes() -> bool {
    true
}

impl Dense {
    fn module(self, path: &Path, width: usize) -> Result<(HeadModule, Option<ModuleWeights>), DescribeError> {
        let not_covered =
            |found, covered| DescribeError::NotCovered { path: path.to_owned(), found, covered };
        self.names.check(path)?;
        if self.use_residual {
            return Err(not_covered("a Dense with use_residual".into(), "use_residual: false"));
        }
        fits(path, "in_features", self.in_features, width)?;
        let activation = match self.activation_function.as_deref() {
            None | Some("torch.nn.modules.activation.Tanh") => Activation::Tanh,
            Some("torch.nn.modules.linear.Identity") => Activation::Identity,
            Some("torch.nn.modules.activation.ReLU") => Activation::Relu,
            Some("torch.nn.modules.activation.GELU") => Activation::GeluErf,
            Some("torch.nn.modules.activation.SiLU") => Activation::Silu,
            Some(other) => {
                let covered = "Tanh, Identity, ReLU, GELU, SiLU of torch.nn.modules";
                return Err(not_covered(format!("the activation {other}"), covered));
            }
        };
        let (outputs, bias) = (self.out_features, self.bias);
        let names = Affine::linear("linear");
        let weights = weights_of(path, names, &[outputs, width], bias)?;
        Ok((HeadModule::Dense { outputs, bias, activation }, Some(weights)))
    }
}

#[derive(Deserialize)]
struct LayerNorm {
    dimension: usize,
}

/// What `torch.nn.LayerNorm` takes when it is told nothing, as this module's is.
const EPS: f32 = 1e-5;

impl LayerNorm {
    fn module(self, path: &Path, width: usize) -> Result<(HeadModule, Option<ModuleWeights>), DescribeError> {
        fits(path, "dimension", self.dimension, width)?;
        let weights = weights_of(path, Affine::linear("norm"), &[width], true)?;
        Ok((HeadModule::LayerNorm { eps: EPS }, Some(weights)))
    }
}

fn fits(path: &Path, field: &str, found: usize, width: usize) -> Result<(), DescribeError> {
    if found == width {
        return Ok(());
    }
    let reason = format!("{field} is {found}, but the modules before give vectors of {width}");
    Err(DescribeError::Contradiction { path: path.to_owned(), reason })
}

/// The weights beside `path`, whose shapes are checked.
fn weights_of(
    path: &Path,
    names: Affine,
    shape: &[usize],
    bias: bool,
) -> Result<ModuleWeights, DescribeError> {
    let dir = path.parent().unwrap_or(path).to_owned();
    let checkpoint = Checkpoint::open(&dir)?;
    checkpoint.find(&names.weight, shape)?;
    if bias {
        checkpoint.find(&names.bias, &shape[..1])?;
    }
    Ok(ModuleWeights { dir, names })
}
