//! From the residual stream to the answers, in f32.

use std::fmt;

use super::select::function;
use crate::{
    cpu::{Activation, Pooling},
    outputs::OutputSet,
    spec::{self, Head, HeadModule, PooledHead},
};

/// One plan for each head that the model has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeadPlan {
    pub(crate) dense: Option<PooledPlan>,
}

/// Pools each sequence, then goes through the steps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PooledPlan {
    pub(crate) poolings: Vec<Pooling>,
    pub(crate) steps: Vec<HeadStep>,
    /// Width of the answer.
    pub(crate) dims: usize,
}

/// On rows of vectors. Weights are f32 whatever those of the encoder are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum HeadStep {
    Dense { inputs: usize, outputs: usize, bias: bool, activation: Activation },
    LayerNorm { width: usize, eps: f32 },
    L2 { width: usize },
}

impl HeadPlan {
    pub(super) fn new(head: &Head, hidden: usize) -> Self {
        Self { dense: head.dense.as_ref().map(|dense| PooledPlan::new(dense, hidden)) }
    }

    pub(crate) fn gives(&self) -> OutputSet {
        let Self { dense } = self;
        OutputSet { dense: dense.is_some(), ..OutputSet::NONE }
    }

    /// Width of the dense vectors; 0 where there are none.
    pub(super) fn dims(&self) -> usize {
        self.dense.as_ref().map_or(0, |dense| dense.dims)
    }
}

impl PooledPlan {
    fn new(head: &PooledHead, hidden: usize) -> Self {
        let poolings = head.poolings.0.iter().copied().map(pooling).collect::<Vec<_>>();
        let (steps, dims) = steps(&head.modules, hidden * poolings.len());
        Self { poolings, steps, dims }
    }
}

/// The steps of a chain of modules, and the width of what they leave.
fn steps(modules: &[HeadModule], inputs: usize) -> (Vec<HeadStep>, usize) {
    let mut width = inputs;
    let step = |module: &HeadModule| {
        let inputs = width;
        width = module.outputs(inputs);
        match *module {
            HeadModule::Dense { outputs, bias, activation } => {
                HeadStep::Dense { inputs, outputs, bias, activation: function(activation) }
            }
            HeadModule::LayerNorm { eps } => HeadStep::LayerNorm { width: inputs, eps },
            HeadModule::Normalize => HeadStep::L2 { width: inputs },
        }
    };
    let steps = modules.iter().map(step).collect();
    (steps, width)
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
        self.dense.as_ref().map_or(Ok(()), |dense| writeln!(f, "  {dense}"))
    }
}

impl fmt::Display for PooledPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let poolings: Vec<_> = self.poolings.iter().map(|pooling| format!("{pooling:?}")).collect();
        write!(f, "pool {}", poolings.join(" + "))?;
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
