//! What follows the last layer: a head for each output that a model can give.

use std::fmt;

use super::{
    Activation, Norm, SpanHead, SpecError,
    validate::{HIDDEN_MAX, VOCAB_MAX, within},
};
use crate::{cpu::WordWeights, outputs::OutputSet};

/// Each way once.
const POOLINGS_MAX: usize = 6;
const MODULES_MAX: usize = 16;
const DIMS_MAX: usize = POOLINGS_MAX * HIDDEN_MAX;

/// The heads of a model, at least one. One pass runs those that are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// One vector per sequence.
    pub dense: Option<PooledHead>,
    /// Logits of labels per sequence.
    pub classes: Option<PooledHead>,
    /// Logits of labels per token.
    pub token_classes: Option<TokenHead>,
    /// Weights of words of the vocabulary.
    pub sparse: Option<SparseHead>,
    /// One vector per token.
    pub multivector: Option<MultivectorHead>,
    /// Scores of a caller's labels for spans of words.
    pub spans: Option<SpanHead>,
}

/// A pooled vector that goes through modules.
#[derive(Clone, Debug, PartialEq)]
pub struct PooledHead {
    /// How a sequence's rows become one.
    pub poolings: Poolings,
    /// What is done with it then, in order.
    pub modules: Vec<HeadModule>,
}

/// Each token's hidden state goes through modules.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenHead {
    /// What is done with it, in order.
    pub modules: Vec<HeadModule>,
}

/// Each token's hidden state goes through modules, without the first tokens of each sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct MultivectorHead {
    /// What is done with it, in order.
    pub modules: Vec<HeadModule>,
    /// Tokens at the start of a sequence that get no vector.
    pub skipped_first: usize,
}

/// Each token's hidden state goes through modules and then says which words matter how much.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseHead {
    /// What is done with a hidden state before it is projected, in order.
    pub modules: Vec<HeadModule>,
    /// From what they leave to weights.
    pub weights: SparseWeights,
}

/// Which words a token speaks of.
#[derive(Clone, Debug, PartialEq)]
pub enum SparseWeights {
    /// All of a vocabulary, by the logits of a masked language model (SPLADE, Formal et al. 2021).
    Vocabulary {
        /// Words.
        words: usize,
        /// From logits to weights.
        weights: WordWeights,
    },
    /// The token itself, by the one value that the modules leave, which is kept where it is above 0: the greatest of a
    /// word that a sequence repeats (BGE-M3, Chen et al. 2024).
    Lexical {
        /// Tokens that are no words: ascending ids.
        skipped: Vec<u32>,
    },
}

/// Ways of pooling whose vectors stand side by side: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poolings(pub Vec<Pooling>);

/// How the rows of one sequence become one vector (the modes of sentence-transformers' `Pooling` module).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token.
    Cls,
    /// The mean over all tokens.
    Mean,
    /// The maximum per channel.
    Max,
    /// The last token.
    LastToken,
    /// The mean with weights 1, 2, 3, … by position (SGPT, Muennighoff 2022).
    WeightedMean,
    /// The sum divided by the square root of the length.
    MeanSqrtLen,
}

/// One step from a pooled vector, or from a token's, to the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeadModule {
    /// `activation(x W^T + b)`.
    Dense {
        /// Width of the result.
        outputs: usize,
        /// Whether there is a `b`.
        bias: bool,
        /// Applied to the sum.
        activation: Activation,
    },
    /// As in a block.
    LayerNorm {
        /// Added to the variance.
        eps: f32,
        /// Whether something is added in the end.
        bias: bool,
    },
    /// Scaled to length 1 (L2).
    Normalize,
}

impl Head {
    /// A dense head with one way of pooling, and nothing more than L2.
    pub fn pooled(pooling: Pooling, normalize: bool) -> Self {
        let modules = if normalize { vec![HeadModule::Normalize] } else { Vec::new() };
        Self { dense: Some(PooledHead { poolings: Poolings(vec![pooling]), modules }), ..Self::default() }
    }

    /// The outputs that there are heads for.
    pub fn gives(&self) -> OutputSet {
        let Self { dense, classes, token_classes, sparse, multivector, spans } = self;
        OutputSet {
            dense: dense.is_some(),
            classes: classes.is_some(),
            token_classes: token_classes.is_some(),
            sparse: sparse.is_some(),
            multivector: multivector.is_some(),
            spans: spans.is_some(),
        }
    }

