//! What BERT and its descendants share: post-norm blocks of LayerNorm, attention and a two-layer perceptron, biases
//! everywhere, learned positions.

use super::{FamilyError, bert, names::Naming};
use crate::spec::{
    Activation, Attention, Embeddings, EncoderSpec, Ffn, Head, LayerPattern, LayerSpec, Mask, Norm,
    NormPlacement, Position, QkvLayout, multiple,
};

/// The sizes of one, with the names of the fields that errors speak of.
pub(super) struct PostNorm<'a> {
    pub(super) vocab: usize,
    pub(super) hidden: (&'static str, usize),
    pub(super) layers: usize,
    pub(super) heads: (&'static str, usize),
    pub(super) intermediate: usize,
    pub(super) activation: (&'static str, &'a str),
    pub(super) eps: f32,
}

impl PostNorm<'_> {
    /// The description, with tables as wide as the residual stream and no position bias.
    pub(super) fn spec(
        &self,
        position: Position,
        token_types: Option<usize>,
        head: Head,
    ) -> Result<EncoderSpec, FamilyError> {
        Ok(self.stack(self.layer()?, position, token_types, head))
    }

    /// BERT's block.
    pub(super) fn layer(&self) -> Result<LayerSpec, FamilyError> {
        let ((_, hidden), (_, heads)) = (self.hidden, self.heads);
        multiple(self.hidden, self.heads)?;
        let attention = Attention {
            heads,
            kv_heads: heads,
            head_dim: hidden / heads,
            scale: None,
            qkv: QkvLayout::Split,
            qkv_bias: true,
            output_bias: true,
            qk_norm: None,
            rope: None,
            mask: Mask::Bidirectional,
        };
        let (field, name) = self.activation;
        let ffn = Ffn {
            intermediate: self.intermediate,
            activation: activation(field, name)?,
            gate: None,
            up_bias: true,
            down_bias: true,
        };
        let (placement, norm) = (NormPlacement::Post, Some(self.norm()));
        Ok(LayerSpec { placement, attention_norm: norm, attention, ffn_norm: norm, ffn })
    }

    /// As many of these layers as there are.
    pub(super) fn stack(
        &self,
        layer: LayerSpec,
        position: Position,
        token_types: Option<usize>,
        head: Head,
    ) -> EncoderSpec {
        let (width, norm) = (self.hidden.1, Some(self.norm()));
        EncoderSpec {
            hidden: width,
            embeddings: Embeddings { vocab: self.vocab, width, token_types, scale: None, norm },
            position,
            position_bias: None,
            disentangled: None,
            layers: LayerPattern::Uniform { count: self.layers, layer },
            final_norm: None,
            head,
        }
    }

    const fn norm(&self) -> Norm {
        Norm::LayerNorm { eps: self.eps, bias: true }
    }
}

/// What transformers calls post-norm blocks with rotary positions, whatever they were called when they were published.
pub(super) const ROTARY: Naming = Naming {
    stack: "layers.",
    layer: "layers",
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    attention_output: "self_attn.o_proj",
    attention_norm: "post_attention_layernorm",
    ffn_gate: "mlp.gate_proj",
    ffn_up: "mlp.up_proj",
    ffn_down: "mlp.down_proj",
    ffn_norm: "post_mlp_layernorm",
    ..bert::NAMING
};

/// What a configuration can ask for beyond what is covered.
pub(super) fn refuse<T>(
    field: &'static str,
    value: impl ToString,
    covered: &'static str,
) -> Result<T, FamilyError> {
    Err(FamilyError::Value { field, value: value.to_string(), covered })
}

/// What a configuration says by a value that must be `wanted`.
pub(super) fn refuse_unless<T: PartialEq + ToString>(
    field: &'static str,
    value: T,
    wanted: T,
    covered: &'static str,
) -> Result<(), FamilyError> {
    if value == wanted { Ok(()) } else { refuse(field, value, covered) }
}

/// A number that configurations tell under one of two names, or under both.
pub(super) fn either<T: PartialEq>(
    (one, a): (&str, Option<T>),
    (other, b): (&str, Option<T>),
) -> Result<T, FamilyError> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => {
            Err(FamilyError::Field { reason: format!("`{one}` and `{other}` contradict each other") })
        }
        (Some(value), _) | (None, Some(value)) => Ok(value),
        (None, None) => Err(FamilyError::Field { reason: format!("missing field `{other}`") }),
    }
}

/// The names of `transformers/activations.py`, of which several mean the same function.
pub(super) fn activation(field: &'static str, name: &str) -> Result<Activation, FamilyError> {
    match name {
        "gelu" | "gelu_python" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate" | "gelu_python_tanh" => {
            Ok(Activation::GeluTanh)
        }
        "silu" | "swish" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        _ => refuse(
            field,
            format!("{name:?}"),
            "gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, gelu_accurate, silu, swish, relu",
        ),
    }
}
