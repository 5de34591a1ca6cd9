//! What Llama and its descendants share: norms of root mean squares before each block, grouped queries, rotary positions, a
//! gated network, and a mask that usually looks back only.
//!
//! Fields and names: `transformers/models/llama/{configuration,modeling}_llama.py`, and the many that copy them.

use serde::Deserialize;

use super::{
    FamilyError, layer_types::local_layers, names::Naming, post_norm::activation, rope::RopeParameters,
};
use crate::spec::{
    Attention, Embeddings, EncoderSpec, Ffn, Gate, Head, LayerPattern, LayerSpec, Mask, Norm, NormPlacement,
    Position, QkvLayout, multiple,
};

/// The stack stands at the root, or below `model.` where the language model's head was saved with it.
pub(super) const NAMING: Naming = Naming {
    prefixes: &["", "model."],
    token: "embed_tokens.weight",
    final_norm: "norm",
    stack: "layers.",
    // Written until 2023.
    made: &[".rotary_emb.inv_freq"],
    layer: "layers",
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    query_norm: "self_attn.q_norm",
    key_norm: "self_attn.k_norm",
    attention_output: "self_attn.o_proj",
    attention_norm: "input_layernorm",
    ffn_gate: "mlp.gate_proj",
    ffn_up: "mlp.up_proj",
    ffn_down: "mlp.down_proj",
    ffn_norm: "post_attention_layernorm",
    ..Naming::NONE
};

/// Fields that all of them have, with the defaults of Llama.
#[derive(Deserialize)]
pub(super) struct DecoderConfig {
    vocab_size: usize,
    pub(super) hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    /// As many as query heads where it is null or not there.
    num_key_value_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default = "eps")]
    pub(super) rms_norm_eps: f32,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    /// Written until transformers 4, like the next; 5 has `rope_parameters`.
    #[serde(default = "theta")]
    rope_theta: f64,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
    partial_rotary_factor: Option<f64>,
    /// Not written where it is true; transformers looks both ways for any of them where it is false.
    #[serde(default = "yes")]
    is_causal: bool,
    layer_types: Option<Vec<String>>,
}

fn silu() -> String {
    "silu".into()
}

const fn eps() -> f32 {
    1e-6
}

const fn theta() -> f64 {
    10_000.0
}

const fn yes() -> bool {
    true
}

impl DecoderConfig {
    /// One layer, which sees everything that is before it, or all where the configuration says so.
    pub(super) fn layer(&self) -> Result<LayerSpec, FamilyError> {
        let mut rope =
            self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()).cloned().unwrap_or_default();
        rope.partial_rotary_factor = rope.partial_rotary_factor.or(self.partial_rotary_factor);
        let heads = self.num_attention_heads;
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            None => {
                multiple(("hidden_size", self.hidden_size), ("num_attention_heads", heads))?;
                self.hidden_size / heads
            }
        };
        let norm = Some(Norm::RmsNorm { eps: self.rms_norm_eps, plus_one: false });
        let attention = Attention {
            heads,
            kv_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim,
            scale: None,
            qkv: QkvLayout::Split,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            qk_norm: None,
            rope: Some(rope.rope(self.rope_theta, head_dim)?),
            mask: if self.is_causal { Mask::Causal } else { Mask::Bidirectional },
        };
        let ffn = Ffn {
            intermediate: self.intermediate_size,
            activation: activation("hidden_act", &self.hidden_act)?,
            gate: Some(Gate::Split),
            up_bias: self.mlp_bias,
            down_bias: self.mlp_bias,
        };
        let placement = NormPlacement::Pre;
        Ok(LayerSpec { placement, attention_norm: norm, attention, ffn_norm: norm, ffn })
    }

    /// `layer` with its mask narrowed to `tokens` where transformers does: the token itself is one of them, unless the
    /// window is to both sides.
    pub(super) fn windowed(&self, layer: &LayerSpec, tokens: usize) -> LayerSpec {
        let mask = match self.is_causal {
            true => Mask::Window { left: tokens.saturating_sub(1), right: 0 },
            false => Mask::Window { left: tokens, right: tokens },
        };
        LayerSpec { attention: Attention { mask, ..layer.attention }, ..layer.clone() }
    }

    /// Every layer the same.
    pub(super) fn uniform(&self, layer: LayerSpec, head: Head) -> EncoderSpec {
        self.stack(LayerPattern::Uniform { count: self.num_hidden_layers, layer }, head)
    }

    /// `local` where `layer_types` says so, or else `is_local`.
    pub(super) fn listed(
        &self,
        global: &LayerSpec,
        local: &LayerSpec,
        is_local: impl Fn(usize) -> bool,
        head: Head,
    ) -> Result<EncoderSpec, FamilyError> {
        let count = self.num_hidden_layers;
        let is_local = local_layers(self.layer_types.as_deref(), count, is_local)?;
        let layer = |index| if is_local(index) { local } else { global }.clone();
        Ok(self.stack(LayerPattern::listed(count, layer)?, head))
    }

    fn stack(&self, layers: LayerPattern, head: Head) -> EncoderSpec {
        let (vocab, width) = (self.vocab_size, self.hidden_size);
        EncoderSpec {
            hidden: width,
            embeddings: Embeddings { vocab, width, token_types: None, scale: None, norm: None },
            position: Position::InAttention { tokens_max: self.max_position_embeddings },
            position_bias: None,
            disentangled: None,
            layers,
            final_norm: Some(Norm::RmsNorm { eps: self.rms_norm_eps, plus_one: false }),
            head,
        }
    }
}