    /// Width of the dense vectors of an encoder whose hidden states are `hidden` wide; 0 where it gives none.
    pub fn dims(&self, hidden: usize) -> usize {
        self.dense.as_ref().map_or(0, |dense| dense.outputs(hidden))
    }

    /// Whether the dense vectors have length 1.
    pub fn normalizes(&self) -> bool {
        self.dense.as_ref().is_some_and(|dense| dense.modules.last() == Some(&HeadModule::Normalize))
    }

    pub(super) fn validate(&self, hidden: usize) -> Result<(), SpecError> {
        if self.gives().is_empty() {
            return Err(SpecError::NoHead);
        }
        self.pooled_heads().try_for_each(|(_, head)| head.validate(hidden))?;
        self.token_heads().try_for_each(|(_, head)| validate(&head.modules, hidden))?;
        self.sparse.as_ref().map_or(Ok(()), |sparse| sparse.validate(hidden))?;
        self.multivector.as_ref().map_or(Ok(()), |head| validate(&head.modules, hidden))?;
        self.spans.map_or(Ok(()), SpanHead::validate)
    }

    /// With what they are called where a model has several.
    fn pooled_heads(&self) -> impl Iterator<Item = (&'static str, &PooledHead)> {
        named([("dense", &self.dense), ("classes", &self.classes)])
    }

    fn token_heads(&self) -> impl Iterator<Item = (&'static str, &TokenHead)> {
        named([("token_classes", &self.token_classes)])
    }

    pub(super) fn parameters(&self, hidden: usize) -> usize {
        let pooled = self.pooled_heads().map(|(_, head)| parameters(&head.modules, head.pooled(hidden)));
        let of_tokens = self.token_heads().map(|(_, head)| parameters(&head.modules, hidden));
        let sparse = self.sparse.as_ref().map_or(0, |sparse| sparse.parameters(hidden));
        let multivector = self.multivector.as_ref().map_or(0, |head| parameters(&head.modules, hidden));
        let spans = self.spans.map_or(0, |head| head.parameters(hidden));
        pooled.chain(of_tokens).sum::<usize>() + sparse + multivector + spans
    }
}

fn named<'a, T: 'a, const N: usize>(
    heads: [(&'static str, &'a Option<T>); N],
) -> impl Iterator<Item = (&'static str, &'a T)> {
    heads.into_iter().filter_map(|(name, head)| Some((name, head.as_ref()?)))
}

impl SparseHead {
    fn validate(&self, hidden: usize) -> Result<(), SpecError> {
        validate(&self.modules, hidden)?;
        match self.weights {
            SparseWeights::Vocabulary { words, .. } => within("words", words, VOCAB_MAX),
            SparseWeights::Lexical { .. } => within("lexical weights", outputs(&self.modules, hidden), 1),
        }
    }

    /// Those of the projection are the token table's, packed once more.
    fn parameters(&self, hidden: usize) -> usize {
        let words = match self.weights {
            SparseWeights::Vocabulary { words, .. } => words,
            SparseWeights::Lexical { .. } => 0,
        };
        parameters(&self.modules, hidden) + (outputs(&self.modules, hidden) + 1) * words
    }
}

impl PooledHead {
    fn pooled(&self, hidden: usize) -> usize {
        hidden.saturating_mul(self.poolings.0.len())
    }

    /// Width of the result.
    pub(crate) fn outputs(&self, hidden: usize) -> usize {
        outputs(&self.modules, self.pooled(hidden))
    }

    fn validate(&self, hidden: usize) -> Result<(), SpecError> {
        within("poolings", self.poolings.0.len(), POOLINGS_MAX)?;
        validate(&self.modules, self.pooled(hidden))
    }
}

/// Width of what a chain of modules makes of vectors of `inputs`.
fn outputs(modules: &[HeadModule], inputs: usize) -> usize {
    modules.iter().fold(inputs, |width, module| module.outputs(width))
}

fn validate(modules: &[HeadModule], inputs: usize) -> Result<(), SpecError> {
    within("modules", modules.len() + 1, MODULES_MAX)?;
    let mut width = inputs;
    for module in modules {
        width = module.outputs(width);
        within("dense outputs", width, DIMS_MAX)?;
        if let HeadModule::LayerNorm { eps, bias } = *module {
            Norm::LayerNorm { eps, bias }.validate()?;
        }
    }
    within("dims", width, DIMS_MAX)
}

