//! The only reader of a spec's axes: those of the whole encoder; `layer` has those of one block.

use super::{
    BiasKind, BiasPlan, Buffer, EmbedPlan, HeadPlan, LayerPlan, NormOp, Plan, PlanError, RopePlan, layout,
};
use crate::{
    cpu::{self, CpuIsa},
    dtype::{Dtype, DtypePolicy},
    spec::{self, EncoderSpec, LayerSpec, Position, PositionBias},
};

impl Plan {
    /// Plans a valid spec for a CPU that runs `isa`.
    ///
    /// # Errors
    /// What the device cannot do.
    pub fn for_cpu(spec: &EncoderSpec, isa: CpuIsa, policy: DtypePolicy) -> Result<Self, PlanError> {
        let weights = Self::dtype_on(isa, policy)?;
        let (ropes, ropes_of_layers) = ropes(spec);
        let layers = spec.each_layer().zip(ropes_of_layers);
        let layers = layers.map(|(layer, rope)| LayerPlan::new(layer, spec.hidden, rope));
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
            sight: spec.sight(),
            ropes,
            layers,
            final_norm: spec.final_norm.map(norm),
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
    let position_rows = match spec.position {
        Position::Learned { rows, offset } => Some(offset..rows),
        Position::InAttention { .. } => None,
    };
    EmbedPlan {
        vocab: spec.embeddings.vocab,
        positions: spec.position.tokens_max(),
        position_rows,
        token_types: spec.embeddings.token_types,
        scale: spec.embeddings.scale,
        norm: spec.embeddings.norm.map(norm),
        width: spec.embeddings.width,
        projects: spec.embeddings.width != spec.hidden,
    }
}

fn position_bias(spec: &EncoderSpec) -> Option<BiasPlan> {
    let kind = match spec.position_bias? {
        PositionBias::Buckets { buckets, distance_max } => BiasKind::Buckets { buckets, distance_max },
        PositionBias::Alibi => BiasKind::Alibi,
    };
    let heads = spec.layer(0).attention.heads;
    Some(BiasPlan { kind, heads, tokens_max: spec.position.tokens_max() })
}

/// The tables of all layers, each once, and the one that a layer looks up.
fn ropes(spec: &EncoderSpec) -> (Vec<RopePlan>, Vec<Option<usize>>) {
    let mut tables = Vec::new();
    let mut table_of = |layer: &LayerSpec| {
        let plan = RopePlan::new(&layer.attention.rope?, spec.position.tokens_max());
        Some(tables.iter().position(|known| *known == plan).unwrap_or_else(|| {
            tables.push(plan);
            tables.len() - 1
        }))
    };
    let of_layers = spec.each_layer().map(&mut table_of).collect();
    (tables, of_layers)
}

pub(super) const fn norm(norm: spec::Norm) -> NormOp {
    match norm {
        spec::Norm::LayerNorm { eps, .. } => NormOp::Layer { eps },
        spec::Norm::RmsNorm { eps, plus_one } => NormOp::Rms { eps, plus_one },
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
