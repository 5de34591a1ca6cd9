//! From the residual stream to the answers, in f32.

use std::fmt;

use super::select::function;
use crate::{
    cpu::{Activation, Pooling, WordWeights},
    outputs::OutputSet,
    spec::{self, Head, HeadModule, INNER, PooledHead, SpanHead, SparseHead, SparseWeights, TokenHead},
};

/// One plan for each head that the model has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeadPlan {
    /// What there are heads for.
    pub(crate) gives: OutputSet,
    pub(crate) dense: Option<PooledPlan>,
    pub(crate) classes: Option<PooledPlan>,
    pub(crate) token_classes: Option<ChainPlan>,
    pub(crate) sparse: Option<SparsePlan>,
    pub(crate) multivector: Option<MultivectorPlan>,
    pub(crate) spans: Option<SpanPlan>,
}

/// Words and labels from the tokens of a sequence, and the products of spans with labels.
///
/// The perceptron of a span ends in two products. The first is one of the row of its first word and one of that of its last,
/// which are computed once a word; the second and that with the label are one product with a row that is computed once a
/// label. So a span costs `inner` multiplications a label, and its vector is never there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SpanPlan {
    /// Of the hidden states.
    pub(crate) inputs: usize,
    /// Of words and labels.
    pub(crate) width: usize,
    /// Inside of every perceptron.
    pub(crate) inner: usize,
    pub(crate) pooling: Pooling,
    pub(crate) recurrent: bool,
    pub(crate) words_max: usize,
}

/// Steps on each token behind the first ones of its sequence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MultivectorPlan {
    pub(crate) chain: ChainPlan,
    pub(crate) skipped_first: usize,
}

/// Pools each sequence, then goes through the steps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PooledPlan {
    pub(crate) poolings: Vec<Pooling>,
    pub(crate) chain: ChainPlan,
}

/// Steps on each token, then from what they leave to weights of words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SparsePlan {
    pub(crate) chain: ChainPlan,
    pub(crate) words: WordsPlan,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum WordsPlan {
    /// A product with the table of words in the encoder's formats, a slice of the words at a time for all tokens of a
    /// block, so that the logits of all words are never there at once.
    Vocabulary { words: usize, slice: usize, weights: WordWeights },
    /// Each token's one value, for the token itself unless it is skipped: ascending ids.
    Lexical { skipped: Vec<u32> },
}

/// Words of a slice. Its logits for a block of tokens (200 KB in bf16) stay in the second-level cache until they are
/// pooled, beside the operand that every slice reads again. Whole panels of every instruction set.
const SLICE_WORDS: usize = 384;

/// Steps on rows of vectors, and the width that they leave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChainPlan {
    pub(crate) steps: Vec<HeadStep>,
    pub(crate) outputs: usize,
}

/// Weights are f32 whatever those of the encoder are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum HeadStep {
    Dense { inputs: usize, outputs: usize, bias: bool, activation: Activation },
    LayerNorm { width: usize, eps: f32, bias: bool },
    L2 { width: usize },
}

impl HeadPlan {
    pub(super) fn new(head: &Head, hidden: usize) -> Self {
        let pooled = |head: &Option<PooledHead>| head.as_ref().map(|head| PooledPlan::new(head, hidden));
        let of_tokens =
            |head: &Option<TokenHead>| head.as_ref().map(|head| ChainPlan::new(&head.modules, hidden));
        Self {
            gives: head.gives(),
            dense: pooled(&head.dense),
            classes: pooled(&head.classes),
            token_classes: of_tokens(&head.token_classes),
            sparse: head.sparse.as_ref().map(|head| SparsePlan::new(head, hidden)),
            multivector: head.multivector.as_ref().map(|head| MultivectorPlan {
                chain: ChainPlan::new(&head.modules, hidden),
                skipped_first: head.skipped_first,
            }),
            spans: head.spans.map(|head| SpanPlan::new(head, hidden)),
        }
    }

    /// Width of the dense vectors; 0 where there are none.
    pub(super) fn dims(&self) -> usize {
        self.dense.as_ref().map_or(0, |dense| dense.chain.outputs)
    }
}

impl PooledPlan {
    fn new(head: &PooledHead, hidden: usize) -> Self {
        let poolings = head.poolings.0.iter().copied().map(pooling).collect::<Vec<_>>();
        let chain = ChainPlan::new(&head.modules, hidden * poolings.len());
        Self { poolings, chain }
    }
}

