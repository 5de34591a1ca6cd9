//! The only `match` over a spec's axes.

use super::{
    BiasPlan, Buffer, EmbedPlan, HeadPlan, LayerPlan, LinearPlan, LinearRole, NormOp, NormPlan, NormRole,
    Plan, PlanError, Step, layout,
};
use crate::{
    cpu::{self, AttentionShape, CpuIsa, Epilogue, HEAD_DIM_MAX},
    dtype::{Dtype, DtypePolicy},
    spec::{self, EncoderSpec, LayerSpec, NormPlacement, Position, PositionBias},
};

impl Plan {
    /// Plans a valid spec for a CPU that runs `isa`.
    ///
    /// # Errors
    /// What the device cannot do.
    pub fn for_cpu(spec: &EncoderSpec, isa: CpuIsa, policy: DtypePolicy) -> Result<Self, PlanError> {
        let weights = Self::dtype_on(isa, policy)?;
        refuse(spec)?;
        let layers = spec.each_layer().map(|each| layer(each, spec.hidden));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let mut widths = [0; Buffer::COUNT];
        widths[Buffer::Hidden as usize] = spec.hidden;
        for step in layers.iter().flat_map(LayerPlan::writes) {
            let width = &mut widths[step.0 as usize];
            *width = step.1.max(*width);
        }
        let embed = embed(spec);
        if embed.projects {
            let width = &mut widths[EmbedPlan::UNPROJECTED as usize];
            *width = embed.width.max(*width);
        }
        let activations = isa.activation_dtype(weights);
        let starts = layout::starts(&layers, &widths);
        Ok(Self {
            isa,
            weights,
            activations,
            embed,
            position_bias: position_bias(spec),
            layers,
            head: HeadPlan::new(&spec.head, spec.hidden),
            widths,
            starts,
        })
    }

    /// The format of the weights under `policy`, whatever the model. `Auto` is the one that the chip multiplies fastest.
    ///
    /// # Errors
    /// [`PlanError::Dtype`]: the instruction set has no kernels for it.
    pub fn dtype_on(isa: CpuIsa, policy: DtypePolicy) -> Result<Dtype, PlanError> {
        match policy {
            DtypePolicy::Auto => Ok(isa.fastest_dtype()),
            DtypePolicy::Exact(dtype) if isa.supports(dtype) => Ok(dtype),
            DtypePolicy::Exact(dtype) => {
                let covered = Dtype::ALL.into_iter().filter(|dtype| isa.supports(*dtype)).collect();
                Err(PlanError::Dtype { isa, dtype, covered })
            }
        }
    }
}

/// What is described but not computed.
fn refuse(spec: &EncoderSpec) -> Result<(), PlanError> {
    let layers = || spec.each_layer();
    let norms = || layers().flat_map(|layer| [layer.attention_norm, layer.ffn_norm]);
    let rms = |norm: Option<spec::Norm>| matches!(norm, Some(spec::Norm::RmsNorm { .. }));
    let missing = [
        ("positions inside of attention", matches!(spec.position, Position::InAttention { .. })),
        ("distances times slopes", spec.position_bias == Some(PositionBias::Alibi)),
        ("a scale of the embeddings", spec.embeddings.scale.is_some()),
        ("embeddings without a norm", spec.embeddings.norm.is_none()),
        ("a final norm", spec.final_norm.is_some()),
        ("blocks without norms", norms().any(|norm| norm.is_none())),
        ("root mean square norms", norms().chain([spec.embeddings.norm]).any(rms)),
        ("norms of queries and keys", layers().any(|layer| layer.attention.qk_norm.is_some())),
        ("rotary positions", layers().any(|layer| layer.attention.rope.is_some())),
        ("masked attention", layers().any(|layer| layer.attention.mask != spec::Mask::Bidirectional)),
        ("norms before a block", layers().any(|layer| layer.placement != NormPlacement::Post)),
        ("gated networks", layers().any(|layer| layer.ffn.gate.is_some())),
    ];
    match missing.into_iter().find(|(_, needed)| *needed) {
        Some((property, _)) => Err(PlanError::NoKernel { property }),
        None => Ok(()),
    }
}

fn embed(spec: &EncoderSpec) -> EmbedPlan {
    let position_rows = match spec.position {
        Position::Learned { rows, offset } => Some(offset..rows),
        Position::InAttention { .. } => None,
    };
    EmbedPlan {
        vocab: spec.embeddings.vocab,
        positions: spec.position.tokens_max(),
        position_rows,
        token_types: spec.embeddings.token_types,
        norm: spec.embeddings.norm.map(norm),
        width: spec.embeddings.width,
        projects: spec.embeddings.width != spec.hidden,
    }
}

