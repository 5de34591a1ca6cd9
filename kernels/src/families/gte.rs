//! GTE's second architecture (Zhang et al. 2024, "mGTE"): gte-multilingual, gte-*-en-v1.5, Stella and Snowflake's
//! arctic-embed-m-v2.0: BERT with rotary positions and a gated network.
//!
//! Fields and names: `configuration.py` and `modeling.py` of Alibaba-NLP/new-impl, and `transformers/models/gte/`, which
//! has other names for the same.

use serde::Deserialize;

use super::{
    Family, FamilyError, bert,
    heads::{HeadClass, HeadKind, POOLER_CLASSIFIER, TOKEN_CLASSIFIER, VocabularyNaming},
    names::Naming,
    post_norm::{PostNorm, ROTARY, refuse_unless},
    rope::RopeParameters,
};
use crate::spec::{EncoderSpec, Gate, Head, Position, QkvLayout};

pub(super) const PUBLISHED: Family = Family {
    model_types: &["new", "gte"],
    architectures: &["NewModel", "GteModel"],
    own_code: &[
        "modeling.NewModel",
        "modeling.NewForSequenceClassification",
        "modeling.NewForTokenClassification",
        "modeling.NewForMaskedLM",
        "modeling_hf_alibaba_nlp_gte.GteModel",
    ],
    spec: |config, head| super::from_value::<GteConfig>(config)?.spec(QkvLayout::Fused, Gate::UpGate, head),
    naming: &Naming {
        prefixes: &["", "new.", "gte."],
        qkv: "attention.qkv_proj",
        attention_output: "attention.o_proj",
        attention_norm: "attn_ln",
        ffn_up: "mlp.up_gate_proj",
        ffn_down: "mlp.down_proj",
        ffn_norm: "mlp_ln",
        ..bert::NAMING
    },
    heads: &[
        HeadClass {
            architectures: &["NewForSequenceClassification", "GteForSequenceClassification"],
            kind: POOLER_CLASSIFIER,
        },
        HeadClass {
            architectures: &["NewForTokenClassification", "GteForTokenClassification"],
            kind: TOKEN_CLASSIFIER,
        },
        HeadClass {
            architectures: &["NewForMaskedLM"],
            kind: HeadKind::Vocabulary(VocabularyNaming {
                norm: "lm_head.norm",
                activation: None,
                ..LM_HEAD
            }),
        },
        HeadClass { architectures: &["GteForMaskedLM"], kind: HeadKind::Vocabulary(LM_HEAD) },
    ],
};

/// The bias is the table's own.
const LM_HEAD: VocabularyNaming =
    VocabularyNaming { bias: "lm_head.decoder.bias", ..VocabularyNaming::LM_HEAD };

/// As transformers calls the tensors.
pub(super) const CURRENT: Family = Family {
    spec: |config, head| super::from_value::<GteConfig>(config)?.spec(QkvLayout::Split, Gate::Split, head),
    naming: &Naming { prefixes: &["", "gte."], ..ROTARY },
    ..PUBLISHED
};

#[derive(Deserialize)]
struct GteConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "eps")]
    layer_norm_eps: f32,
    #[serde(default = "layer_norm")]
    layer_norm_type: String,
    #[serde(default = "rope")]
    position_embedding_type: String,
    #[serde(default)]
    logn_attention_scale: bool,
    #[serde(default = "yes")]
    pack_qkv: bool,
    /// Written until transformers 4, like the next; 5 has `rope_parameters`.
    #[serde(default = "theta")]
    rope_theta: f64,
    #[serde(default)]
    rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    rope_parameters: Option<RopeParameters>,
}

fn gelu() -> String {
    "gelu".into()
}

fn layer_norm() -> String {
    "layer_norm".into()
}

fn rope() -> String {
    "rope".into()
}

const fn eps() -> f32 {
    1e-12
}

const fn yes() -> bool {
    true
}

const fn theta() -> f64 {
    160_000.0
}

impl GteConfig {
    fn spec(&self, qkv: QkvLayout, gate: Gate, head: Head) -> Result<EncoderSpec, FamilyError> {
        refuse_unless("layer_norm_type", self.layer_norm_type.as_str(), "layer_norm", "layer_norm")?;
        refuse_unless("position_embedding_type", self.position_embedding_type.as_str(), "rope", "rope")?;
        refuse_unless("logn_attention_scale", self.logn_attention_scale, false, "false")?;
        refuse_unless("pack_qkv", self.pack_qkv, true, "true")?;
        let blocks = PostNorm {
            vocab: self.vocab_size,
            hidden: ("hidden_size", self.hidden_size),
            layers: self.num_hidden_layers,
            heads: ("num_attention_heads", self.num_attention_heads),
            intermediate: self.intermediate_size,
            activation: ("hidden_act", &self.hidden_act),
            eps: self.layer_norm_eps,
        };
        let mut layer = blocks.layer()?;
        layer.attention.qkv = qkv;
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()).cloned().unwrap_or_default();
        layer.attention.rope = Some(rope.rope(self.rope_theta, layer.attention.head_dim)?);
        (layer.ffn.gate, layer.ffn.up_bias) = (Some(gate), false);
        let position = Position::InAttention { tokens_max: self.max_position_embeddings };
        let token_types = (self.type_vocab_size > 0).then_some(self.type_vocab_size);
        Ok(blocks.stack(layer, position, token_types, head))
    }
}