impl SparsePlan {
    fn new(head: &SparseHead, hidden: usize) -> Self {
        let words = match &head.weights {
            &SparseWeights::Vocabulary { words, weights } => {
                WordsPlan::Vocabulary { words, slice: SLICE_WORDS.min(words), weights }
            }
            SparseWeights::Lexical { skipped } => WordsPlan::Lexical { skipped: skipped.clone() },
        };
        Self { chain: ChainPlan::new(&head.modules, hidden), words }
    }
}

impl SpanPlan {
    fn new(SpanHead { width, pooling: of_words, recurrent, words_max }: SpanHead, inputs: usize) -> Self {
        Self { inputs, width, inner: INNER * width, pooling: pooling(of_words), recurrent, words_max }
    }

    /// Whether hidden states are projected first.
    pub(crate) fn projects(self) -> bool {
        self.inputs != self.width
    }
}

impl ChainPlan {
    fn new(modules: &[HeadModule], inputs: usize) -> Self {
        let mut width = inputs;
        let step = |module: &HeadModule| {
            let inputs = width;
            width = module.outputs(inputs);
            match *module {
                HeadModule::Dense { outputs, bias, activation } => {
                    HeadStep::Dense { inputs, outputs, bias, activation: function(activation) }
                }
                HeadModule::LayerNorm { eps, bias } => HeadStep::LayerNorm { width: inputs, eps, bias },
                HeadModule::Normalize => HeadStep::L2 { width: inputs },
            }
        };
        let steps = modules.iter().map(step).collect();
        Self { steps, outputs: width }
    }
}

const fn pooling(pooling: spec::Pooling) -> Pooling {
    match pooling {
        spec::Pooling::Cls => Pooling::Cls,
        spec::Pooling::Mean => Pooling::Mean,
        spec::Pooling::Max => Pooling::Max,
        spec::Pooling::LastToken => Pooling::Last,
        spec::Pooling::WeightedMean => Pooling::WeightedMean,
        spec::Pooling::MeanSqrtLen => Pooling::MeanSqrtLen,
    }
}

impl fmt::Display for HeadPlan {
    /// One line a head.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gives: _, dense, classes, token_classes, sparse, multivector, spans } = self;
        for (name, head) in [("dense", dense), ("classes", classes)] {
            head.as_ref().map_or(Ok(()), |head| writeln!(f, "  {name} = {head}"))?;
        }
        token_classes.as_ref().map_or(Ok(()), |chain| writeln!(f, "  token_classes = rows{chain}"))?;
        sparse.as_ref().map_or(Ok(()), |sparse| writeln!(f, "  sparse = rows{sparse}"))?;
        multivector.as_ref().map_or(Ok(()), |head| {
            writeln!(f, "  multivector = rows from {}{}", head.skipped_first, head.chain)
        })?;
        spans.map_or(Ok(()), |head| writeln!(f, "  spans = {head}"))
    }
}

impl fmt::Display for SpanPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inputs, width, inner, pooling, recurrent, words_max } = *self;
        write!(f, "words (pool {pooling:?})")?;
        if self.projects() {
            write!(f, " -> linear f32 {inputs} -> {width}")?;
        }
        f.write_str(if recurrent { " -> lstm f32 both ways" } else { "" })?;
        write!(f, " -> linear f32 {width} -> {inner} -> {width} -> {inner} twice")?;
        write!(f, ", up to {words_max} words: Relu of the sum by labels of {inner} -> sigmoid")
    }
}

impl fmt::Display for PooledPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let poolings: Vec<_> = self.poolings.iter().map(|pooling| format!("{pooling:?}")).collect();
        write!(f, "pool {}{}", poolings.join(" + "), self.chain)
    }
}

impl fmt::Display for SparsePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain, words } = self;
        match words {
            WordsPlan::Vocabulary { words, slice, weights: WordWeights { pooling, logarithms } } => {
                let logarithms = "log1p ".repeat(usize::from(*logarithms));
                write!(f, "{chain} -> linear {} -> {words}, {slice} at a time", chain.outputs)?;
                write!(f, " -> {logarithms}relu, {pooling:?} of each sequence")
            }
            WordsPlan::Lexical { skipped } => write!(f, "{chain} -> max by token, without {skipped:?}"),
        }
    }
}

impl fmt::Display for ChainPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| write!(f, " -> {step}"))
    }
}

impl fmt::Display for HeadStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense { inputs, outputs, activation, .. } => {
                write!(f, "linear f32 {inputs} -> {outputs}, {activation:?}")
            }
            Self::LayerNorm { eps, .. } => write!(f, "layer_norm eps {eps:e}"),
            Self::L2 { .. } => f.write_str("l2_normalise"),
        }
    }
}
