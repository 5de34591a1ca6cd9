//! The printed form of a plan: what snapshots compare.

use std::fmt;

use super::{BiasPlan, EmbedPlan, LayerPlan, NormOp, NormPlan, Plan, Step};
use crate::{cpu::Epilogue, spec::Kinds};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { isa, weights, activations, embed, position_bias, layers, head, widths, starts } = self;
        writeln!(f, "plan: cpu {isa}, weights {weights}, activations {activations}, sums f32")?;
        let EmbedPlan { vocab, position_rows, token_types, width, .. } = embed;
        write!(f, "  embed_norm: [{vocab}, {width}]")?;
        position_rows.as_ref().map_or(Ok(()), |rows| write!(f, " + [{}, {width}]", rows.len()))?;
        token_types.map_or(Ok(()), |rows| write!(f, " + [{rows}, {width}]"))?;
        if embed.projects {
            write!(f, " -> linear {width} -> {}", self.hidden())?;
        }
        writeln!(f)?;
        if let Some(BiasPlan { buckets, heads, distance_max, tokens_max }) = position_bias {
            write!(f, "  position_bias: [{buckets}, {heads}] up to distance {distance_max}")?;
            writeln!(f, " -> [{heads}, {}]", 2 * tokens_max - 1)?;
        }
        for kind in Kinds::of(layers).0 {
            writeln!(f, "  {kind}")?;
            kind.layer.steps.iter().try_for_each(|step| kind.layer.write_step(step, f))?;
        }
        write!(f, "{head}")?;
        let bytes = self.workspace_bytes(1);
        writeln!(f, "  buffers per token: {widths:?} at {starts:?} x {activations} = {bytes} bytes")
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
                };
                let (role, inputs, outputs) = (linear.role, linear.inputs, linear.outputs());
                writeln!(f, "    {to:?} {op}: {role:?} {inputs} -> {outputs} of {from:?}")
            }
            Step::Attention { shape, columns, from, to } => {
                let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
                write!(f, "    {to:?} = attention {:?} {heads}/{kv_heads} heads x {head_dim}", shape.mask)?;
                writeln!(f, " of {from:?} at {columns:?}")
            }
            Step::Norm { norm, buffer } => {
                let NormPlan { role, op, .. } = self.norms[*norm];
                match op {
                    NormOp::Layer { eps } => writeln!(f, "    {buffer:?} = layer_norm {role:?} eps {eps:e}"),
                    NormOp::Rms { eps, .. } => writeln!(f, "    {buffer:?} = rms_norm {role:?} eps {eps:e}"),
                }
            }
        }
    }
}
