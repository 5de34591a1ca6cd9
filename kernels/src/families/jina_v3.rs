//! XLM-R-flash (Sturua et al. 2024): jina-embeddings-v3 without its adapters and jina-colbert-v2: XLM-RoBERTa with rotary
//! positions; and jina-reranker-v2, which has XLM-RoBERTa's own positions and the same names.
//!
//! Fields and names: `configuration_xlm_roberta.py` and `modeling_xlm_roberta.py` of
//! jinaai/xlm-roberta-flash-implementation, and `transformers/models/jina_embeddings_v3/`, which has other names for the
//! same.

use serde::Deserialize;

use super::{
    Family, FamilyError, bert,
    bert::BertConfig,
    heads::{HeadClass, TANH_CLASSIFIER},
    names::Naming,
    post_norm::{ROTARY, refuse},
    rope::RopeParameters,
};
use crate::spec::{EncoderSpec, Head, Position, QkvLayout};

pub(super) const PUBLISHED: Family = Family {
    model_types: &["jina_embeddings_v3", "xlm-roberta"],
    architectures: &["XLMRobertaModel", "JinaEmbeddingsV3Model", "JinaEmbeddingsV3ForMaskedLM"],
    own_code: &[
        "modeling_xlm_roberta.XLMRobertaModel",
        "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
        "modeling_lora.XLMRobertaLoRA",
    ],
    spec: |config, head| super::from_value::<FlashConfig>(config)?.spec(QkvLayout::Fused, head),
    naming: &NAMING,
    heads: &[HeadClass {
        architectures: &["XLMRobertaForSequenceClassification", "JinaEmbeddingsV3ForSequenceClassification"],
        kind: TANH_CLASSIFIER,
    }],
};

const NAMING: Naming = Naming {
    prefixes: &["", "roberta."],
    embedding_norm: "emb_ln",
    layer: "encoder.layers",
    qkv: "mixer.Wqkv",
    attention_output: "mixer.out_proj",
    attention_norm: "norm1",
    ffn_up: "mlp.fc1",
    ffn_down: "mlp.fc2",
    ffn_norm: "norm2",
    ..bert::NAMING
};

/// As jina-embeddings-v3 was published: beside its adapters, of which none is applied where no task is told.
pub(super) const ADAPTED: Family = Family {
    naming: &Naming {
        token: "embeddings.word_embeddings.parametrizations.weight.original",
        token_type: "embeddings.token_type_embeddings.parametrizations.weight.original",
        matrix: "parametrizations.weight.original",
        made: &[".lora_A", ".lora_B"],
        ..NAMING
    },
    ..PUBLISHED
};

/// As transformers calls the tensors.
pub(super) const CURRENT: Family = Family {
    spec: |config, head| super::from_value::<FlashConfig>(config)?.spec(QkvLayout::Split, head),
    naming: &Naming { prefixes: &["", "roberta."], ffn_up: "mlp.fc1", ffn_down: "mlp.fc2", ..ROTARY },
    ..PUBLISHED
};

#[derive(Deserialize)]
struct FlashConfig {
    /// Written until transformers 4, like the next; 5 has `rope_parameters`.
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default = "theta")]
    rotary_emb_base: f64,
    #[serde(default)]
    rope_parameters: Option<RopeParameters>,
    #[serde(default = "one")]
    pad_token_id: usize,
    #[serde(flatten)]
    bert: BertConfig,
}

const fn one() -> usize {
    1
}

const fn theta() -> f64 {
    20_000.0
}

impl FlashConfig {
    fn spec(&self, qkv: QkvLayout, head: Head) -> Result<EncoderSpec, FamilyError> {
        let blocks = self.bert.post_norm();
        let mut layer = blocks.layer()?;
        layer.attention.qkv = qkv;
        let rows = self.bert.max_position_embeddings;
        let rope = self.rope_parameters.as_ref();
        let usual = if rope.is_some() { "rotary" } else { "absolute" };
        let position = match self.position_embedding_type.as_deref().unwrap_or(usual) {
            "rotary" => {
                let rope = rope.cloned().unwrap_or_default();
                let rope = rope.rope(self.rotary_emb_base, layer.attention.head_dim)?;
                layer.attention.rope = Some(rope);
                Position::InAttention { tokens_max: rows }
            }
            "absolute" => Position::Learned { rows, offset: self.pad_token_id.saturating_add(1) },
            other => return refuse("position_embedding_type", other, "rotary, absolute"),
        };
        Ok(blocks.stack(layer, position, self.bert.token_types(), head))
    }
}
