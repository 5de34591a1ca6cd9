//! ModernBERT (Warner et al. 2024) and Ettin: norms before each block, rotary positions, a gated network, and attention that
//! is local in two layers of three.
//!
//! Fields and names: `transformers/models/modernbert/{configuration,modeling}_modernbert.py`.

use serde::Deserialize;

use super::{
    Family, FamilyError,
    heads::{HeadClass, HeadKind, HeadLayer, VocabularyNaming},
    layer_types::{local_layers, period},
    names::Naming,
    post_norm::{activation, refuse_unless},
    rope::LayerRopes,
};
use crate::spec::{
    Activation, Attention, Embeddings, EncoderSpec, Ffn, Gate, Head, LayerPattern, LayerSpec, Mask, Norm,
    NormPlacement, Pooling, Position, QkvLayout, Rope, multiple,
};

pub(super) const FAMILY: Family = Family {
    model_types: &["modernbert"],
    architectures: &["ModernBertModel"],
    own_code: &[],
    spec: |config, head| super::from_value::<ModernBertConfig>(config)?.spec(head),
    naming: &Naming {
        prefixes: &["", "model."],
        token: "embeddings.tok_embeddings.weight",
        embedding_norm: "embeddings.norm",
        final_norm: "final_norm",
        stack: "layers.",
        layer: "layers",
        qkv: "attn.Wqkv",
        attention_output: "attn.Wo",
        attention_norm: "attn_norm",
        ffn_up: "mlp.Wi",
        ffn_down: "mlp.Wo",
        ffn_norm: "mlp_norm",
        ..Naming::NONE
    },
    heads: &[
        HeadClass {
            architectures: &["ModernBertForSequenceClassification"],
            kind: HeadKind::Sequence(Pooling::Cls, CLASSIFIER),
        },
        HeadClass { architectures: &["ModernBertForTokenClassification"], kind: HeadKind::Token(CLASSIFIER) },
        HeadClass {
            architectures: &["ModernBertForMaskedLM"],
            kind: HeadKind::Vocabulary(VocabularyNaming {
                dense: "head.dense",
                dense_bias: false,
                norm: "head.norm",
                activation: Some(Activation::GeluErf),
                table: "decoder.weight",
                bias: "decoder.bias",
            }),
        },
    ],
};

/// Of sequences and of tokens alike.
const CLASSIFIER: &[HeadLayer] = &[
    HeadLayer::hidden_without_bias("head.dense", Activation::GeluErf),
    HeadLayer::norm("head.norm"),
    HeadLayer::labels("classifier"),
];

#[derive(Deserialize)]
struct ModernBertConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    #[serde(default = "gelu")]
    hidden_activation: String,
    #[serde(default = "eps")]
    norm_eps: f32,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    /// Both sides together.
    #[serde(default = "local_attention")]
    local_attention: usize,
    /// Written until transformers 4; 5 lists every layer's type.
    #[serde(default = "three")]
    global_attn_every_n_layers: usize,
    #[serde(default)]
    layer_types: Option<Vec<String>>,
    /// Written until transformers 4, like the next; 5 has `rope_parameters`.
    #[serde(default = "global_theta")]
    global_rope_theta: f64,
    /// The global one where it is null.
    #[serde(default = "local_theta")]
    local_rope_theta: Option<f64>,
    #[serde(default)]
    rope_scaling: Option<serde_json::Value>,
    #[serde(default)]
    rope_parameters: LayerRopes,
}

fn gelu() -> String {
    "gelu".into()
}

const fn eps() -> f32 {
    1e-5
}

const fn local_attention() -> usize {
    128
}

const fn three() -> usize {
    3
}

const fn global_theta() -> f64 {
    160_000.0
}

#[expect(clippy::unnecessary_wraps, reason = "the default of a field that may be null")]
const fn local_theta() -> Option<f64> {
    Some(10_000.0)
}

impl ModernBertConfig {
    fn spec(&self, head: Head) -> Result<EncoderSpec, FamilyError> {
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        multiple(("hidden_size", hidden), ("num_attention_heads", heads))?;
        refuse_unless("rope_scaling", self.rope_scaling.is_some(), false, "null")?;
        let head_dim = hidden / heads;
        let local_theta = self.local_rope_theta.unwrap_or(self.global_rope_theta);
        let global = self.rope_parameters.full_attention.rope(self.global_rope_theta, head_dim)?;
        let local = self.rope_parameters.sliding_attention.rope(local_theta, head_dim)?;
        let every = period("global_attn_every_n_layers", self.global_attn_every_n_layers)?;
        let types = self.layer_types.as_deref();
        let is_local = local_layers(types, self.num_hidden_layers, |index| !index.is_multiple_of(every))?;
        let side = self.local_attention / 2;
        let window = Mask::Window { left: side, right: side };
        let norm = Norm::LayerNorm { eps: self.norm_eps, bias: self.norm_bias };
        let ffn = Ffn {
            intermediate: self.intermediate_size,
            activation: activation("hidden_activation", &self.hidden_activation)?,
            gate: Some(Gate::GateUp),
            up_bias: self.mlp_bias,
            down_bias: self.mlp_bias,
        };
        let layers = LayerPattern::listed(self.num_hidden_layers, |index| LayerSpec {
            placement: NormPlacement::Pre,
            // The embeddings' own norm stands before the first layer.
            attention_norm: (index > 0).then_some(norm),
            attention: match is_local(index) {
                true => self.attention(head_dim, local, window),
                false => self.attention(head_dim, global, Mask::Bidirectional),
            },
            ffn_norm: Some(norm),
            ffn,
        })?;
        let (vocab, norm) = (self.vocab_size, Some(norm));
        Ok(EncoderSpec {
            hidden,
            embeddings: Embeddings { vocab, width: hidden, token_types: None, scale: None, norm },
            position: Position::InAttention { tokens_max: self.max_position_embeddings },
            position_bias: None,
            disentangled: None,
            layers,
            final_norm: norm,
            head,
        })
    }

    fn attention(&self, head_dim: usize, rope: Rope, mask: Mask) -> Attention {
        Attention {
            heads: self.num_attention_heads,
            kv_heads: self.num_attention_heads,
            head_dim,
            scale: None,
            qkv: QkvLayout::Fused,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            qk_norm: None,
            rope: Some(rope),
            mask,
        }
    }
}
