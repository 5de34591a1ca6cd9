//! The only `match` over a spec's axes.

use super::{
    BiasPlan, Buffer, EmbedPlan, HeadPlan, LayerPlan, LinearPlan, LinearRole, NormPlan, NormRole, Plan,
    PlanError, Step, layout,
};
use crate::{
    cpu::{self, AttentionShape, CpuIsa, Epilogue, HEAD_DIM_MAX},
    dtype::{Dtype, DtypePolicy},
    spec::{self, EncoderSpec, LayerSpec, NormPlacement, Position, PositionBias, QkvLayout},
};

impl Plan {
    /// Plans a valid spec for a CPU that runs `isa`.
    ///
    /// # Errors
    /// What the device cannot do.
    pub fn for_cpu(spec: &EncoderSpec, isa: CpuIsa, policy: DtypePolicy) -> Result<Self, PlanError> {
        let weights = Self::dtype_on(isa, policy)?;
        let layers = (0..spec.layer_count()).map(|index| layer(spec.layer(index), spec.hidden));
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

fn embed(spec: &EncoderSpec) -> EmbedPlan {
    let Position::Learned { rows, offset } = spec.position;
    let spec::Norm::LayerNorm { eps: norm_eps } = spec.embeddings.norm;
    EmbedPlan {
        vocab: spec.embeddings.vocab,
        positions: rows - offset,
        positions_skipped: offset,
        token_types: spec.embeddings.token_types,
        norm_eps,
        width: spec.embeddings.width,
        projects: spec.embeddings.width != spec.hidden,
    }
}

fn position_bias(spec: &EncoderSpec) -> Option<BiasPlan> {
    let PositionBias::Buckets { buckets, distance_max } = spec.position_bias?;
    let heads = spec.layer(0).attention.heads;
    Some(BiasPlan { buckets, heads, distance_max, tokens_max: spec.position.tokens_max() })
}

fn layer(layer: &LayerSpec, hidden: usize) -> Result<LayerPlan, PlanError> {
    let head_dim = layer.attention.head_dim;
    if head_dim > HEAD_DIM_MAX || !head_dim.is_multiple_of(2) {
        return Err(PlanError::HeadDim { head_dim, max: HEAD_DIM_MAX });
    }
    let spec::Norm::LayerNorm { eps } = layer.norm;
    let norms = vec![NormPlan { role: NormRole::Attention, eps }, NormPlan { role: NormRole::Ffn, eps }];
    Ok(LayerPlan { linears: linears(layer, hidden), norms, steps: steps(layer) })
}

/// In the order in which `steps` names them.
fn linears(layer: &LayerSpec, hidden: usize) -> Vec<LinearPlan> {
    let spec::Attention { heads, kv_heads, head_dim, qkv: QkvLayout::Split, .. } = layer.attention;
    let (query, kv) = (heads * head_dim, kv_heads * head_dim);
    let spec::Ffn::Mlp { intermediate, .. } = layer.ffn;
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
    let spec::Ffn::Mlp { activation, .. } = layer.ffn;
    let identity = Epilogue::Activate(cpu::Activation::Identity);
    let activate = Epilogue::Activate(function(activation));
    let linear = |linear, from, epilogue, to| Step::Linear { linear, from, epilogue, to };
    let norm = |norm| Step::Norm { norm, buffer: Hidden };
    match layer.placement {
        NormPlacement::Post => vec![
            linear(0, Hidden, identity, Qkv),
            attention(layer),
            linear(1, Context, Epilogue::Add, Hidden),
            norm(0),
            linear(2, Hidden, activate, Intermediate),
            linear(3, Intermediate, Epilogue::Add, Hidden),
            norm(1),
        ],
    }
}

fn attention(layer: &LayerSpec) -> Step {
    let spec::Attention { heads, kv_heads, head_dim, mask, .. } = layer.attention;
    let (query, kv) = (heads * head_dim, kv_heads * head_dim);
    let mask = match mask {
        spec::Mask::Bidirectional => cpu::Mask::Bidirectional,
    };
    let scale = (head_dim as f32).sqrt().recip();
    Step::Attention {
        shape: AttentionShape { heads, kv_heads, head_dim, scale, mask },
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
