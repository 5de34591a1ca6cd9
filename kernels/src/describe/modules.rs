//! The modules that sentence-transformers runs on the pooled vector.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{DescribeError, gliner::SpanNames, json};
use crate::{
    families::Affine,
    spec::{Activation, HeadModule},
    weights::Checkpoint,
};

/// A module with its weights; without for one that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModuleWeights {
    /// A directory, or one file.
    pub(crate) dir: PathBuf,
    pub(crate) names: Affine,
    /// Where the weight is one row that is made of a larger table's.
    pub(crate) rows: Option<TableRows>,
}

/// One row of a table, less another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableRows {
    /// Rows of the table.
    pub(crate) of: usize,
    pub(crate) row: usize,
    pub(crate) less: Option<usize>,
}

/// The weights of every head, one for each module in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadNames {
    pub(crate) dense: Vec<Option<ModuleWeights>>,
    pub(crate) classes: Vec<Option<ModuleWeights>>,
    pub(crate) token_classes: Vec<Option<ModuleWeights>>,
    pub(crate) sparse: Vec<Option<ModuleWeights>>,
    pub(crate) multivector: Vec<Option<ModuleWeights>>,
    /// Of a sparse head that knows a whole vocabulary.
    pub(crate) vocabulary: Option<VocabularyWeights>,
    pub(crate) spans: Option<SpanNames>,
}

/// The table that tokens are compared with to get logits of words, `[words, width]`, and its bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VocabularyWeights {
    pub(crate) dir: PathBuf,
    pub(crate) weight: String,
    pub(crate) bias: String,
}

/// The value of a pipeline that a module reads and writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueOf {
    /// The pooled vector.
    Sentence,
    /// The vectors of the tokens.
    Tokens,
    /// The logits of labels.
    Scores,
}

impl ValueOf {
    const fn name(self) -> &'static str {
        match self {
            Self::Sentence => "sentence_embedding",
            Self::Tokens => "token_embeddings",
            Self::Scores => "scores",
        }
    }
}

pub(super) const COVERED: &str = "Transformer, Pooling, then any of Dense, LayerNorm, Normalize, Dropout, the last of which may \
                                  give scores; \
                                  Transformer for sequence-classification; Transformer for fill-mask, SpladePooling; \
                                  Transformer for text-generation, LogitScore; \
                                  Transformer, then any of Dense, Normalize, MultiVectorMask for tokens";

/// What a module reads, and what it writes.
pub(super) type FromTo = (ValueOf, ValueOf);

/// Reads the module of class `kind` in `dir`, which gets vectors of `width`. `None` for one that does nothing here.
pub(super) fn read(
    kind: &str,
    dir: &Path,
    width: usize,
    of: FromTo,
) -> Result<Option<(HeadModule, Option<ModuleWeights>)>, DescribeError> {
    let path = dir.join("config.json");
    match kind {
        "Dense" | "pylate.models.Dense.Dense" => {
            json::required::<Dense>(&path, json::BYTES_MAX)?.module(&path, width, of).map(Some)
        }
        "LayerNorm" => json::required::<LayerNorm>(&path, json::BYTES_MAX)?.module(&path, width).map(Some),
        "Normalize" => {
            let names: Names = json::optional(&path, json::BYTES_MAX)?.unwrap_or_default();
            names.check(&path, of)?;
            Ok(Some((HeadModule::Normalize, None)))
        }
        // It says which tokens get a vector and leaves vectors as they are.
        "Dropout" | "MultiVectorMask" => Ok(None),
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
    /// Older files do not say it; a module writes what it reads where it says no more.
    fn check(self, path: &Path, (from, to): FromTo) -> Result<(), DescribeError> {
        let read = self.module_input_name.unwrap_or_else(|| from.name().to_owned());
        let written = self.module_output_name.unwrap_or_else(|| from.name().to_owned());
        match [(read, from), (written, to)].into_iter().find(|(name, value)| name != value.name()) {
            Some((name, value)) => Err(DescribeError::NotCovered {
                path: path.to_owned(),
                found: format!("a module for {name:?}"),
                covered: value.name(),
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
    fn module(
        self,
        path: &Path,
        width: usize,
        of: FromTo,
    ) -> Result<(HeadModule, Option<ModuleWeights>), DescribeError> {
        let not_covered =
            |found, covered| DescribeError::NotCovered { path: path.to_owned(), found, covered };
        self.names.check(path, of)?;
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
        Ok((HeadModule::LayerNorm { eps: EPS, bias: true }, Some(weights)))
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
    weights_in(path.parent().unwrap_or(path), names, shape, bias)
}

/// The weights in `dir`, or in the one file that it is, whose shapes are checked.
pub(super) fn weights_in(
    dir: &Path,
    names: Affine,
    shape: &[usize],
    bias: bool,
) -> Result<ModuleWeights, DescribeError> {
    let checkpoint = Checkpoint::open(dir)?;
    checkpoint.find(&names.weight, shape)?;
    if bias {
        checkpoint.find(&names.bias, &shape[..1])?;
    }
    Ok(ModuleWeights { dir: dir.to_owned(), names, rows: None })
}
