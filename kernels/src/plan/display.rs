//! The printed form of a plan: what snapshots compare.

use std::fmt;

use super::{
    BiasKind, BiasPlan, Buffer, DisentangledPlan, EmbedPlan, LayerPlan, NormOp, NormPlan, Plan, Step, Target,
};
use crate::{cpu::Epilogue, spec::Kinds};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            target,
            weights,
            activations,
            embed,
            position_bias,
            disentangled,
            ropes,
            layers,
            final_norm,
            head,
            ..
        } = self;
        writeln!(f, "plan: {target}, weights {weights}, activations {activations}, sums f32")?;
        let EmbedPlan { vocab, position_rows, token_types, width, .. } = embed;
        write!(f, "  {}: [{vocab}, {width}]", if embed.norm.is_some() { "embed_norm" } else { "embed" })?;
        embed.scale.map_or(Ok(()), |scale| write!(f, " x {scale}"))?;
        position_rows.as_ref().map_or(Ok(()), |rows| write!(f, " + [{}, {width}]", rows.len()))?;
        token_types.map_or(Ok(()), |rows| write!(f, " + [{rows}, {width}]"))?;
        if embed.projects {
            write!(f, " -> linear {width} -> {}", self.hidden())?;
        }
        writeln!(f)?;
        if let Some(BiasPlan { kind, heads, tokens_max }) = position_bias {
            match kind {
                BiasKind::Buckets { buckets, distance_max } => {
                    write!(f, "  position_bias: [{buckets}, {heads}] up to distance {distance_max}")?;
                }
                BiasKind::Alibi => f.write_str("  position_bias: slopes")?,
            }
            writeln!(f, " -> [{heads}, {}]", 2 * tokens_max - 1)?;
        }
        if let Some(DisentangledPlan { span, distance_max, norm, .. }) = disentangled {
            write!(f, "  relative positions: [2 x {span}, {}] up to distance {distance_max}", self.hidden())?;
            norm.map_or(Ok(()), |norm| write!(f, " -> {norm}"))?;
            writeln!(f, " -> keys and queries of each layer, at load")?;
        }
        ropes.iter().enumerate().try_for_each(|(index, rope)| writeln!(f, "  rope {index}: {rope}"))?;
        for kind in Kinds::of(layers).0 {
            writeln!(f, "  {kind}")?;
            kind.layer.steps.iter().try_for_each(|step| kind.layer.write_step(step, f))?;
        }
        final_norm.map_or(Ok(()), |norm| writeln!(f, "  Hidden = {norm}"))?;
        write!(f, "{head}")?;
        let used = || Buffer::ALL.into_iter().filter(|buffer| self.widths[*buffer as usize] > 0);
        let [widths, starts] = [&self.widths, &self.starts]
            .map(|all| used().map(|buffer| all[buffer as usize]).collect::<Vec<_>>());
        let bytes = self.workspace_bytes(1);
        writeln!(f, "  buffers per token: {widths:?} at {starts:?} x {activations} = {bytes} bytes")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(isa) => write!(f, "cpu {isa}"),
            Self::Cuda => f.write_str("cuda"),
        }
    }
}

impl LayerPlan {
    fn write_step(&self, step: &Step, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match step {
            Step::Linear { linear, from, epilogue, to } => {
                let linear = &self.linears[*linear];
                let op = match epilogue {
                    Epilogue::Add => "+= linear".to_owned(),
                    Epilogue::Activate(activation) => format!("= linear, {activation:?}"),
                    Epilogue::Gate(activation) => format!("= linear, gate {activation:?}"),
                };
                let (role, inputs, outputs) = (linear.role, linear.inputs, linear.outputs());
                writeln!(f, "    {to:?} {op}: {role:?} {inputs} -> {outputs} of {from:?}")
            }
            Step::Attention { shape, columns, from, to }
            | Step::Disentangled { shape, columns, from, to } => {
                let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
                let kind = if matches!(step, Step::Disentangled { .. }) { "disentangled " } else { "" };
                write!(
                    f,
                    "    {to:?} = {kind}attention {:?} {heads}/{kv_heads} heads x {head_dim}",
                    shape.mask
                )?;
                writeln!(f, " of {from:?} at {columns:?}")
            }
            Step::Turn { norms, rope, buffer, .. } => {
                write!(f, "    {buffer:?}: queries and keys")?;
                norms.map_or(Ok(()), |[norm, _]| write!(f, " -> {}", self.norms[norm].op))?;
                rope.map_or(Ok(()), |rope| write!(f, " -> rope {rope}"))?;
                writeln!(f)
            }
            Step::Norm { norm, from, adds, to } => {
                let NormPlan { role, op, .. } = &self.norms[*norm];
                write!(
                    f,
                    "    {to:?} {}= {} {role:?} {}",
                    if *adds { "+" } else { "" },
                    op.name(),
                    op.eps()
                )?;
                if from == to { writeln!(f) } else { writeln!(f, " of {from:?}") }
            }
        }
    }
}

impl NormOp {
    const fn name(self) -> &'static str {
        match self {
            Self::Layer { .. } => "layer_norm",
            Self::Rms { .. } => "rms_norm",
        }
    }

    fn eps(self) -> String {
        let (Self::Layer { eps } | Self::Rms { eps, .. }) = self;
        format!("eps {eps:e}")
    }
}

impl fmt::Display for NormOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.eps())
    }
}
