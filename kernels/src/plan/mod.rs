//! Spec + device + dtype policy -> the steps of one forward pass, with their buffers sized. Pure.
//!
//! `select` is the only reader of the spec's axes, and the only place where fusion is decided: one product for query,
//! key and value, one for a gate and what it opens; bias, activation, gate and residual in the epilogues of the products;
//! one pass for the norms and the rotation of queries and keys.

mod cuda;
mod display;
mod error;
mod head;
mod heads;
mod layer;
mod layout;
mod rope;
mod select;

pub(crate) use cuda::{CudaPlan, StepKernel};
pub use error::PlanError;
pub(crate) use head::{ChainPlan, HeadPlan, HeadStep, PooledPlan, SpanPlan, SparsePlan, WordsPlan};
pub(crate) use heads::HeadLayout;
pub(crate) use rope::RopePlan;

use std::ops::Range;

use crate::{
    cpu::{AttentionShape, CpuIsa, Epilogue},
    dtype::Dtype,
};

/// What a model does on one kind of device, weights left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub(crate) target: Target,
    /// Storage of tables and linear layers; norms and biases are f32.
    pub(crate) weights: Dtype,
    /// What the buffers between steps hold.
    pub(crate) activations: Dtype,
    pub(crate) embed: EmbedPlan,
    pub(crate) position_bias: Option<BiasPlan>,
    pub(crate) disentangled: Option<DisentangledPlan>,
    /// See [`EncoderSpec::sight`](crate::spec::EncoderSpec).
    pub(crate) sight: usize,
    /// Without those that several layers share.
    pub(crate) ropes: Vec<RopePlan>,
    pub(crate) layers: Vec<LayerPlan>,
    /// Of the residual stream, in place, behind the last layer.
    pub(crate) final_norm: Option<NormOp>,
    pub(crate) head: HeadPlan,
    /// Elements per token of each [`Buffer`].
    pub(crate) widths: [usize; Buffer::COUNT],
    /// Elements per token that lie before each in the arena of a pass, whole cache lines.
    pub(crate) starts: [usize; Buffer::COUNT],
}

/// What computes a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Cpu(CpuIsa),
    Cuda,
}

/// The tables, `[rows, width]` each, the norm of their sum, and its projection to the residual stream where that is
/// wider or narrower.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EmbedPlan {
    pub(crate) vocab: usize,
    /// Positions that the model knows.
    pub(crate) positions: usize,
    /// The rows of the stored table that hold them, where they are looked up.
    pub(crate) position_rows: Option<Range<usize>>,
    pub(crate) token_types: Option<usize>,
    pub(crate) scale: Option<f32>,
    pub(crate) norm: Option<NormOp>,
    pub(crate) width: usize,
    pub(crate) projects: bool,
}

impl EmbedPlan {
    /// Where the sum lies before its projection.
    pub(crate) const UNPROJECTED: Buffer = Buffer::Context;
}

/// What every attention adds to its scores, spread out over the distances of `tokens_max` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BiasPlan {
    pub(crate) kind: BiasKind,
    pub(crate) heads: usize,
    pub(crate) tokens_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BiasKind {
    /// A learned table `[buckets, heads]`.
    Buckets { buckets: usize, distance_max: usize },
    /// Slopes that the number of heads tells.
    Alibi,
}

/// A table of relative positions, `[2 span, hidden]`, which is projected for each layer when the model is loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DisentangledPlan {
    pub(crate) span: usize,
    pub(crate) distance_max: usize,
    pub(crate) tokens_max: usize,
    pub(crate) norm: Option<NormOp>,
    /// Whether its projections are those of keys and of queries, which are read twice then.
    pub(crate) shares_projections: bool,
}

/// One block: its weights and what is done with them, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerPlan {
    /// How its heads of queries, keys and values stand in their buffers.
    pub(crate) heads: HeadLayout,
    pub(crate) linears: Vec<LinearPlan>,
    pub(crate) norms: Vec<NormPlan>,
    pub(crate) steps: Vec<Step>,
}

/// One packed product, `[outputs, inputs]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinearPlan {
    pub(crate) role: LinearRole,
    /// Rows that each stored tensor has in it, in order.
    pub(crate) outputs: Vec<usize>,
    pub(crate) inputs: usize,
    /// Whether the first of two opens the second.
    pub(crate) gated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinearRole {
    Qkv,
    AttentionOutput,
    FfnUp,
    FfnDown,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormPlan {
    pub(crate) role: NormRole,
    pub(crate) width: usize,
    pub(crate) op: NormOp,
}

/// What a norm computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum NormOp {
    Layer { eps: f32 },
    Rms { eps: f32, plus_one: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormRole {
    Attention,
    /// The second one of a sandwich.
    AttentionPost,
    Ffn,
    FfnPost,
    Query,
    Key,
}

/// The buffers between steps, `[tokens, width]` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Buffer {
    /// The residual stream.
    Hidden,
    /// Queries, keys and values side by side.
    Qkv,
    /// What attention gathered.
    Context,
    /// Inside of the feed-forward network.
    Intermediate,
    /// The residual stream as a norm leaves it to what follows.
    Normed,
}

impl Buffer {
    pub(crate) const COUNT: usize = 5;
    pub(crate) const ALL: [Self; Self::COUNT] =
        [Self::Hidden, Self::Qkv, Self::Context, Self::Intermediate, Self::Normed];
}

/// One op. Weights are named by their place in the layer's lists.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Linear {
        linear: usize,
        from: Buffer,
        epilogue: Epilogue,
        to: Buffer,
    },
    /// From the fused projection; the columns tell where queries, keys and values begin.
    Attention {
        shape: AttentionShape,
        columns: [usize; 3],
        from: Buffer,
        to: Buffer,
    },
    /// The same where contents are compared with relative positions, too.
    Disentangled {
        shape: AttentionShape,
        columns: [usize; 3],
        from: Buffer,
        to: Buffer,
    },
    /// The norms of queries and of keys, and their rotation; in place, in the first columns of the fused projection.
    Turn {
        shape: AttentionShape,
        norms: Option<[usize; 2]>,
        rope: Option<usize>,
        buffer: Buffer,
    },
    /// In place where both buffers are one.
    Norm {
        norm: usize,
        from: Buffer,
        /// Whether the result is added to what is there.
        adds: bool,
        to: Buffer,
    },
}

impl Plan {
    /// The storage format of the weights.
    pub fn dtype(&self) -> Dtype {
        self.weights
    }

    /// Elements of a dense vector; 0 where the model gives none.
    pub fn dims(&self) -> usize {
        self.head.dims()
    }

    /// Elements of the residual stream.
    pub(crate) fn hidden(&self) -> usize {
        self.widths[Buffer::Hidden as usize]
    }

    /// Bytes that a lane holds to run batches of `tokens` tokens.
    pub fn workspace_bytes(&self, tokens: usize) -> usize {
        let ends = self.starts.iter().zip(self.widths).map(|(start, width)| start + width);
        ends.max().unwrap_or(0) * tokens * self.activations.bytes()
    }
}

impl LayerPlan {
    /// The number of its query heads.
    pub(crate) fn heads_of_queries(&self) -> usize {
        let width = self.linears.iter().find(|linear| linear.role == LinearRole::Qkv);
        width.map_or(0, |qkv| qkv.outputs[0] / self.heads.width)
    }
}

impl LinearPlan {
    /// Width of the result.
    pub(crate) fn outputs(&self) -> usize {
        let rows: usize = self.outputs.iter().sum();
        if self.gated { rows / 2 } else { rows }
    }
}

#[cfg(test)]
mod tests;
