//! The printed form of a plan: what snapshots compare.

use std::fmt;

use super::{LayerPlan, Plan, Step};
use crate::cpu::Epilogue;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { isa, weights, activations, embed, layers, head, widths, starts } = self;
        writeln!(f, "plan: cpu {isa}, weights {weights}, activations {activations}, sums f32")?;
        let dims = self.dims();
        write!(f, "  embed_norm: [{}, {dims}]", embed.vocab)?;
        writeln!(f, " + [{}, {dims}] + [{}, {dims}]", embed.positions, embed.token_types)?;
        for (count, layer) in runs(layers) {
            writeln!(f, "  {count} x")?;
            layer.steps.iter().try_for_each(|step| layer.write_step(step, f))?;
        }
        let l2 = if head.l2 { " -> l2_normalise" } else { "" };
        writeln!(f, "  pool {:?}{l2}", head.pooling)?;
        let bytes = self.workspace_bytes(1);
        writeln!(f, "  buffers per token: {widths:?} at {starts:?} x {activations} = {bytes} bytes")
    }
}

/// Equal neighbours, counted.
fn runs(layers: &[LayerPlan]) -> impl Iterator<Item = (usize, &LayerPlan)> {
    layers.chunk_by(|a, b| a == b).map(|run| (run.len(), &run[0]))
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
                let norm = self.norms[*norm];
                writeln!(f, "    {buffer:?} = layer_norm {:?} eps {:e}", norm.role, norm.eps)
            }
        }
    }
}
