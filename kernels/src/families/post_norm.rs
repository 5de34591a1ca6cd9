//! What BERT and its descendants share: post-norm blocks of LayerNorm, attention and a two-layer perceptron, biases
//! everywhere, learned positions.

use super::FamilyError;
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
        let ((_, hidden), (_, heads)) = (self.hidden, self.heads);
        multiple(self.hidden, self.heads)?;
        let norm = Some(Norm::LayerNorm { eps: self.eps, bias: true });
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
        let placement = NormPlacement::Post;
        let layer = LayerSpec { placement, attention_norm: norm, attention, ffn_norm: norm, ffn };
        Ok(EncoderSpec {
            hidden,
            embeddings: Embeddings { vocab: self.vocab, width: hidden, token_types, scale: None, norm },
            position,
            position_bias: None,
            layers: LayerPattern::Uniform { count: self.layers, layer },
            final_norm: None,
            head,
        })
    }
}

/// What a configuration can ask for beyond what is covered.
pub(super) fn refuse<T>(
    field: &'static str,
    value: impl ToString,
    covered: &'static str,
) -> Result<T, FamilyError> {
    Err(FamilyError::Value { field, value: value.to_string(), covered })
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
