//! One block: which products it takes, and in which order its steps go.

use super::{
    Buffer, HeadLayout, LayerPlan, LinearPlan, LinearRole, NormPlan, NormRole, Step,
    select::{function, norm},
};
use crate::{
    cpu::{self, AttentionShape, Epilogue},
    spec::{self, EncoderSpec, LayerSpec, NormPlacement},
};

const IDENTITY: Epilogue = Epilogue::Activate(cpu::Activation::Identity);

impl LayerPlan {
    /// Plans one block whose rotation, where it has one, is in table `rope`.
    pub(super) fn new(
        layer: &LayerSpec,
        encoder: &EncoderSpec,
        rope: Option<usize>,
        heads: HeadLayout,
    ) -> Self {
        let plan = Self { heads, linears: Vec::new(), norms: Vec::new(), steps: Vec::new() };
        let mut layer = Selection { spec: layer, hidden: encoder.hidden, plan };
        layer.attention(rope, encoder.disentangled.is_some());
        layer.ffn();
        layer.plan
    }

    /// Which buffers the steps write, and how wide.
    pub(super) fn writes(&self) -> impl Iterator<Item = (Buffer, usize)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Linear { linear, to, .. } => Some((*to, self.linears[*linear].outputs())),
            Step::Attention { shape, to, .. } | Step::Disentangled { shape, to, .. } => {
                Some((*to, shape.heads * shape.head_dim))
            }
            Step::Norm { norm, to, .. } => Some((*to, self.norms[*norm].width)),
            Step::Turn { .. } => None,
        })
    }
}

/// A block on its way from its description to its steps.
struct Selection<'a> {
    spec: &'a LayerSpec,
    hidden: usize,
    plan: LayerPlan,
}

impl Selection<'_> {
    fn attention(&mut self, rope: Option<usize>, disentangled: bool) {
        let spec::Attention { heads, kv_heads, qk_norm, mask, .. } = self.spec.attention;
        let head_dim = self.plan.heads.width;
        let (query, kv) = (heads * head_dim, kv_heads * head_dim);
        let mask = match mask {
            spec::Mask::Bidirectional => cpu::Mask::Bidirectional,
            spec::Mask::Causal => cpu::Mask::Causal,
            spec::Mask::Window { left, right } => cpu::Mask::Window { left, right },
        };
        let shape =
            AttentionShape { heads, kv_heads, head_dim, scale: self.spec.attention.score_scale(), mask };
        let from = self.before(NormRole::Attention, self.spec.attention_norm);
        let qkv = LinearPlan {
            role: LinearRole::Qkv,
            outputs: vec![query, kv, kv],
            inputs: self.hidden,
            gated: false,
        };
        self.linear(qkv, from, IDENTITY, Buffer::Qkv);
        let norms =
            qk_norm.map(|of| [NormRole::Query, NormRole::Key].map(|role| self.norm(role, head_dim, of)));
        if norms.is_some() || rope.is_some() {
            self.plan.steps.push(Step::Turn { shape, norms, rope, buffer: Buffer::Qkv });
        }
        let columns = [0, query, query + kv];
        let (from, to) = (Buffer::Qkv, Buffer::Context);
        self.plan.steps.push(match disentangled {
            true => Step::Disentangled { shape, columns, from, to },
            false => Step::Attention { shape, columns, from, to },
        });
        let output = LinearPlan {
            role: LinearRole::AttentionOutput,
            outputs: vec![self.hidden],
            inputs: query,
            gated: false,
        };
        let roles = [NormRole::Attention, NormRole::AttentionPost];
        self.after(output, Buffer::Context, roles, self.spec.attention_norm);
    }

    fn ffn(&mut self) {
        let spec::Ffn { intermediate, activation, gate, .. } = self.spec.ffn;
        let gated = gate.is_some();
        let activation = function(activation);
        let (outputs, epilogue) = match gated {
            true => (vec![intermediate; 2], Epilogue::Gate(activation)),
            false => (vec![intermediate], Epilogue::Activate(activation)),
        };
        let from = self.before(NormRole::Ffn, self.spec.ffn_norm);
        let up = LinearPlan { role: LinearRole::FfnUp, outputs, inputs: self.hidden, gated };
        self.linear(up, from, epilogue, Buffer::Intermediate);
        let down = LinearPlan {
            role: LinearRole::FfnDown,
            outputs: vec![self.hidden],
            inputs: intermediate,
            gated: false,
        };
        self.after(down, Buffer::Intermediate, [NormRole::Ffn, NormRole::FfnPost], self.spec.ffn_norm);
    }

    /// The norm before a sublayer, and where that finds its input.
    fn before(&mut self, role: NormRole, of: Option<spec::Norm>) -> Buffer {
        match (self.spec.placement, of) {
            (NormPlacement::Post, _) | (_, None) => Buffer::Hidden,
            (NormPlacement::Pre | NormPlacement::Sandwich, Some(of)) => {
                let norm = self.norm(role, self.hidden, of);
                let (from, to) = (Buffer::Hidden, Buffer::Normed);
                self.plan.steps.push(Step::Norm { norm, from, adds: false, to });
                to
            }
        }
    }

    /// The last product of a sublayer, which the residual stream takes up, with the norm that follows it: of the stream, or
    /// of the product.
    fn after(
        &mut self,
        linear: LinearPlan,
        from: Buffer,
        [stream, product]: [NormRole; 2],
        of: Option<spec::Norm>,
    ) {
        match (self.spec.placement, of) {
            (NormPlacement::Pre, _) | (_, None) => self.linear(linear, from, Epilogue::Add, Buffer::Hidden),
            (NormPlacement::Post, Some(of)) => {
                self.linear(linear, from, Epilogue::Add, Buffer::Hidden);
                let norm = self.norm(stream, self.hidden, of);
                let (from, to) = (Buffer::Hidden, Buffer::Hidden);
                self.plan.steps.push(Step::Norm { norm, from, adds: false, to });
            }
            (NormPlacement::Sandwich, Some(of)) => {
                self.linear(linear, from, IDENTITY, Buffer::Normed);
                let norm = self.norm(product, self.hidden, of);
                let (from, to) = (Buffer::Normed, Buffer::Hidden);
                self.plan.steps.push(Step::Norm { norm, from, adds: true, to });
            }
        }
    }

    fn linear(&mut self, linear: LinearPlan, from: Buffer, epilogue: Epilogue, to: Buffer) {
        self.plan.steps.push(Step::Linear { linear: self.plan.linears.len(), from, epilogue, to });
        self.plan.linears.push(linear);
    }

    fn norm(&mut self, role: NormRole, width: usize, of: spec::Norm) -> usize {
        self.plan.norms.push(NormPlan { role, width, op: norm(of) });
        self.plan.norms.len() - 1
    }
}