fn position_bias(spec: &EncoderSpec) -> Option<BiasPlan> {
    let PositionBias::Buckets { buckets, distance_max } = spec.position_bias? else {
        return None;
    };
    let heads = spec.layer(0).attention.heads;
    Some(BiasPlan { buckets, heads, distance_max, tokens_max: spec.position.tokens_max() })
}

fn layer(layer: &LayerSpec, hidden: usize) -> Result<LayerPlan, PlanError> {
    let head_dim = layer.attention.head_dim;
    if head_dim > HEAD_DIM_MAX || !head_dim.is_multiple_of(2) {
        return Err(PlanError::HeadDim { head_dim, max: HEAD_DIM_MAX });
    }
    let norms = [(NormRole::Attention, layer.attention_norm), (NormRole::Ffn, layer.ffn_norm)];
    let norms =
        norms.into_iter().filter_map(|(role, of)| Some(NormPlan { role, width: hidden, op: norm(of?) }));
    Ok(LayerPlan { linears: linears(layer, hidden), norms: norms.collect(), steps: steps(layer) })
}

const fn norm(norm: spec::Norm) -> NormOp {
    match norm {
        spec::Norm::LayerNorm { eps, .. } => NormOp::Layer { eps },
        spec::Norm::RmsNorm { eps, plus_one } => NormOp::Rms { eps, plus_one },
    }
}

/// In the order in which `steps` names them.
fn linears(layer: &LayerSpec, hidden: usize) -> Vec<LinearPlan> {
    let (query, kv) = layer.attention.widths();
    let spec::Ffn { intermediate, .. } = layer.ffn;
    let linear = |role, outputs: &[usize], inputs| LinearPlan { role, outputs: outputs.to_vec(), inputs };
    vec![
        linear(LinearRole::Qkv, &[query, kv, kv], hidden),
        linear(LinearRole::AttentionOutput, &[hidden], query),
        linear(LinearRole::FfnUp, &[intermediate], hidden),
        linear(LinearRole::FfnDown, &[hidden], intermediate),
    ]
}

fn steps(layer: &LayerSpec) -> Vec<Step> {
    use Buffer::{Context, Hidden, Intermediate, Qkv};
    let spec::Ffn { activation, .. } = layer.ffn;
    let identity = Epilogue::Activate(cpu::Activation::Identity);
    let activate = Epilogue::Activate(function(activation));
    let linear = |linear, from, epilogue, to| Step::Linear { linear, from, epilogue, to };
    let norm = |norm| Step::Norm { norm, buffer: Hidden };
    vec![
        linear(0, Hidden, identity, Qkv),
        attention(layer),
        linear(1, Context, Epilogue::Add, Hidden),
        norm(0),
        linear(2, Hidden, activate, Intermediate),
        linear(3, Intermediate, Epilogue::Add, Hidden),
        norm(1),
    ]
}

fn attention(layer: &LayerSpec) -> Step {
    let spec::Attention { heads, kv_heads, head_dim, .. } = layer.attention;
    let (query, kv) = layer.attention.widths();
    let scale = layer.attention.score_scale();
    Step::Attention {
        shape: AttentionShape { heads, kv_heads, head_dim, scale, mask: cpu::Mask::Bidirectional },
        columns: [0, query, query + kv],
        from: Buffer::Qkv,
        to: Buffer::Context,
    }
}

impl LayerPlan {
    /// Which buffers the steps write, and how wide.
    fn writes(&self) -> impl Iterator<Item = (Buffer, usize)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Linear { linear, to, .. } => Some((*to, self.linears[*linear].outputs())),
            Step::Attention { shape, to, .. } => Some((*to, shape.heads * shape.head_dim)),
            Step::Norm { .. } => None,
        })
    }
}

pub(super) const fn function(activation: spec::Activation) -> cpu::Activation {
    match activation {
        spec::Activation::GeluErf => cpu::Activation::GeluErf,
        spec::Activation::GeluTanh => cpu::Activation::GeluTanh,
        spec::Activation::Silu => cpu::Activation::Silu,
        spec::Activation::Relu => cpu::Activation::Relu,
        spec::Activation::Tanh => cpu::Activation::Tanh,
        spec::Activation::Identity => cpu::Activation::Identity,
    }
}
