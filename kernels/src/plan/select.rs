//! The only reader of a spec's axes: those of the whole encoder; `layer` has those of one block.

use super::{
    BiasKind, BiasPlan, Buffer, DisentangledPlan, EmbedPlan, HeadLayout, HeadPlan, LayerPlan, NormOp, Plan,
    PlanError, RopePlan, Target, layout,
};
use crate::{
    cpu::{self, CpuIsa},
    cuda::{Distance, KernelError},
    dtype::{Dtype, DtypePolicy},
    spec::{self, Disentangled, EncoderSpec, LayerSpec, NormPlacement, Position, PositionBias},
};

impl Plan {
    /// Plans a valid spec for a CPU that runs `isa`.
    ///
    /// # Errors
    /// What the device cannot do.
    pub fn for_cpu(spec: &EncoderSpec, isa: CpuIsa, policy: DtypePolicy) -> Result<Self, PlanError> {
        let weights = Self::dtype_on(isa, policy)?;
        Self::of(spec, Target::Cpu(isa), weights, isa.activation_dtype(weights))
    }

    /// The plan for one device, its formats decided.
    pub(super) fn of(
        spec: &EncoderSpec,
        target: Target,
        weights: Dtype,
        activations: Dtype,
    ) -> Result<Self, PlanError> {
        let (ropes, ropes_of_layers) = ropes(spec);
        let layers = spec.each_layer().zip(ropes_of_layers);
        let layers = layers.map(|(layer, rope)| {
            let heads = match target {
                Target::Cpu(_) => HeadLayout::for_cpu(&layer.attention),
                Target::Cuda => {
                    let by_distance = spec.disentangled.is_none().then(|| distance(spec.position_bias));
                    HeadLayout::for_cuda(&layer.attention, by_distance)
                }
            };
            Ok(LayerPlan::new(layer, spec, rope, heads?))
        });
        let layers = layers.collect::<Result<Vec<_>, PlanError>>()?;
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
        let starts = layout::starts(&layers, &widths);
        Ok(Self {
            target,
            weights,
            activations,
            embed,
            position_bias: position_bias(spec),
            disentangled: disentangled(spec),
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

fn disentangled(spec: &EncoderSpec) -> Option<DisentangledPlan> {
    let Disentangled { span, distance_max, norm: of_table, shares_projections, .. } = spec.disentangled?;
    let (tokens_max, norm) = (spec.position.tokens_max(), of_table.map(norm));
    Some(DisentangledPlan { span, distance_max, tokens_max, norm, shares_projections })
}

/// What attention adds by distance, as CUDA's kernels know it.
pub(super) const fn distance(bias: Option<PositionBias>) -> Distance {
    match bias {
        None => Distance::None,
        Some(PositionBias::Alibi) => Distance::Alibi,
        Some(PositionBias::Buckets { .. }) => Distance::Relative,
    }
}

/// The format of weights and activations on CUDA devices. Post-norm encoders have small activations, of which f16 keeps eight
/// times as much as bf16; in a stream that no norm holds together, layer after layer adds up, in published models beyond what
/// f16 can hold.
pub(super) fn cuda_dtype(spec: &EncoderSpec, policy: DtypePolicy) -> Result<Dtype, KernelError> {
    let is_post = spec.each_layer().all(|layer| layer.placement == NormPlacement::Post);
    match policy {
        DtypePolicy::Auto if is_post => Ok(Dtype::F16),
        DtypePolicy::Auto => Ok(Dtype::Bf16),
        DtypePolicy::Exact(dtype @ (Dtype::F16 | Dtype::Bf16)) => Ok(dtype),
        DtypePolicy::Exact(dtype) => Err(KernelError::Dtype(dtype)),
    }
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