fn parameters(modules: &[HeadModule], inputs: usize) -> usize {
    let mut width = inputs;
    let count = |module: &HeadModule| {
        let inputs = width;
        width = module.outputs(inputs);
        match *module {
            HeadModule::Dense { outputs, bias, .. } => (inputs + usize::from(bias)) * outputs,
            HeadModule::LayerNorm { bias, .. } => (1 + usize::from(bias)) * inputs,
            HeadModule::Normalize => 0,
        }
    };
    modules.iter().map(count).sum()
}

impl HeadModule {
    /// Width of the result for vectors of `width`.
    pub const fn outputs(self, width: usize) -> usize {
        match self {
            Self::Dense { outputs, .. } => outputs,
            Self::LayerNorm { .. } | Self::Normalize => width,
        }
    }
}

impl fmt::Display for Head {
    /// One line a head.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pooled = self.pooled_heads().map(|(name, head)| format!("{name}: {head}"));
        let of_tokens = self.token_heads().map(|(name, head)| format!("{name}: {head}"));
        let sparse = self.sparse.iter().map(|head| format!("sparse: {head}"));
        let multivector = self.multivector.iter().map(|head| format!("multivector: {head}"));
        let spans = self.spans.iter().map(|head| format!("spans: {head}"));
        let lines: Vec<_> = pooled.chain(of_tokens).chain(sparse).chain(multivector).chain(spans).collect();
        f.write_str(&lines.join("\n  "))
    }
}

impl fmt::Display for PooledHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}", self.poolings)?;
        self.modules.iter().try_for_each(|module| write!(f, " -> {module}"))
    }
}

impl fmt::Display for TokenHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("each token")?;
        self.modules.iter().try_for_each(|module| write!(f, " -> {module}"))
    }
}

impl fmt::Display for SparseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { modules, weights } = self;
        write!(f, "{} -> {weights}", TokenHead { modules: modules.clone() })
    }
}

impl fmt::Display for MultivectorHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { modules, skipped_first } = self;
        let tokens = TokenHead { modules: modules.clone() };
        if *skipped_first == 0 {
            write!(f, "{tokens}")
        } else {
            write!(f, "{tokens}, from {skipped_first} on")
        }
    }
}

impl fmt::Display for SparseWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vocabulary { words, weights: WordWeights { pooling, logarithms } } => {
                write!(f, "{words} words -> {}relu, {pooling:?}", "log1p ".repeat(usize::from(*logarithms)))
            }
            Self::Lexical { skipped } => write!(f, "max by token, without {skipped:?}"),
        }
    }
}

impl fmt::Display for Poolings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pooling) in self.0.iter().enumerate() {
            write!(f, "{}{pooling}", if index == 0 { "" } else { "+" })?;
        }
        Ok(())
    }
}

impl fmt::Display for HeadModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense { outputs, bias, activation } => {
                let bias = if *bias { " + bias" } else { "" };
                write!(f, "dense {outputs}{bias}, {activation}")
            }
            Self::LayerNorm { eps, bias } => write!(f, "{}", Norm::LayerNorm { eps: *eps, bias: *bias }),
            Self::Normalize => f.write_str("l2"),
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::LastToken => "last_token",
            Self::WeightedMean => "weighted_mean",
            Self::MeanSqrtLen => "mean_sqrt_len",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(poolings: Vec<Pooling>, modules: Vec<HeadModule>) -> Head {
        Head { dense: Some(PooledHead { poolings: Poolings(poolings), modules }), ..Head::default() }
    }

    #[test]
    fn refusals_name_the_fields() {
        let refusal = |head: Head| head.validate(32).expect_err("the head is not valid").to_string();
        assert_eq!(refusal(Head::default()), "the model has no head: there is nothing that it could answer");
        assert_eq!(refusal(dense(vec![], vec![])), "poolings is 0; it must be positive");
        let none = HeadModule::Dense { outputs: 0, bias: false, activation: Activation::Identity };
        assert_eq!(refusal(dense(vec![Pooling::Cls], vec![none])), "dense outputs is 0; it must be positive");
    }

    #[test]
    fn parameters_are_counted() {
        let module = HeadModule::Dense { outputs: 5, bias: true, activation: Activation::Tanh };
        let modules = vec![module, HeadModule::LayerNorm { eps: 1e-5, bias: true }, HeadModule::Normalize];
        let head = dense(vec![Pooling::Cls, Pooling::Mean], modules);
        assert_eq!((head.dims(32), head.normalizes()), (5, true));
        assert_eq!(head.parameters(32), (64 + 1) * 5 + 2 * 5);
    }
}
